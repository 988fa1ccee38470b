"""The predictions artifact: one self-contained h5ad, readable by anyone with anndata.

`X` = predicted, `layers["truth"]` = measured expression, both log1p of counts per 10,000 and in
the same cell order; `obs` has perturbation, cell_line, is_control and seen_in_training; the real
reference controls of the test line are rows of their own (`X` equals the truth there).
`varm["predicted_mean"]` holds the predicted means, float32 [genes, perturbations]; the cells of a
perturbation in `X` have that mean. `uns` names the label column (`perturbation_column`), the
control label (`control`), the perturbations of the means' columns (`perturbations`) and what the
cells in `X` are (`predicted_cells`): `rank` = real control cells of the test line, mapped by rank
to the mean; `denoised` = the model's output, cell by cell. A model that was given known effects has
`varm["known_mean"]` too: what those effects come to without the model.

The user requests the perturbations, so not all of them were measured: see `obs["measured"]`. A
perturbation without measured cells has predicted cells too, named `<perturbation>-<number>`, whose
rows of the truth are empty. If no perturbed cell was measured, there is no layer `truth` at all.

Next to the h5ad are `perturbations.parquet`, a row for each requested perturbation (see
`PERTURBATION_COLUMNS`), and the model's own files about its training lines:
`training_effects.safetensors` and `confidence.json`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from anndata.io import sparse_dataset

from components.shared.artifacts.artifact import PREDICTIONS, Artifact, opening
from components.shared.storage.hdf5 import check_csr, opened_hdf5, read_frame, read_part
from components.shared.telling.errors import InputError

PREDICTIONS_FILE = "scgpt_replogle_test.h5ad"
AGAIN = "run the predict task again"
TRUTH = "truth"
MEANS = "predicted_mean"
KNOWN_MEANS = "known_mean"
PERTURBATIONS = "perturbations"
CELLS_KIND = "predicted_cells"
MATCH_BATCHES = "match_batches"
"""Entry of the summary: whether cells are made from controls of the batch of the measured cell that
they stand for."""
NOT_PREDICTED = "genes_not_predicted"
"""Entry of uns: genes that the model does not know, which keep the control cell's value."""
MEASURED = "measured"
"""Column of obs: whether a row of the truth is a measurement."""

PERTURBATIONS_FILE = "perturbations.parquet"
PERTURBATION_COLUMNS = {
    "perturbation": "as requested, in the order of the means' columns",
    "cells": "predicted cells",
    "measured_cells": "cells of it that were measured in the test line",
    "training_lines": "training lines that have it, with commas between",
    "training_cells": "its cells in them",
    "known": "how its effect is known: measured, summed, near by, mean; see `confidence`",
    "flagged": "whether the model can identify the gene",
    "target_measured": "whether all its genes are among the measured ones",
    "agreement": "of the training lines' deltas, as a share of what their noise allows",
    "control_similarity": "of the test line's controls to those of the nearest training line",
    "expected_pearson_delta": "what a measurement would find, as far as training lines tell",
    "expected_low": "lower end of its 80 % interval",
    "expected_high": "upper end of it",
}
"""Columns of `perturbations.parquet`; NaN where something cannot be said."""


@dataclass(frozen=True)
class Predictions:
    """An opened predictions artifact."""

    artifact: Artifact

    @classmethod
    def open(cls, path: Path | str) -> "Predictions":
        """Check the artifact folder at ``path`` and return it."""
        return cls(opening(path, PREDICTIONS))

    @property
    def file(self) -> Path:
        """The h5ad file."""
        return self.artifact.path / PREDICTIONS_FILE

    @cached_property
    def anndata(self) -> AnnData:
        """The predictions in memory."""
        with opened_hdf5(self.file, str(self.file)):
            return anndata.read_h5ad(self.file)

    @cached_property
    def on_disk(self) -> AnnData:
        """The predictions with X and the truth left in the file, which stays open.

        Raises:
            InputError: a part that is missing, cannot be read or does not fit the others.
        """
        name = str(self.file)
        file = opened_hdf5(self.file, name)
        kept: dict[str, Any] = {x: read_frame(file, x, name, AGAIN) for x in ("obs", "var")}
        shape = len(kept["obs"]), len(kept["var"])
        kept |= {x: _table(file, x, name) for x in ("uns", "varm")}
        for key, values in kept["varm"].items():
            if np.ndim(values) != 2 or len(values) != shape[1] or values.dtype.kind != "f":
                raise InputError(f"{name}: varm/{key} does not have one number per gene; {AGAIN}")
        found = {
            part: _matrix(file[part], shape, f"{name}: {part}")
            for part in ("X", f"layers/{TRUTH}")
            if part in file
        }
        layers = {part.removeprefix("layers/"): found[part] for part in found if part != "X"}
        return AnnData(found.get("X"), layers=layers, **kept)


def _table(file: h5py.File, key: str, name: str) -> dict[str, Any]:
    found = read_part(file, key, name, AGAIN) if key in file else {}
    if not isinstance(found, dict):
        raise InputError(f"{name}: {key} holds no parts by name; {AGAIN}")
    return found


def _matrix(part: Any, shape: tuple[int, int], name: str) -> Any:
    """Return a matrix that stays in its file: dense, or CSR with parts that fit each other."""
    if not isinstance(part, h5py.Dataset):
        check_csr(part, shape, name, AGAIN)
        return sparse_dataset(part)
    if part.shape != shape or part.dtype.kind != "f":
        raise InputError(f"{name} is {part.dtype} {part.shape}, not numbers {shape}; {AGAIN}")
    return part
