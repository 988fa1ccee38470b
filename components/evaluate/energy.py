"""Mean Euclidean distances between cells, for the energy distance, from float32 products.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y is exact to about 1e-8 with float32 products where x.y is small
beside the squares. Distances do not change when a mean is taken from every cell, and then it is;
the few pairs that are close all the same are computed from their differences. As scikit-learn
does, and cell-eval by it, distances are kept and averaged in the precision of the cells: the mean
of float32 distances is off by about 1e-7, which shows in what little an energy distance is.
"""

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

Floats = NDArray[Any]
Mapped = Callable[[Callable[[int], float], Iterable[int]], Iterable[float]]


@dataclass(frozen=True)
class Centred:
    """Cells less a mean, float32 [cells, genes], and their squared norms, float64 [cells]."""

    values: NDArray[np.float32]
    norms: NDArray[np.float64]
    precision: np.dtype
    """Of the cells, and so of distances between them."""

    @classmethod
    def of(cls, cells: Floats, mean: Floats) -> "Centred":
        """Take ``mean`` [genes] from dense cells [cells, genes]."""
        values = np.subtract(cells, mean.astype(cells.dtype)).astype(np.float32, copy=False)
        return cls(values, _squared_norms(values), cells.dtype)

    def rows(self, start: int, stop: int) -> "Centred":
        """Return some of the cells, without a copy."""
        return Centred(self.values[start:stop], self.norms[start:stop], self.precision)


def distances(x: Centred, y: Centred) -> Floats:
    """Return the distance of each cell of ``x`` to each of ``y``, [cells of x, cells of y]."""
    found = np.empty((len(x.norms), len(y.norms)), x.precision)
    for start in range(0, len(found), ROWS):
        part = x.rows(start, start + ROWS)
        products = part.values @ y.values.T
        _squares(products, part.values, part.norms, y.values, y.norms, found[start : start + ROWS])
    return np.sqrt(found, out=found)


def mean_distance_within(x: Centred, mapped: Mapped = map) -> float:
    """Return the mean distance over all pairs of cells, a cell and itself among them.

    The distances are averaged in float64.

    Args:
        x: the cells.
        mapped: `map`, or that of a thread pool.
    """

    def rows(start: int) -> float:
        part = x.rows(start, start + ROWS)
        before = distances(part, x.rows(0, start)).sum(dtype=np.float64)
        return float(2 * before + distances(part, part).sum(dtype=np.float64))

    return sum(mapped(rows, range(0, len(x.norms), ROWS))) / len(x.norms) ** 2


@njit(nogil=True)
def _squared_norms(values: Any) -> Any:
    norms = np.zeros(len(values))
    for i in range(len(values)):
        for j in range(values.shape[1]):
            norms[i] += float(values[i, j]) * float(values[i, j])
    return norms


@njit(nogil=True)
def _squares(products: Any, x: Any, x_norms: Any, y: Any, y_norms: Any, found: Any) -> None:
    for i in range(len(x)):
        for j in range(len(y)):
            both = x_norms[i] + y_norms[j]
            squared = both - 2.0 * products[i, j]
            if squared < CLOSE * both:
                squared = 0.0
                for gene in range(x.shape[1]):
                    squared += (float(x[i, gene]) - float(y[j, gene])) ** 2
            found[i, j] = squared
