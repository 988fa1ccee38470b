"""Cells out of a predicted mean: control cells of the same line, mapped to it gene by gene.

A model that is trained on the squared error of cells predicts means: its output hardly varies from
cell to cell. A test on cells (differential expression) then asks where that value lies among the
controls, not what changed. Real control cells have the spread, the zeros and the correlation of
genes that such a test needs; mapped to the predicted mean they keep them.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from components.shared.artifacts.matched_controls import matched

RANK = "rank"
"""Control cells mapped by rank to the predicted mean."""
DENOISED = "denoised"
"""The model's output, cell by cell."""
PREDICTED_CELLS = (RANK, DENOISED)

HIGHEST = 14.999
"""cell-eval refuses values below 0 and from 15 up."""

ROUNDING = 1e-6
"""About what 32 bits cannot tell apart near 15."""

ENTRIES_AT_ONCE = 2**19
"""Cells x genes mapped at a time; it is part of what a seed means, so leave it as it is."""

Floats = NDArray[np.float32]


def draw_partners(labels: NDArray[np.str_], n_controls: int, seed: int) -> NDArray[np.int64]:
    """Draw a control cell for each cell, without replacement within a perturbation if it can be.

    A perturbation's mean then strays as little as can be from the mean of the control pool. Each
    perturbation has a draw of its own, whatever others there are. Of the cells' perturbations,
    [cells], come positions in the control pool, [cells].
    """
    partners = np.empty(len(labels), np.int64)
    unique, number = np.unique(labels, return_inverse=True)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number))[:-1]
    for label, cells in zip(unique, np.split(order, ends), strict=True):
        rng = generator_of(label, seed, 4)
        rounds = -(-len(cells) // n_controls)
        pool = np.concatenate([rng.permutation(n_controls) for _ in range(rounds)])
        partners[cells] = pool[: len(cells)]
    return partners


def draw_matched_partners(
    labels: NDArray[np.str_], batches: NDArray[np.str_], of_controls: NDArray[np.str_], seed: int
) -> NDArray[np.int64]:
    """Draw as `draw_partners` does, for each cell from the controls of its own batch.

    ``batches`` are those of the cells, [cells]; one that is unknown, or has too few controls (see
    `matched`), leaves the whole pool. ``of_controls`` are those of the controls, [controls].
    """
    cells = np.arange(len(labels))
    pool = len(cells) + np.arange(len(of_controls))
    partners = np.empty(len(cells), np.int64)
    for _, own, places in matched(cells, pool, np.concatenate([batches, of_controls])):
        drawn = draw_partners(labels[places], len(own), seed)
        partners[places] = own[drawn] - len(cells)
    return partners


def generator_of(label: str, seed: int, purpose: int) -> np.random.Generator:
    """Return the random generator of one perturbation's draw for one purpose."""
    digest = hashlib.sha256(str(label).encode()).digest()
    return np.random.default_rng([seed, purpose, int.from_bytes(digest[:8], "big")])


def rank_cells(controls: Floats, means: NDArray[np.floating], rng: np.random.Generator) -> Floats:
    """Map control cells to a mean, gene by gene, keeping which cell has more of a gene than which.

    A gene with share z of zeros and mean m is given the share z^(m'/m) for the mean m' (what
    Poisson counts would have; no change where m' = m). Its other values keep the shape of their
    distribution and are scaled to the mean. Zeros that become values, or the reverse where
    values tie, are chosen at random, apart for each gene.

    Args:
        controls: log1p of counts per 10,000, from 0 to below 15, [cells, genes].
        means: predicted mean of each gene, from 0 to `HIGHEST`, [genes].
        rng: breaks ties.

    Returns:
        Cells with these means, from 0 to below 15, each from the control cell of its row; those
        of the controls where the means are the controls', [cells, genes].
    """
    cells = np.empty_like(controls)
    # What one count would be in each cell: the value for genes that none of the controls has.
    least = np.where(controls > 0, controls, np.inf).min(axis=1)
    found = np.isfinite(least)
    one_count = np.where(found, least, least[found].mean() if found.any() else 1.0)
    step = max(ENTRIES_AT_ONCE // len(controls), 1)
    for start in range(0, controls.shape[1], step):
        part = slice(start, start + step)
        genes = controls[:, part].T.copy()  # a gene's cells side by side
        cells[:, part] = _mapped(genes, one_count, means[part], rng).T
    return cells


def _mapped(
    values: Floats, one_count: Floats, means: NDArray[np.floating], rng: np.random.Generator
) -> Floats:
    """Map genes [genes, cells] to ``means`` [genes]; ``one_count`` [cells]."""
    n = values.shape[1]
    zero = values == 0
    order = np.argsort(np.where(zero, -rng.random(values.shape, np.float32), values), axis=1)
    silent = zero.all(axis=1)
    values[silent] = one_count
    positive = np.where(silent, n, n - zero.sum(axis=1))
    wanted = _positive(values, means, positive, silent)

    # Quantiles of the positive values, as many as are wanted; the same values where none is more.
    ordered = np.take_along_axis(values, order, axis=1)
    stretch = positive / np.maximum(wanted, 1)
    place = (np.arange(n) - (n - wanted)[:, None] + 0.5) * stretch[:, None] - 0.5
    place = (n - positive)[:, None] + np.clip(place, 0, (positive - 1)[:, None])
    low = place.astype(np.int64)
    share = (place - low).astype(np.float32)
    below = np.take_along_axis(ordered, low, axis=1)
    above = np.take_along_axis(ordered, np.minimum(low + 1, n - 1), axis=1)
    shaped = below + share * (above - below)
    shaped[np.arange(n) < (n - wanted)[:, None]] = 0

    cells = np.empty_like(values)
    np.put_along_axis(cells, order, _scaled(shaped, means, wanted), axis=1)
    return cells


def _positive(
    values: Floats,
    means: NDArray[np.floating],
    positive: NDArray[np.int64],
    silent: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return how many cells of each gene are to be above 0 for its mean, [genes]."""
    n = values.shape[1]
    ratio = means / values.mean(axis=1, dtype=np.float64)
    share = np.where(silent, ratio, 1 - (1 - positive / n) ** ratio)
    fewest = np.maximum(np.ceil(n * means / HIGHEST), 1)
    wanted = np.clip(np.rint(n * share), fewest, n)
    return np.where(means > 0, wanted, 0).astype(np.int64)


def _scaled(
    shaped: Floats, means: NDArray[np.floating], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Scale the positive values of genes [genes, cells] to the means, none above `HIGHEST`."""
    n = shaped.shape[1]
    now = shaped.mean(axis=1, dtype=np.float64)
    factor = np.divide(means, now, out=np.zeros_like(now), where=now > 0)
    cells = shaped * factor[:, None]
    top = cells.max(axis=1)
    high = np.flatnonzero(top > HIGHEST + ROUNDING)
    if len(high):  # drawn in towards the mean of the positive ones, which stays as it is
        middle = means[high] * n / wanted[high]
        inward = (HIGHEST - middle) / (top[high] - middle)
        drawn = middle[:, None] + (cells[high] - middle[:, None]) * inward[:, None]
        cells[high] = np.where(cells[high] > 0, drawn, 0)
    return cells
