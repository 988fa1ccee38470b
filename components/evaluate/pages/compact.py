"""A page's worth of a large matrix: the strongest values as they are, the others rounded.

Of predicted changes [perturbations, genes] the strongest of each perturbation and of each gene are
kept as they are, with what was measured of the same; all others are kept as 8 bits.
"""

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
Pairs = Callable[[Ints, Ints], Floats]
"""Returns the values of perturbations and genes given by their numbers; NaN = not measured."""

GENES = 50
"""Genes kept as they are, up and down each, of a perturbation."""
PERTURBATIONS = 20
"""Perturbations kept as they are, up and down each, of a gene."""
LEVELS = 127
"""Of 8 bits with a sign."""
FINEST = 0.001
"""Smallest step between two rounded changes: pages show three decimals."""
STEP = 0.0003
"""Step of a measured change, in 16 bits: those reach 9.8, and log1p of 10,000 is 9.2."""
MISSING = -32768
LOG_STEP = 0.01
"""Step of log10 of an FDR: 2 % of it."""
LEAST_LOG = -300
"""Stands for an FDR of 0 too."""


@dataclass(frozen=True)
class Strongest:
    """The strongest values of each row, with what is beside them."""

    index: Ints
    """Which columns, [rows, kept], by falling change."""
    change: NDArray[np.float32]
    """As predicted, [rows, kept]."""
    beside: NDArray[np.int16]
    """Measured changes by line, in units of `STEP`, [rows, kept, lines]; `MISSING` = nothing."""
    fdr: NDArray[np.int16]
    """log10 of the FDR in the test line, in units of `LOG_STEP`, [rows, kept]."""


@dataclass(frozen=True)
class Compact:
    """A matrix of changes and what is beside them, small enough for a page."""

    genes: Strongest
    """One row per perturbation."""
    perturbations: Strongest
    """One row per gene."""
    matrix: NDArray[np.int8]
    """All others, in units of their row's step, [perturbations, genes]; 0 where kept as it is."""
    steps: NDArray[np.float32]
    """[perturbations]"""

    @property
    def error(self) -> float:
        """The most that a rounded change differs from the one predicted."""
        return float(self.steps.max(initial=0.0)) / 2

    @property
    def rounded(self) -> int:
        """How many changes are rounded."""
        return self.matrix.size - int(self.kept.sum())

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which changes are kept as they are, [perturbations, genes]."""
        found = np.zeros(self.matrix.shape, bool)
        np.put_along_axis(found, self.genes.index, True, axis=1)
        np.put_along_axis(found.T, self.perturbations.index, True, axis=1)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it by name."""
        sides = {"genes": self.genes, "perturbations": self.perturbations}
        parts = {f"{a}-{b}": value for a, side in sides.items() for b, value in vars(side).items()}
        return parts | {"matrix": self.matrix, "steps": self.steps}


def compact(change: Floats, lines: list[Pairs], fdr: Pairs) -> Compact:
    """Choose and round predicted changes [perturbations, genes], which are finite.

    ``lines`` and ``fdr`` return what each line measured of pairs, and the test line's FDR.
    """
    change = np.asarray(change, np.float32)
    across, down = strongest(change, GENES), strongest(change.T, PERTURBATIONS)
    row, column = np.arange(len(change))[:, None], np.arange(change.shape[1])[:, None]
    genes = _kept(change, np.broadcast_to(row, across.shape), across, lines, fdr, across)
    perturbations = _kept(change, down, np.broadcast_to(column, down.shape), lines, fdr, down)
    rest = change.copy()
    np.put_along_axis(rest, across, 0, axis=1)
    np.put_along_axis(rest.T, down, 0, axis=1)
    largest = np.abs(rest).max(axis=1, initial=0.0)
    steps = np.where(largest > 0, np.maximum(largest / LEVELS, FINEST), 0).astype(np.float32)
    divisor = np.where(steps > 0, steps, 1)[:, None]
    # A step in 32 bits may be a little less than it should be: then the largest would be 127.00001.
    matrix = np.clip(np.rint(rest / divisor), -LEVELS, LEVELS).astype(np.int8)
    return Compact(genes, perturbations, matrix, steps)


def strongest(change: Floats, most: int) -> Ints:
    """Return the columns of each row's ``most`` largest and ``most`` smallest, by falling value.

    Where there are not so many columns all are returned; ties go by column.
    """
    columns = change.shape[1]
    if columns <= 2 * most:
        index = np.broadcast_to(np.arange(columns), change.shape)
    else:
        ends = np.argpartition(change, (most - 1, columns - most), axis=1)
        index = np.sort(np.hstack([ends[:, :most], ends[:, columns - most :]]), axis=1)
    order = np.argsort(-np.take_along_axis(change, index, axis=1), axis=1, kind="stable")
    narrow = np.uint16 if columns <= np.iinfo(np.uint16).max else np.uint32
    return np.take_along_axis(index, order, axis=1).astype(narrow)


def _kept(
    change: Floats, rows: Ints, columns: Ints, lines: list[Pairs], fdr: Pairs, index: Ints
) -> Strongest:
    values = [_units(line(rows, columns), STEP) for line in lines]
    beside = np.stack(values, axis=-1) if values else np.zeros((*rows.shape, 0), np.int16)
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log10(fdr(rows, columns)), LEAST_LOG)
    return Strongest(index, change[rows, columns], beside, _units(logs, LOG_STEP))


def _units(values: Floats, step: float) -> NDArray[np.int16]:
    known = np.nan_to_num(values, nan=MISSING * step)
    return np.clip(np.rint(known / step), MISSING, -MISSING - 1).astype(np.int16)


def packed(array: NDArray[Any]) -> str:
    """Return an array's bytes, little-endian, deflated and in base64."""
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(data, 9)).decode()
