"""The inputs of a run, as a page may show them: no secrets, and only the name of a local path."""

from collections.abc import Mapping
from typing import Any

from components.shared.parameters.prior_grammar import parse_prior, with_uris
from components.shared.telling.addresses import public
from components.shared.telling.errors import InputError


def prior_asked_for(stats: Mapping[str, Any]) -> str:
    """Return the requested prior (``effects`` has no table), without local paths."""
    asked = str(stats.get("prior_asked_for", stats["prior"]["kind"]))
    try:
        return str(with_uris(parse_prior(asked), public))
    except InputError:  # the kind of a prior is no prior that can be requested
        return asked


def facts_of(stats: Mapping[str, Any]) -> dict[str, str]:
    """Return what a model is known by: prior, pretrained, recipe, seed."""
    own = {key: str(stats[key]) for key in ("recipe", "seed")}
    return {"prior": prior_asked_for(stats), "pretrained": public(stats["pretrained"])} | own
