"""Effects in the training lines, and the test line's controls: no test cell is used."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.cells import Cells
from components.shared.artifacts.splits import TRAIN, Splits
from components.shared.artifacts.training_effects import (
    TRAINING_EFFECTS_FILE,
    TrainingEffects,
    is_matched,
    training_effects,
)
from components.shared.telling.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """Pseudobulk deltas of the training lines and the test line's basal controls."""

    control: Floats
    """Mean of the test line's basal controls, shape [genes], log1p of counts per 10,000."""
    labels: list[str]
    """Perturbation of each delta."""
    deltas: Floats
    """Mean of the training cells of a line less its reference controls, shape [deltas, genes]."""

    @classmethod
    def of(cls, effects: TrainingEffects, control: Floats, genes: Sequence[str]) -> "Training":
        """Take the deltas on ``genes``, those of ``control``; 0 for one that training lacks."""
        lines, labels = np.nonzero(effects.cells)
        found = effects.change[lines, labels]
        if list(genes) != effects.genes:
            columns = pd.Index(effects.genes).get_indexer(pd.Index(genes))
            found = np.where(columns >= 0, found[:, columns], 0.0)
        names = [effects.perturbations[label] for label in labels]
        return cls(control, names, np.asarray(found, np.float64))

    @cached_property
    def perturbations(self) -> list[str]:
        """Perturbations that some training line has, sorted."""
        return sorted(set(self.labels))

    def mean_delta(self) -> Floats:
        """Return the mean over all (line, perturbation) pairs, shape [genes]."""
        return self.deltas.mean(axis=0)

    def delta_of(self, perturbation: str) -> Floats | None:
        """Return the mean over lines of a perturbation's deltas, None if no line has it."""
        rows = [row for row, label in enumerate(self.labels) if label == perturbation]
        return self.deltas[rows].mean(axis=0) if rows else None


def no_training(splits: Splits) -> InputError:
    """Return what to raise where baselines are needed and nothing is known of training."""
    return InputError(
        f"{splits.artifact.path}: no training cells, and the model brought no "
        f"{TRAINING_EFFECTS_FILE}, so there are no baselines; fine-tune it with this version"
    )


def known_of_training(cells: Cells, splits: Splits, predictions: Path) -> TrainingEffects | None:
    """Return what training lines showed, None where neither cells nor predictions tell of it.

    It is measured on the training cells of ``splits``, against controls of their own batch where
    the model's were; where a finished model was applied to cells of another line alone, it comes
    with its predictions.

    Raises:
        InputError: a training line without reference controls, or a file that cannot be read.
    """
    carried = predictions / TRAINING_EFFECTS_FILE
    there = carried if carried.is_file() else None
    if len(splits.rows(TRAIN)):
        return training_effects(
            cells, splits, match_batches=there is not None and is_matched(there)
        )
    return TrainingEffects.read(there) if there else None


def basal_mean(cells: Cells, splits: Splits) -> Floats:
    """Return the mean of the test line's basal controls, [genes].

    The reference half is what deltas are measured against: a mean of the same cells would share
    its noise.
    """
    # A pass of its own: where pools are not halved, a control can be basal and reference too.
    basal = np.full(len(splits.table), -1)
    basal[splits.basal(splits.test_line)] = 0
    control = cells.group_means(basal, 1)[0]
    if np.isnan(control).any():
        raise InputError(
            f"{splits.artifact.path}: no control cells of line '{splits.test_line}'; baselines "
            "need basal controls of the test line"
        )
    return control
