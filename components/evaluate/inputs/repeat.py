"""The command that repeats the run of an evaluation, as far as its inputs know it."""

from collections.abc import Mapping
from typing import Any

from components.shared.artifacts.artifact import Artifact
from components.shared.parameters.repeat import make_command
from components.shared.parameters.stage_options import INGEST_OPTIONS, SPLIT_OPTIONS

BECAME = (
    ("dataset", "cells", "source"),
    ("perturbation_column", "cells", "perturbation_column"),
    ("cell_line_column", "cells", "cell_line_column"),
    ("control_label", "cells", "control"),
    ("train_lines", "splits", "train_lines"),
    ("test_line", "splits", "test_line"),
    ("prior", "gene_prior", "uri"),
    ("pretrained", "gene_prior", "vocabulary"),
    ("seed", "splits", "seed"),
)
"""Pipeline parameter, the artifact that knows it, and the parameter of that one's task."""
EMPTY: tuple[Any, ...] = (None, "", [], (), {})
"""Values of options that were not given, as artifacts and as signatures spell them."""


def repeat_command(inputs: Mapping[str, Artifact]) -> str:
    """Return the `make run` line, empty where nothing says where the cells or the model are from.

    What the training was told (recipe, overrides) is in the model's `training_stats.json`, which
    an evaluation does not see: the line leaves it to the parameter file. ``inputs`` are the
    evaluation's: cells, splits, predictions and, where one was given, gene_prior.
    """
    given = {name: artifact.provenance["parameters"] for name, artifact in inputs.items()}
    cells, splits = given["cells"], given["splits"]
    if "source" not in cells or splits.get("train_lines") == []:  # a finished model was applied
        return ""
    found = {name: given[of][own] for name, of, own in BECAME if own in given.get(of, {})}
    for name, own, defaults in (
        ("ingest_options", cells, INGEST_OPTIONS),
        ("split_options", splits, SPLIT_OPTIONS),
    ):
        if said := {
            key: own[key] for key in defaults if key in own and _told(own[key], defaults[key])
        }:
            found[name] = said
    return make_command("run", found, "<parameter file of the run>")


def _told(value: Any, usual: Any) -> bool:
    """Return whether an option must be said: it is not the default."""
    return value != usual and not (value in EMPTY and usual in EMPTY)
