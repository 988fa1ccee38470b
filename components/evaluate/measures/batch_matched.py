"""Scores of mean changes where measured cells are compared with the controls of their own batch.

cell-eval compares every cell with all controls of the line. Where batches differ and hold
perturbations unevenly, a part of each measured change is then the batches'. These are reported
beside its scores and take no part in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.measures.centred import row_correlations
from components.evaluate.measures.discrimination import discrimination_scores
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.matched_controls import batches_of, matched
from components.shared.artifacts.splits import TEST, Splits

Floats = NDArray[np.float64]

OF_MEANS = ("pearson_delta", "mae_delta", "discrimination_score_l1")
"""Those of mean changes among the headline's; the others are tests of cells against one pool."""


@dataclass(frozen=True)
class MatchedChange:
    """What the test line measured against controls of the same batch."""

    change: Floats
    """Mean change of each perturbation, [perturbations, genes], log1p of normalised counts."""
    share: float
    """Of the cells, how many have ten or more reference controls in their batch."""
    batches: int

    def scores(
        self, changes: Mapping[str, Floats], perturbations: Sequence[str], genes: Sequence[str]
    ) -> dict[str, Any]:
        """Return what `metrics.json` holds: by metric and prediction the mean over perturbations.

        ``changes`` are predicted, [perturbations, genes] each; the others are names of both.
        """
        scores: dict[str, Any] = {metric: {} for metric in OF_MEANS}
        for name, change in changes.items():
            told_apart = discrimination_scores(self.change, change, perturbations, genes, "l1")
            found = {
                "pearson_delta": row_correlations(change, self.change),
                "mae_delta": np.abs(change - self.change).mean(axis=1),
                "discrimination_score_l1": np.array(list(told_apart.values())),
            }
            for metric, values in found.items():
                some = bool(np.isfinite(values).any())
                scores[metric][name] = float(np.nanmean(values)) if some else None
        return scores | {"matched_cells": self.share, "batches": self.batches}


def matched_change(
    cells: Cells, splits: Splits, perturbations: Sequence[str]
) -> MatchedChange | None:
    """Measure the test line's perturbations against reference controls of the same batch.

    Cells whose batch has fewer than ten of those are compared with all of the line's. None where
    the test line's cells are in one batch, or in none that is known.
    """
    batches = batches_of(cells)
    rows, controls = splits.rows(TEST), splits.reference(splits.test_line)
    if batches is None or not len(rows):
        return None
    parts = list(matched(rows, controls, batches))
    known = [part for part in parts if part[0]]
    if len(known) < 2:
        return None
    place = {name: i for i, name in enumerate(perturbations)}
    labels = splits.table["perturbation"].to_numpy(str)[rows]
    groups = np.full(len(splits.table), -1)
    groups[rows] = [place.get(label, -1) for label in labels]
    change = cells.group_means(groups, len(perturbations))
    counts = np.bincount(groups[groups >= 0], minlength=len(perturbations))
    for _, own, places in parts:
        pool = np.full(len(splits.table), -1)
        pool[own] = 0
        of_batch = groups[rows[places]]
        share = np.bincount(of_batch[of_batch >= 0], minlength=len(perturbations)) / counts
        change -= np.outer(share, cells.group_means(pool, 1)[0])
    inside = sum(len(places) for _, _, places in known)
    return MatchedChange(change, inside / len(rows), len(known))
