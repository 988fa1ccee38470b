"""What a model has to beat: predictions that need no model, from training cells alone.

Ahlmann-Eltze (Nature Methods 2025) and Systema (Nature Biotechnology 2025) found such baselines
level with, or ahead of, deep models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from components.evaluate.pair import Pair
from components.shared.cells import Cells
from components.shared.errors import InputError, shortlist
from components.shared.rank_cells import draw_partners, rank_cells
from components.shared.splits import TRAIN, Splits

CONTROL_MEAN = "control_mean"
MEAN_DELTA = "mean_delta"
SAME_PERTURBATION_DELTA = "same_perturbation_delta"
BASELINES = (CONTROL_MEAN, MEAN_DELTA, SAME_PERTURBATION_DELTA)

SEED = 0
"""Draws the control cells that baselines are mapped from."""

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


def baseline_means(
    training: Training, perturbations: list[str]
) -> tuple[dict[str, Floats], list[str]]:
    """Return each baseline's mean for each perturbation, and which perturbations fell back.

    Returns:
        Means by baseline, each of shape [perturbations, genes], clipped to >= 0; and the
        perturbations that no training line has, which get the mean delta instead of their own.
    """
    mean = training.mean_delta()
    own = [training.delta_of(label) for label in perturbations]
    deltas = {
        CONTROL_MEAN: np.zeros((len(perturbations), len(mean))),
        MEAN_DELTA: np.tile(mean, (len(perturbations), 1)),
        SAME_PERTURBATION_DELTA: np.array([mean if delta is None else delta for delta in own]),
    }
    fallbacks = [label for label, delta in zip(perturbations, own, strict=True) if delta is None]
    return {k: np.maximum(training.control + delta, 0.0) for k, delta in deltas.items()}, fallbacks


def baseline_pairs(
    pair: Pair, means: dict[str, Floats], genes: list[str], controls: csr_matrix | None = None
) -> Iterator[tuple[str, Pair]]:
    """Yield (name, pair) with a baseline in the model's place, one at a time.

    Args:
        pair: gives the cells, their labels and the measured expression.
        means: from `baseline_means` for ``pair.perturbations``.
        genes: genes of the columns of ``means`` and ``controls``.
        controls: basal controls of the test line to be mapped to the means by rank, as a model's
            are, [controls, genes]; None = the mean in every cell of a perturbation.

    Raises:
        InputError: a predicted gene is not among ``genes``.
    """
    columns = pd.Index(genes).get_indexer(pd.Index(pair.genes))
    if (columns < 0).any():
        missing = [gene for gene, at in zip(pair.genes, columns, strict=True) if at < 0]
        raise InputError(f"predictions: gene {shortlist(missing)} is not in the cells artifact")
    number = pd.Index(pair.perturbations).get_indexer(pd.Index(pair.labels))
    pool = None if controls is None else controls[:, columns]
    for name, mean in means.items():
        if pool is None:
            predicted = _broadcast(pair, mean[:, columns], number)
        else:
            predicted = _ranked(pair, mean[:, columns], number, pool)
        yield name, pair.with_prediction(predicted)


def _broadcast(pair: Pair, mean: Floats, number: NDArray[np.int64]) -> NDArray[np.float32]:
    """Put the mean of perturbation ``number`` [cells] into every cell; keep controls (-1)."""
    perturbed = number >= 0
    predicted = np.empty(pair.measured.shape, dtype=np.float32)
    predicted[perturbed] = mean.astype(np.float32)[number[perturbed]]
    controls = pair.measured[~perturbed]
    predicted[~perturbed] = controls.toarray() if issparse(controls) else controls
    return predicted


def _ranked(pair: Pair, mean: Floats, number: NDArray[np.int64], pool: csr_matrix) -> csr_matrix:
    """Map cells of the pool to the mean of perturbation ``number`` [cells]; keep controls (-1)."""
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], np.arange(len(mean) + 1))
    parts = [csr_matrix(pair.measured[order[: first[0]]])]
    partners = draw_partners(pair.labels[order[first[0] :]], pool.shape[0], SEED)
    rng = np.random.default_rng(SEED)
    for row, (start, stop) in enumerate(pairwise(first - first[0])):
        cells = pool[partners[start:stop]].toarray()
        parts.append(csr_matrix(rank_cells(cells, mean[row], rng)))
    return vstack(parts, format="csr")[np.argsort(order)]
