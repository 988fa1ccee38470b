"""Differential expression as pdex 0.3 computes it, with the controls sorted once.

The test is pdex's: Mann-Whitney's U with the normal approximation, corrected for ties and for
continuity, two-sided. pdex sorts a perturbation's cells together with all controls, for each
perturbation again. Here the controls are sorted once, each perturbation's values are looked up
among them, and zeros are one block of ties that is only counted. U and its tie correction are sums
of halves of whole numbers, so the order of adding does not change a bit of them below 200,000 cells
a test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from components.evaluate.measures.compiled import kept

GENES = 512
"""Genes that one thread sorts at a time."""

Floats = NDArray[Any]


@dataclass(frozen=True)
class SortedControls:
    """The controls' values above zero, sorted within each gene."""

    cells: int
    """How many controls there are; those of a gene that have no value here are zero."""
    values: Floats
    """Gene after gene."""
    starts: NDArray[np.int64]
    """Where each gene begins in them, and the last one ends, [genes + 1]."""
    ties: NDArray[np.float64]
    """Sum of t^3 - t over the groups of t equal values, [genes]."""

    @classmethod
    def of(cls, cells: Floats, mapped: Callable = map) -> "SortedControls":
        """Sort dense controls [cells, genes], log1p of counts per 10,000, none below zero."""
        count, genes = cells.shape

        def counted(start: int) -> NDArray[np.int64]:
            return np.count_nonzero(cells[:, start : start + GENES], axis=0)

        blocks = range(0, genes, GENES)
        above = np.concatenate([*mapped(counted, blocks)])
        starts = np.concatenate([[0], np.cumsum(above)])
        values, ties = np.empty(starts[-1], cells.dtype), np.empty(genes)

        def sort(start: int) -> None:
            block = np.array(cells[:, start : start + GENES].T, order="C")
            block.sort(axis=1)
            for gene, own in enumerate(block, start):
                values[starts[gene] : starts[gene + 1]] = own[count - above[gene] :]
            stop = start + len(block)
            ties[start:stop] = _ties(values, starts[start : stop + 1])

        list(mapped(sort, blocks))
        return cls(count, values, starts, ties)


def rank_test(
    cells: Floats, stops: NDArray[np.int64], controls: SortedControls
) -> NDArray[np.float64]:
    """Test whether each perturbation's cells rank above or below the controls, gene by gene.

    Several perturbations go through the controls of a gene together, while those are at hand. It
    lets go of Python's lock, so that threads can test side by side.

    Cells are dense, none below zero, one perturbation after the other, [cells, genes]; ``stops`` is
    the row after each one's last. Returns p, [perturbations, genes].
    """
    ordered = np.array(cells.T, order="C")  # a copy, also of one gene's cells
    for part in np.split(ordered, stops[:-1], axis=1):
        part.sort(axis=1)
    return _test(ordered, stops, controls.cells, controls.values, controls.starts, controls.ties)


def de_table(
    perturbations: Sequence[str],
    genes: Sequence[str],
    *,
    means: Floats,
    reference: Floats,
    p_value: NDArray[np.float64],
    fdr: NDArray[np.float64],
) -> pl.DataFrame:
    """Return what cell-eval reads of pdex's table: a row per perturbation and gene, in this order.

    ``means``, and the controls' as ``reference`` [genes], are of log1p expression as the matrix
    itself gives them (`matrix.mean(axis=0)`, float32 for float32). They, p and its false discovery
    rate are [perturbations, genes].
    """
    labels = pl.DataFrame({"target": list(perturbations)}, schema={"target": pl.String})
    names = pl.DataFrame({"feature": list(genes)}, schema={"feature": pl.String})
    return labels.join(names, how="cross", maintain_order="left_right").with_columns(
        pl.Series("log2_fold_change", _log2_fold_changes(means, reference)),
        pl.Series("p_value", p_value.ravel()),
        pl.Series("fdr", fdr.ravel()),
    )


@kept
@njit(nogil=True, error_model="numpy")
def _log2_fold_changes(means, reference):  # type: ignore[no-untyped-def]
    """Return fold changes of natural means, row after row, as pdex has them.

    cell-eval lets pdex add nothing to the means. No expression at all on both sides is no change.
    """
    found = np.empty(means.size)
    for i in range(means.size):
        own = np.expm1(means[i // len(reference), i % len(reference)])
        other = np.expm1(reference[i % len(reference)])
        found[i] = np.log2(np.float64(own) / np.float64(other))
        if own == 0 and other == 0:
            found[i] = 0.0
    return found


@kept
@njit(nogil=True)
def _cubed_less_itself(count):  # type: ignore[no-untyped-def]
    return float(count) * count * count - count


@kept
@njit(nogil=True)
def _ties(values, starts):  # type: ignore[no-untyped-def]
    ties = np.zeros(len(starts) - 1)
    for gene in range(len(ties)):
        own = values[starts[gene] : starts[gene + 1]]
        first = 0
        for i in range(1, len(own) + 1):
            if i == len(own) or own[i] != own[first]:
                ties[gene] += _cubed_less_itself(i - first)
                first = i
    return ties


@kept
@njit(nogil=True)
def _test(ordered, stops, n2, values, starts, control_ties):  # type: ignore[no-untyped-def]
    genes = len(ordered)
    p_value = np.empty((len(stops), genes))
    for gene in range(genes):
        controls = values[starts[gene] : starts[gene + 1]]
        start = 0
        for at in range(len(stops)):
            own = ordered[gene, start : stops[at]]
            u, ties = _ranked(own, controls, n2 - len(controls))
            p_value[at, gene] = _p_value(u, len(own), n2, ties + control_ties[gene])
            start = stops[at]
    return p_value


@kept
@njit(nogil=True)
def _ranked(own, controls, zeros):  # type: ignore[no-untyped-def]
    """Return U of sorted values, and what they add to the controls' tie correction.

    ``controls`` are those above zero, sorted; ``zeros`` is how many others there are.
    """
    i = low = 0
    while i < len(own) and own[i] == 0:
        i += 1
    u = i * zeros / 2.0
    ties = _cubed_less_itself(i + zeros)
    while i < len(own):
        j = i + 1
        while j < len(own) and own[j] == own[i]:
            j += 1
        top = len(controls)
        while low < top:  # the first control that is not below
            middle = (low + top) // 2
            if controls[middle] < own[i]:
                low = middle + 1
            else:
                top = middle
        high = low
        while high < len(controls) and controls[high] == own[i]:
            high += 1
        u += (j - i) * (zeros + low + (high - low) / 2.0)
        ties += _cubed_less_itself(j - i + high - low) - _cubed_less_itself(high - low)
        i, low = j, high
    return u, ties


@kept
@njit(nogil=True)
def _p_value(u, n1, n2, ties):  # type: ignore[no-untyped-def]
    """Return numba_mwu's two-sided p (`_core._mwu_stats_from_rank_sum`), step by step."""
    n = n1 + n2
    variance = n1 * n2 / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)))
    if variance <= 0.0:  # all values equal
        return 1.0
    z = (max(u, n1 * n2 - u) - n1 * n2 / 2.0 - 0.5) / math.sqrt(variance)
    return min(2.0 * (0.5 * math.erfc(z / math.sqrt(2.0))), 1.0)
