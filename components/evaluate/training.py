"""What training cells say of perturbations, as pseudobulks: no test cell is looked at."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.cells import Cells
from components.shared.errors import InputError, shortlist
from components.shared.splits import TRAIN, Splits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """Pseudobulks of the splits' training cells and of the test line's basal controls."""

    control: Floats
    """Mean of the test line's basal controls, shape [genes], log1p of counts per 10,000."""
    pairs: list[tuple[str, str]]
    """(line, perturbation) of each delta."""
    deltas: Floats
    """Mean of the training cells less that line's reference controls, shape [pairs, genes]."""

    @cached_property
    def perturbations(self) -> list[str]:
        """Perturbations that some training line has, sorted."""
        return sorted({label for _, label in self.pairs})

    def mean_delta(self) -> Floats:
        """Return the mean over all (line, perturbation) pairs, shape [genes]."""
        return self.deltas.mean(axis=0)

    def delta_of(self, perturbation: str) -> Floats | None:
        """Return the mean over lines of a perturbation's deltas, None if no line has it."""
        rows = [row for row, (_, label) in enumerate(self.pairs) if label == perturbation]
        return self.deltas[rows].mean(axis=0) if rows else None


def training_pseudobulks(cells: Cells, splits: Splits) -> Training:
    """Return training deltas and the test line's control mean, in one pass over the cells.

    The control mean is of the basal half: the reference half is what deltas are measured against,
    and a mean of the same cells would share its noise.

    Raises:
        InputError: no training cells, or a line without controls.
    """
    table = splits.table
    rows = splits.rows(TRAIN)
    train = table.iloc[rows][["cell_line", "perturbation"]].astype(str)
    pairs = pd.MultiIndex.from_frame(train.drop_duplicates().sort_values(list(train.columns)))
    if not len(pairs):
        raise InputError(f"{splits.artifact.path}: no training cells, so there are no baselines")
    lines = sorted(set(pairs.get_level_values(0)))
    groups = np.full(len(table), -1)
    groups[rows] = pairs.get_indexer(pd.MultiIndex.from_frame(train))
    for number, line in enumerate(lines):
        groups[splits.reference(line)] = len(pairs) + number
    means = cells.group_means(groups, len(pairs) + len(lines))
    # A pass of its own: where pools are not halved, a control can be in both groups.
    basal = np.full(len(table), -1)
    basal[splits.basal(splits.test_line)] = 0
    control = cells.group_means(basal, 1)[0]
    checked = zip([*lines, splits.test_line], [*means[len(pairs) :], control], strict=True)
    empty = [line for line, mean in checked if np.isnan(mean).any()]
    if empty:
        raise InputError(
            f"{splits.artifact.path}: no control cells of line {shortlist(empty)}; baselines need "
            "reference controls of each training line and basal controls of the test line"
        )
    own = len(pairs) + np.searchsorted(lines, pairs.get_level_values(0))
    return Training(control, list(pairs), means[: len(pairs)] - means[own])
