"""Pseudobulks of the training lines, which go with the model, since cells do not.

A model that is applied to other cells brings along what its training lines showed, so that a
prediction can be set beside it, baselines can be made of it, and trust can be placed by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from components.shared.artifacts.cells import Cells
from components.shared.artifacts.matched_controls import batches_of, matched
from components.shared.artifacts.splits import TRAIN, Splits
from components.shared.storage.tensors import FAULTS, as_metadata, of_metadata, read_named
from components.shared.telling.errors import InputError, refusing, shortlist

TRAINING_EFFECTS_FILE = "training_effects.safetensors"
AGAIN = "fine-tune again"


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
    matched: bool = False
    """Whether each cell is compared with the controls of its own batch (`matched_controls`)."""

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
        names: dict[str, Any] = {
            "lines": self.lines,
            "perturbations": self.perturbations,
            "genes": self.genes,
        }
        if self.matched:
            names["matched"] = True
        tensors: dict[str, NDArray[Any]] = {
            "change": np.ascontiguousarray(self.change, np.float32),
            "cells": np.ascontiguousarray(self.cells, np.int64),
            "control": np.ascontiguousarray(self.control, np.float32),
        }
        save_file(tensors, path, metadata=as_metadata(names))

    @classmethod
    def read(cls, path: Path) -> "TrainingEffects":
        """Read what `write` wrote; anything else is refused."""
        with refusing(FAULTS, f"{path}: no training effects", f"; {AGAIN}"):
            names, tensors = read_named(path, "lines", "perturbations", "genes")
            found = cls(**names, **tensors)
        shape = len(found.lines), len(found.perturbations), len(found.genes)
        shapes = found.change.shape, found.cells.shape, found.control.shape
        if shapes != (shape, shape[:2], shape[::2]):
            raise InputError(f"{path}: names do not fit its tensors; fine-tune again")
        counts = (
            found.cells.dtype.kind == "i" and ((found.cells >= 0) & (found.cells < 2**40)).all()
        )
        if not counts or not np.isfinite(found.control).all() or np.isinf(found.change).any():
            raise InputError(
                f"{path}: has invalid cell counts or values that are not finite; {AGAIN}"
            )
        return found


def is_matched(path: Path) -> bool:
    """Return whether written changes are against the controls of each cell's own batch.

    Raises:
        InputError: the file is not what `TrainingEffects.write` wrote.
    """
    with (
        refusing(FAULTS, f"{path}: no training effects", f"; {AGAIN}"),
        safe_open(str(path), framework="numpy") as file,
    ):
        return "matched" in of_metadata(file.metadata() or {})


def training_effects(
    cells: Cells, splits: Splits, *, match_batches: bool = False
) -> TrainingEffects:
    """Measure the training cells of ``splits``, in one pass over the file; no test cell is read.

    With ``match_batches`` each cell is compared with the reference controls of its own batch, where
    cells have one and it has enough of them. Each training line needs reference controls.

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
    batches = batches_of(cells) if match_batches else None
    if batches is not None:
        _match(change.reshape(n_pairs, -1), cells, splits, control, pairs, batches)
    names = [str(line) for line in lines], [str(label) for label in perturbations]
    return TrainingEffects(
        *names, cells.genes, change, counts, control, matched=batches is not None
    )


def _match(
    change: NDArray[np.float64],
    cells: Cells,
    splits: Splits,
    control: NDArray[np.float64],
    pairs: NDArray[np.int64],
    batches: NDArray[np.str_],
) -> None:
    """Take ``change`` [pairs of line and perturbation, genes] against controls of cells' batches.

    It is changed in place. ``control`` is the mean of each training line's controls, lines sorted,
    [lines, genes]; ``pairs`` are of each training cell, ``batches`` of every cell.
    """
    rows = splits.rows(TRAIN)
    of_row = splits.table["cell_line"].to_numpy(str)[rows]
    groups = np.full(len(splits.table), -1)
    parts: list[tuple[int, NDArray[np.int64]]] = []
    for number, line in enumerate(np.unique(of_row)):
        own = np.flatnonzero(of_row == line)
        for batch, against, places in matched(rows[own], splits.reference(str(line)), batches):
            if batch:
                groups[against] = len(parts)
                parts.append((number, pairs[own[places]]))
    means = cells.group_means(groups, len(parts)) if parts else control[:0]
    counts = np.bincount(pairs, minlength=len(change))
    for (number, found), mean in zip(parts, means, strict=True):
        there, cells_there = np.unique(found, return_counts=True)
        share = cells_there / counts[there]
        change[there] -= share[:, None] * (mean - control[number])
