"""What the training lines measured, as pseudobulks: it goes with the model, since cells do not.

A model that is applied to other cells brings along what its training lines showed, so that a
prediction can be set beside it, baselines can be made of it, and trust can be placed by it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from components.shared.cells import Cells
from components.shared.documents import check_names
from components.shared.errors import InputError, shortlist
from components.shared.splits import TRAIN, Splits

TRAINING_EFFECTS_FILE = "training_effects.safetensors"
FAULTS = (
    SafetensorError,
    RecursionError,
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What a table of another shape makes the reader raise."""


@dataclass(frozen=True)
class TrainingEffects:
    """Pseudobulk deltas of the training lines, log1p of counts per 10,000."""

    lines: list[str]
    perturbations: list[str]
    """Those that at least one line has, sorted; the control is none."""
    genes: list[str]
    change: NDArray[np.floating]
    """Mean of a perturbation's training cells less that of its line's reference controls, [lines,
    perturbations, genes]; NaN where a line does not have it."""
    cells: NDArray[np.int64]
    """Training cells, [lines, perturbations]."""
    control: NDArray[np.floating]
    """Mean of each line's reference controls, [lines, genes]."""

    def lines_of(self, perturbation: str) -> list[str]:
        """Return the lines that have cells of ``perturbation``, in the order of `lines`."""
        if perturbation not in self.perturbations:
            return []
        there = self.cells[:, self.perturbations.index(perturbation)] > 0
        return [line for line, has in zip(self.lines, there, strict=True) if has]

    def of(
        self, line: str, perturbations: Sequence[str], genes: Sequence[str]
    ) -> NDArray[np.floating]:
        """Return a line's changes, [perturbations, genes]; NaN where it has none, or no gene."""
        found = np.full((len(perturbations), len(genes)), np.nan, self.change.dtype)
        row = pd.Index(self.perturbations).get_indexer(pd.Index(perturbations))
        column = pd.Index(self.genes).get_indexer(pd.Index(genes))
        there, known = row >= 0, column >= 0
        change = self.change[self.lines.index(line)]
        found[np.ix_(there, known)] = change[np.ix_(row[there], column[known])]
        return found

    def write(self, path: Path) -> None:
        """Write it as three tensors, deltas and controls in 32 bits, the names as metadata."""
        names = {"lines": self.lines, "perturbations": self.perturbations, "genes": self.genes}
        tensors: dict[str, NDArray[Any]] = {
            "change": np.ascontiguousarray(self.change, np.float32),
            "cells": np.ascontiguousarray(self.cells, np.int64),
            "control": np.ascontiguousarray(self.control, np.float32),
        }
        save_file(tensors, path, metadata={key: json.dumps(value) for key, value in names.items()})

    @classmethod
    def read(cls, path: Path) -> "TrainingEffects":
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing or not what was written.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                names = {key: json.loads(value) for key, value in file.metadata().items()}
                check_names(names, "lines", "perturbations", "genes")
                found = cls(**names, **{key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except FAULTS as error:
            raise InputError(f"{path}: no training effects ({error}); fine-tune again") from None
        shape = len(found.lines), len(found.perturbations), len(found.genes)
        shapes = found.change.shape, found.cells.shape, found.control.shape
        if shapes != (shape, shape[:2], shape[::2]):
            raise InputError(f"{path}: names do not fit its tensors; fine-tune again")
        return found


def training_effects(cells: Cells, splits: Splits) -> TrainingEffects:
    """Measure the training cells of ``splits``, in one pass over the file; no test cell is read.

    Raises:
        InputError: no training cells, or a training line without reference controls.
    """
    table = splits.table
    rows = splits.rows(TRAIN)
    if not len(rows):
        raise InputError(f"{splits.artifact.path}: no training cells, so there are no baselines")
    train = table.iloc[rows]
    line_of, lines = pd.factorize(train["cell_line"].to_numpy(str), sort=True)
    perturbation_of, perturbations = pd.factorize(train["perturbation"].to_numpy(str), sort=True)
    shape = len(lines), len(perturbations)
    pairs = line_of * shape[1] + perturbation_of
    groups = np.full(len(table), -1)
    groups[rows] = pairs
    n_pairs = shape[0] * shape[1]
    for number, line in enumerate(lines):
        groups[splits.reference(str(line))] = n_pairs + number
    means = cells.group_means(groups, n_pairs + len(lines))
    control = means[n_pairs:]
    if empty := [
        str(line) for line, mean in zip(lines, control, strict=True) if np.isnan(mean).any()
    ]:
        raise InputError(
            f"{splits.artifact.path}: no control cells of line {shortlist(empty)}; deltas need "
            "reference controls of each training line"
        )
    change = means[:n_pairs].reshape(*shape, -1) - control[:, None]
    counts = np.bincount(pairs, minlength=n_pairs).reshape(shape)
    names = [str(line) for line in lines], [str(label) for label in perturbations]
    return TrainingEffects(*names, cells.genes, change, counts, control)
