"""The pipeline that parameters belong to, and the inputs that they name."""

from collections.abc import Mapping
from typing import Any

import yaml

from components.shared.parameters.datasets import files
from components.shared.parameters.perturbation_list import names_a_file
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.prior_grammar import parse_prior, uris

NOT_YAML = (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError, RecursionError)
"""What PyYAML raises: errors of its own, and those of entries such as 2020-13-45 or !!bool x."""


def is_comparison(params: Mapping[str, Any]) -> bool:
    """Return whether parameters are those of a comparison: it has priors, a run has one."""
    return "priors" in params


def is_prediction(params: Mapping[str, Any]) -> bool:
    """Return whether parameters are those of a prediction by a finished model."""
    return "model" in params


def priors_of(params: Mapping[str, Any]) -> list[str]:
    """Return the prior of a run, the priors of a comparison, none of a prediction."""
    if is_prediction(params):
        return []
    return list(params["priors"]) if is_comparison(params) else [params.get("prior", "none")]


def input_uris(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the URIs and paths that parameters name to be read, by parameter.

    Raises:
        InputError: a prior, or a list of files, that is not written as it must be.
    """
    options = params.get("split_options") or {}
    found = {"dataset": files(params.get("dataset", ""))}
    if is_prediction(params):
        found["model"] = [params["model"]]
    else:
        name = "priors" if is_comparison(params) else "prior"
        found[name] = [uri for prior in priors_of(params) for uri in uris(parse_prior(prior))]
        found["pretrained"] = [parse_pretrained(params["pretrained"]).vocabulary_uri]
    asked = params.get("perturbations") or []
    return found | {
        "perturbations": [
            entry for entry in asked if isinstance(entry, str) and names_a_file(entry)
        ],
        "split_options.split_file": [options.get("split_file", "")],
        "split_options.aliases": [options.get("aliases", "")],
    }
