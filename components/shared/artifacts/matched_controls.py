"""Which controls a perturbed cell is compared with: those of its own batch, where there are enough.

Batches of one line differ, and perturbations are spread unevenly over them: against all the line's
controls, a part of every effect is the batches'.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # training reads batches by number, and needs no more than torch and numpy
    from components.shared.artifacts.cells import Cells

BATCH = "batch"
LEAST_CONTROLS = 10
"""Of a batch of a line: the mean of fewer is less sure than the difference between batches."""
NO_BATCH = ("", "nan")
"""Batches of cells without one; ingest writes the second where there is none."""

Ints = NDArray[np.int64]


def batches_of(cells: "Cells") -> NDArray[np.str_] | None:
    """Return the batch of every cell, None where the cells have no such column."""
    return cells.obs[BATCH].to_numpy(str) if BATCH in cells.obs else None


def matched(
    rows: Ints, controls: Ints, batches: NDArray[np.str_] | None
) -> Iterator[tuple[str, Ints, Ints]]:
    """Yield which cells of one line, ``rows``, stand against which of its ``controls``.

    ``batches`` is of every cell by its number; None = all stand against all controls. Yielded are
    the batch (empty = those whose batch has too few controls, which stand against all), numbers of
    the controls, and places in ``rows``; each place comes once.
    """
    rest = np.ones(len(rows), bool)
    if batches is not None:
        of_rows, of_controls = batches[rows], batches[controls]
        for batch in np.unique(of_rows):
            own = controls[of_controls == batch]
            if len(own) >= LEAST_CONTROLS and batch not in NO_BATCH:
                mine = of_rows == batch
                rest &= ~mine
                yield str(batch), own, np.flatnonzero(mine)
    if rest.any() or batches is None:
        yield "", controls, np.flatnonzero(rest)
