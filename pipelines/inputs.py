"""What a run's parameters name to be read: priors, URIs and local files."""

from collections.abc import Mapping
from typing import Any

from components.shared.pretrained import parse_pretrained
from components.shared.prior_grammar import parse_prior, uris


def is_comparison(params: Mapping[str, Any]) -> bool:
    """Return whether parameters are those of a comparison: it has priors, a run has one."""
    return "priors" in params


def priors_of(params: Mapping[str, Any]) -> list[str]:
    """Return the prior of a run, or the priors of a comparison."""
    return list(params["priors"]) if is_comparison(params) else [params.get("prior", "none")]


def input_uris(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the URIs and paths that parameters name to be read, by parameter.

    Raises:
        InputError: a prior that is not written as it must be.
    """
    name = "priors" if is_comparison(params) else "prior"
    split_file = (params.get("split_options") or {}).get("split_file", "")
    return {
        "dataset": [params["dataset"]],
        name: [uri for prior in priors_of(params) for uri in uris(parse_prior(prior))],
        "pretrained": [parse_pretrained(params["pretrained"]).vocabulary_uri],
        "split_options.split_file": [split_file],
    }
