"""Mean Euclidean distances between cells, for the energy distance, as scikit-learn has them.

An energy distance is what little is left of distances ten to a hundred times as large, so the
products of cells are in float64. As scikit-learn does, and cell-eval by it, distances are then kept
and averaged in the precision of the cells. Cells are converted and squared once, not with every
other group of cells, and one thread multiplies while another sorts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 512
"""Cells per matrix product."""

Mapped = Callable[[Callable[[int], float], Iterable[int]], Iterable[float]]


@dataclass(frozen=True)
class Points:
    """Cells in float64, [cells, genes], with their squared norms, [cells]."""

    values: NDArray[np.float64]
    norms: NDArray[np.float64]
    precision: np.dtype
    """Of the cells, and so of distances between them."""

    @classmethod
    def of(cls, cells: NDArray[Any]) -> "Points":
        """Convert dense cells [cells, genes]."""
        values = cells.astype(np.float64)
        return cls(values, np.einsum("ij,ij->i", values, values), cells.dtype)

    def rows(self, start: int, stop: int) -> "Points":
        """Return some of the cells, without a copy."""
        return Points(self.values[start:stop], self.norms[start:stop], self.precision)


def distances(x: Points, y: Points) -> NDArray[Any]:
    """Return the distance of each cell of ``x`` to each of ``y``, [cells of x, cells of y]."""
    found = np.empty((len(x.norms), len(y.norms)), x.precision)
    for start in range(0, len(found), ROWS):
        part = x.rows(start, start + ROWS)
        squares = part.values @ y.values.T
        squares *= -2
        squares += part.norms[:, None]
        squares += y.norms
        np.maximum(squares, 0, out=squares)
        found[start : start + ROWS] = squares
    if x is y:
        np.fill_diagonal(found, 0)
    return np.sqrt(found, out=found)


def mean_distance_within(x: Points, mapped: Mapped = map) -> float:
    """Return the mean distance over all pairs of cells, a cell and itself among them.

    Args:
        x: the cells.
        mapped: `map`, or that of a thread pool.
    """

    def rows(start: int) -> float:
        part = x.rows(start, start + ROWS)
        before = distances(part, x.rows(0, start)).sum(dtype=np.float64)
        return float(2 * before + distances(part, part).sum(dtype=np.float64))

    return sum(mapped(rows, range(0, len(x.norms), ROWS))) / len(x.norms) ** 2
