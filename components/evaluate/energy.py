"""Mean Euclidean distances between cells, for the energy distance, from float32 products.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y is exact in float32 to about 1e-7 as long as the three terms do
not nearly cancel. Distances do not change when a mean is taken from every cell, and then x.y is
small beside the squares; the few pairs that are close all the same are computed from their
differences. Sums are in float64.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

ROWS = 512
"""Cells per matrix product."""
CLOSE = 1e-3
"""Pairs whose squared distance is a smaller share of |x|^2 + |y|^2 are computed anew."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Centred:
    """Cells less a mean, float32 [cells, genes], and their squared norms, float64 [cells]."""

    values: Floats
    norms: NDArray[np.float64]

    @classmethod
    def of(cls, cells: NDArray[np.floating], mean: NDArray[np.floating]) -> "Centred":
        """Take ``mean`` [genes] from dense cells [cells, genes]."""
        values = np.subtract(cells, mean.astype(cells.dtype)).astype(np.float32, copy=False)
        return cls(values, _norms(values))

    def rows(self, start: int, stop: int) -> "Centred":
        """Return some of the cells, without a copy."""
        return Centred(self.values[start:stop], self.norms[start:stop])


def mean_distances(x: Centred, y: Centred) -> NDArray[np.float64]:
    """Return the mean distance of each cell of ``x`` to the cells of ``y``, [cells of x]."""
    sums = np.empty(len(x.norms))
    for start in range(0, len(sums), ROWS):
        part = x.rows(start, start + ROWS)
        sums[start : start + ROWS] = _sums_of_distances(part, y)
    return sums / len(y.norms)


def mean_distance_within(
    x: Centred, mapped: Callable[[Callable[[int], float], Iterable[int]], Iterable[float]] = map
) -> float:
    """Return the mean distance over all pairs of cells, a cell and itself among them.

    Args:
        x: the cells.
        mapped: `map`, or that of a thread pool.
    """

    def rows(start: int) -> float:
        part = x.rows(start, start + ROWS)
        before = _sums_of_distances(part, x.rows(0, start)).sum()
        return float(2 * before + _sums_of_distances(part, part).sum())

    return sum(mapped(rows, range(0, len(x.norms), ROWS))) / len(x.norms) ** 2


def _sums_of_distances(x: Centred, y: Centred) -> NDArray[np.float64]:
    return _sums(x.values @ y.values.T, x.values, x.norms, y.values, y.norms)


@njit(nogil=True)
def _norms(values: Any) -> Any:
    norms = np.zeros(len(values))
    for i in range(len(values)):
        for j in range(values.shape[1]):
            norms[i] += float(values[i, j]) * float(values[i, j])
    return norms


@njit(nogil=True)
def _sums(products: Any, x: Any, x_norms: Any, y: Any, y_norms: Any) -> Any:
    sums = np.zeros(len(x))
    for i in range(len(x)):
        for j in range(len(y)):
            both = x_norms[i] + y_norms[j]
            squared = both - 2.0 * products[i, j]
            if squared < CLOSE * both:
                squared = 0.0
                for gene in range(x.shape[1]):
                    squared += (float(x[i, gene]) - float(y[j, gene])) ** 2
            sums[i] += math.sqrt(squared)
    return sums
