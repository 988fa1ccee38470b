"""What a run was made of, as a page may say it: no secrets, and of a local path only its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from components.shared.parameters.prior_grammar import parse_prior, with_uris
from components.shared.storage.downloads import shown
from components.shared.storage.files import scheme_of
from components.shared.telling.errors import InputError

JOIN = " + "
"""What ingest writes between several sources."""


def public(uri: str) -> str:
    """Return a URI, or several joined by `JOIN`, as a page that is passed on may show it."""
    return JOIN.join(_public(one) for one in uri.split(JOIN))


def _public(uri: str) -> str:
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return f"local file {Path(uri).name}"
    if scheme == "random":
        size, _, vocabulary = uri.partition("?vocabulary=")
        return (
            f"{size} with the vocabulary of {_public(unquote(vocabulary))}" if vocabulary else size
        )
    return shown(uri)


def prior_asked_for(stats: Mapping[str, Any]) -> str:
    """Return the requested prior (``effects`` has no table), without local paths.

    Args:
        stats: a model's `training_stats.json`.
    """
    asked = str(stats.get("prior_asked_for", stats["prior"]["kind"]))
    try:
        return str(with_uris(parse_prior(asked), public))
    except InputError:  # the kind of a prior is no prior that can be requested
        return asked


def facts_of(source: str, stats: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run is known by: dataset, prior, pretrained, recipe, seed.

    Args:
        source: where the cells are from; empty = not known.
        stats: a model's `training_stats.json`; empty = not known.
    """
    found = {"dataset": public(source)} if source else {}
    if not stats:
        return found
    own = {key: str(stats[key]) for key in ("recipe", "seed") if key in stats}
    return (
        found | {"prior": prior_asked_for(stats), "pretrained": public(stats["pretrained"])} | own
    )
