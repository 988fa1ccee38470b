"""Mean Euclidean distances between cells, for the energy distance, as scikit-learn has them.

An energy distance is what little is left of distances ten to a hundred times as large. As
scikit-learn does, and cell-eval by it, distances are kept in the precision of the cells. Products
of cells are in it too, which is twice as fast as in float64: cells are taken from the mean of the
controls, so a product is a small part of the distance, and its rounding evens out over pairs. What
would not even out, two cells so near that the difference of their norms is all rounding, is
computed from the differences of their values. Cells are made ready once, not with every other
group of cells, and one thread multiplies while another sorts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 512
"""Cells per matrix product."""
NEAR = 1e-2
"""Share of their squared norms below which the squared distance of two cells is computed anew: a
product in float32 is off by about 1e-7 of the norms, so above this by 1e-5 of the distance."""
PAIRS = 1024
"""Such pairs of cells at a time."""

Mapped = Callable[[Callable[[int], float], Iterable[int]], Iterable[float]]


@dataclass(frozen=True)
class Points:
    """Cells made ready for distances: less a centre that is the same for all, [cells, genes]."""

    values: NDArray[Any]
    """In the precision of the cells."""
    norms: NDArray[np.float64]
    """Squared, [cells]."""
    centre: NDArray[Any]
    """[genes]"""

    @classmethod
    def of(cls, cells: NDArray[Any], centre: NDArray[Any] | None = None) -> "Points":
        """Make dense cells [cells, genes] ready; without a centre it is their mean."""
        if centre is None:
            centre = cells.mean(axis=0, dtype=np.float64).astype(cells.dtype)
        values = cells - centre
        return cls(values, _squared(values), centre)

    def rows(self, start: int, stop: int) -> "Points":
        """Return some of the cells, without a copy."""
        return Points(self.values[start:stop], self.norms[start:stop], self.centre)


def distances(x: Points, y: Points) -> NDArray[Any]:
    """Return the distance of each cell of ``x`` to each of ``y``, [cells of x, cells of y]."""
    if x is y:
        return _within(x)
    found = np.empty((len(x.norms), len(y.norms)), x.values.dtype)
    for start in range(0, len(found), ROWS):
        part = x.rows(start, start + ROWS)
        products = part.values @ y.values.T
        norms = part.norms[:, None] + y.norms
        squares = norms - 2 * products
        near = np.argwhere(squares < NEAR * norms)
        for first in range(0, len(near), PAIRS):
            own, other = near[first : first + PAIRS].T
            squares[own, other] = _squared(part.values[own] - y.values[other])
        found[start : start + ROWS] = squares
    return np.sqrt(found, out=found)


def _within(x: Points) -> NDArray[Any]:
    """Return the distances of cells to one another, which may all be near: in float64."""
    values = x.values.astype(np.float64)
    squares = x.norms[:, None] + x.norms - 2 * (values @ values.T)
    np.fill_diagonal(squares, 0)
    return np.sqrt(np.maximum(squares, 0, out=squares)).astype(x.values.dtype)


def _squared(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared norm of each row, summed in float64."""
    return np.einsum("ij,ij->i", values, values, dtype=np.float64)


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
