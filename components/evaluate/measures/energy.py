"""Mean Euclidean distances between cells, for the energy distance, as scikit-learn has them.

An energy distance is what little is left of distances ten to a hundred times as large, so the
products of cells are in float64. As scikit-learn does, and cell-eval by it, distances are then kept
and averaged in the precision of the cells. Cells are converted and squared once, not with every
other group of cells, and one thread multiplies while another sorts.

Where all cells are taken from one centre, products may be in their own precision, at half the cost:
what is left of them is as small as their distances, so little cancels. On two generated screens
that changes an energy distance of float32 cells by up to 3e-6 of it, and the correlation of 500
predicted with 500 measured ones by 1.3e-8.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 512
"""Cells per matrix product."""
NEAR = 1e-3
"""Cells that are nearer to each other than to their centre by this share, squared, are subtracted:
their product has no digits left."""

Mapped = Callable[[Callable[[int], float], Iterable[int]], Iterable[float]]


@dataclass(frozen=True)
class Points:
    """Cells ready to be multiplied, [cells, genes], with their squared norms, [cells]."""

    values: NDArray[Any]
    norms: NDArray[np.float64]
    precision: np.dtype
    """Of the cells, and so of distances between them."""

    @classmethod
    def of(cls, cells: NDArray[Any], centre: NDArray[np.float64] | None = None) -> "Points":
        """Convert dense cells [cells, genes]: to float64, or to what they are less a centre."""
        if centre is None:
            values = cells.astype(np.float64)
        else:
            values = np.subtract(cells, centre, out=np.empty_like(cells))
        norms = np.einsum("ij,ij->i", values, values, dtype=np.float64)
        return cls(values, norms, cells.dtype)

    def rows(self, start: int, stop: int) -> "Points":
        """Return some of the cells, without a copy."""
        return Points(self.values[start:stop], self.norms[start:stop], self.precision)


def distances(x: Points, y: Points) -> NDArray[Any]:
    """Return the distance of each cell of ``x`` to each of ``y``, [cells of x, cells of y]."""
    found = np.empty((len(x.norms), len(y.norms)), x.precision)
    for start in range(0, len(found), ROWS):
        part = x.rows(start, start + ROWS)
        # One cell alone would go to another routine, which adds in another order.
        values = part.values if len(part.norms) > 1 else np.repeat(part.values, 2, axis=0)
        squares = (values @ y.values.T)[: len(part.norms)]
        squares *= -2
        squares += part.norms[:, None]
        squares += y.norms
        if squares.dtype != np.float64:
            for i, j in np.argwhere(squares < NEAR * part.norms[:, None]):
                apart = part.values[i].astype(np.float64) - y.values[j]
                squares[i, j] = apart @ apart
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
