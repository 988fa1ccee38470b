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
from numba import njit
from numpy.typing import NDArray

from components.evaluate.measures.compiled import kept

ROWS = 512
"""Cells per matrix product."""
AT_ONCE = 1 << 22
"""Distances that are in memory together, 16 MiB of them in 32 bits."""
NEAR = 1e-3
"""Cells that are nearer to each other than to their centre by this share, squared, are subtracted:
their product has no digits left."""

Ints = NDArray[np.int64]
Mapped = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


@dataclass(frozen=True)
class Points:
    """Cells ready to be multiplied, [cells, genes], with their squared norms, [cells]."""

    values: NDArray[Any]
    norms: NDArray[np.float64]
    precision: np.dtype
    """Of the cells, and so of distances between them."""

    @classmethod
    def of(
        cls, cells: NDArray[Any], centre: NDArray[np.float64] | None = None, mapped: Mapped = map
    ) -> "Points":
        """Convert dense cells [cells, genes]: to float64, or to what they are less a centre.

        ``mapped`` is `map`, or that of a thread pool.
        """
        values = np.empty(cells.shape, np.float64 if centre is None else cells.dtype)
        norms = np.empty(len(cells))

        def convert(start: int) -> None:
            part = slice(start, start + ROWS)
            own = values[part]
            if centre is None:
                own[...] = cells[part]
            else:
                np.subtract(cells[part], centre, out=own, casting="same_kind")
            norms[part] = np.einsum("ij,ij->i", own, own, dtype=np.float64)

        list(mapped(convert, range(0, len(cells), ROWS)))
        return cls(values, norms, cells.dtype)

    def rows(self, start: int, stop: int) -> "Points":
        """Return some of the cells, without a copy."""
        return Points(self.values[start:stop], self.norms[start:stop], self.precision)


def distances(x: Points, y: Points) -> NDArray[Any]:
    """Return the distance of each cell of ``x`` to each of ``y``, [cells of x, cells of y]."""
    found = np.empty((len(x.norms), len(y.norms)), x.precision)
    rounded = x.values.dtype != np.float64
    for start in range(0, len(found), ROWS):
        part = x.rows(start, start + ROWS)
        # One cell alone would go to another routine, which adds in another order.
        values = part.values if len(part.norms) > 1 else np.repeat(part.values, 2, axis=0)
        products = values @ y.values.T
        block = found[start : start + ROWS]
        _from_products(products, part.values, y.values, part.norms, y.norms, rounded, block)
    if x is y:
        np.fill_diagonal(found, 0)
    return found


def mean_distances(x: Points, stops: Ints, y: Points) -> list[float]:
    """Return each group's mean distance to all of ``y``, as `mean_distance` does.

    A group ends before a row in ``stops``, where the next begins; small ones are multiplied
    together.
    """
    starts = np.r_[0, stops[:-1]]
    if len(x.norms) * len(y.norms) > AT_ONCE:
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        return [mean_distance(x.rows(start, stop), y) for start, stop in pairs]
    across = _of_different(x, y)
    return [float(across[a:b].mean()) for a, b in zip(starts, stops, strict=True)]


def mean_distance(x: Points, y: Points) -> float:
    """Return what ``distances(x, y).mean()`` is, with few of them in memory.

    NumPy adds halves, of a multiple of eight values, down to 128 of them (`pairwise_sum`): so do
    these, down to what is held at once. Of float32 cells without a centre that is the mean to the
    last bit; else products may differ in theirs, by how many rows are multiplied together.
    """
    count = len(x.norms) * len(y.norms)
    return float(x.precision.type(_sum(x, y, 0, count) / np.intp(count)))  # as NumPy divides


def _sum(x: Points, y: Points, start: int, stop: int) -> np.floating[Any]:
    """Return the sum of some of the distances of ``x`` to ``y``, counted row after row."""
    width, half = len(y.norms), (stop - start) // 2
    if stop - start > max(AT_ONCE, width):
        middle = start + half - half % 8
        return _sum(x, y, start, middle) + _sum(x, y, middle, stop)
    first = start // width
    rows = slice(first, -(-stop // width))
    found = _with_itself(x, rows) if x is y else _of_different(x.rows(rows.start, rows.stop), y)
    return found.ravel()[start - first * width : stop - first * width].sum()


def _with_itself(x: Points, rows: slice) -> NDArray[Any]:
    """Return the distances of some of the cells to all of them, 0 to each itself."""
    found = distances(x.rows(rows.start, rows.stop), x)
    found[np.arange(len(found)), np.arange(len(x.norms))[rows]] = 0
    return found


def _of_different(x: Points, y: Points) -> NDArray[Any]:
    """Return the distances of cells to others; of cells that follow their equal, the same again."""
    new = np.r_[True, (x.values[1:] != x.values[:-1]).any(axis=1)]
    if new.all():
        return distances(x, y)
    return distances(Points(x.values[new], x.norms[new], x.precision), y)[np.cumsum(new) - 1]


@kept
@njit(nogil=True)
def _from_products(products, x, y, x_norms, y_norms, rounded, found):  # type: ignore[no-untyped-def]
    """Write the distances of some cells to others, from their products, into ``found``.

    Where products are rounded, cells that are `NEAR` each other are subtracted.
    """
    for i in range(len(found)):
        least = np.inf
        for j in range(found.shape[1]):
            square = -2.0 * products[i, j] + x_norms[i] + y_norms[j]
            least = min(least, square)
            found[i, j] = max(square, 0.0)
        if rounded and least < NEAR * x_norms[i]:
            for j in range(found.shape[1]):
                if -2.0 * products[i, j] + x_norms[i] + y_norms[j] < NEAR * x_norms[i]:
                    square = 0.0
                    for k in range(x.shape[1]):
                        apart = np.float64(x[i, k]) - np.float64(y[j, k])
                        square += apart * apart
                    found[i, j] = square
        for j in range(found.shape[1]):
            found[i, j] = np.sqrt(found[i, j])
