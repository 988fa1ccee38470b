"""Differential expression as pdex 0.3 computes it, with the controls sorted once.

The test is pdex's: Mann-Whitney's U with the normal approximation, corrected for ties and for
continuity, two-sided, and Benjamini and Hochberg's false discovery rate over the genes of a
perturbation. pdex sorts a perturbation's cells together with all controls, for each perturbation
again. Here the controls are sorted once, each perturbation's values are looked up among them, and
zeros are one block of ties that is only counted. U and its tie correction are sums of halves of
whole numbers, so the order of adding does not change a bit of them below 200,000 cells a test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from components.evaluate.measures.compiled import kept

Floats = NDArray[Any]


@dataclass(frozen=True)
class SortedControls:
    """The controls' values, sorted within each gene."""

    values: Floats
    """[genes, cells]"""
    zeros: NDArray[np.int64]
    """How many of them are zero, [genes]."""
    ties: NDArray[np.float64]
    """Sum of t^3 - t over the groups of t equal values above zero, [genes]."""

    @classmethod
    def of(cls, cells: Floats) -> "SortedControls":
        """Sort dense controls [cells, genes], log1p of counts per 10,000, none below zero."""
        values = np.ascontiguousarray(cells.T)
        values.sort(axis=1)
        zeros = values.shape[1] - np.count_nonzero(values, axis=1)
        return cls(values, zeros, _ties(values, zeros))


def rank_test(
    cells: Floats, controls: SortedControls
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Test whether a perturbation's cells rank above or below the controls, gene by gene.

    It lets go of Python's lock, so that threads can test perturbations side by side.

    Args:
        cells: dense expression, none below zero, [cells, genes].
        controls: of the same genes.

    Returns:
        U of the perturbation's cells and p, each of shape [genes].
    """
    ordered = np.ascontiguousarray(cells.T)
    ordered.sort(axis=1)
    return _test(ordered, controls.values, controls.zeros, controls.ties)


def de_table(
    perturbations: Sequence[str],
    genes: Sequence[str],
    *,
    sizes: NDArray[np.int64],
    means: Floats,
    statistic: NDArray[np.float64],
    p_value: NDArray[np.float64],
) -> pl.DataFrame:
    """Return the table that pdex returns: one row per perturbation and gene, in this order.

    Args:
        perturbations: labels of the rows of the arrays.
        genes: names of their columns.
        sizes: cells of the controls, then of each perturbation, [1 + perturbations].
        means: mean log1p expression of the controls, then of each perturbation, as the matrix
            itself gives it (`matrix.mean(axis=0)`, float32 for float32),
            [1 + perturbations, genes].
        statistic: U, [perturbations, genes].
        p_value: [perturbations, genes].
    """
    target, ref, log2_fold_change, percent_change = _changes(means[1:], means[0])
    sizes = sizes.astype(np.int64)
    labels = pl.DataFrame({"target": list(perturbations)}, schema={"target": pl.String})
    names = pl.DataFrame({"feature": list(genes)}, schema={"feature": pl.String})
    return labels.join(names, how="cross", maintain_order="left_right").with_columns(
        pl.Series("target_mean", target),
        pl.Series("ref_mean", ref),
        pl.Series("target_membership", np.repeat(sizes[1:], len(genes))),
        pl.Series("ref_membership", np.full(len(target), sizes[0])),
        pl.Series("log2_fold_change", log2_fold_change),
        pl.Series("percent_change", percent_change),
        pl.Series("p_value", p_value.ravel()),
        pl.Series("statistic", statistic.ravel()),
        pl.Series("fdr", false_discovery_control(p_value, axis=1).ravel()),
    )


@kept
@njit(nogil=True, error_model="numpy")
def _changes(means, reference):  # type: ignore[no-untyped-def]
    """Return natural means, log2 fold and percent change, row after row, as pdex has them.

    cell-eval lets pdex add nothing to the means. No expression at all on both sides is no change.
    """
    entries = means.size
    target, ref = np.empty(entries, means.dtype), np.empty(entries, means.dtype)
    log2_fold_change, percent_change = np.empty(entries), np.empty(entries)
    for i in range(entries):
        target[i] = np.expm1(means[i // len(reference), i % len(reference)])
        ref[i] = np.expm1(reference[i % len(reference)])
        log2_fold_change[i] = np.log2(np.float64(target[i]) / np.float64(ref[i]))
        percent_change[i] = np.float64(target[i] - ref[i]) / np.float64(ref[i])
        if target[i] == 0 and ref[i] == 0:
            log2_fold_change[i] = percent_change[i] = 0.0
    return target, ref, log2_fold_change, percent_change


@kept
@njit(nogil=True)
def _cubed_less_itself(count):  # type: ignore[no-untyped-def]
    return float(count) * count * count - count


@kept
@njit(nogil=True)
def _ties(values, zeros):  # type: ignore[no-untyped-def]
    ties = np.zeros(len(values))
    for gene in range(len(values)):
        own = values[gene, zeros[gene] :]
        first = 0
        for i in range(1, len(own) + 1):
            if i == len(own) or own[i] != own[first]:
                ties[gene] += _cubed_less_itself(i - first)
                first = i
    return ties


@kept
@njit(nogil=True)
def _test(ordered, values, zeros, control_ties):  # type: ignore[no-untyped-def]
    genes, n1 = ordered.shape
    n2 = values.shape[1]
    statistic, p_value = np.empty(genes), np.empty(genes)
    for gene in range(genes):
        own, controls = ordered[gene], values[gene, zeros[gene] :]
        i = low = 0
        while i < n1 and own[i] == 0:
            i += 1
        u = i * zeros[gene] / 2.0
        ties = _cubed_less_itself(i + zeros[gene]) + control_ties[gene]
        while i < n1:
            j = i + 1
            while j < n1 and own[j] == own[i]:
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
            u += (j - i) * (zeros[gene] + low + (high - low) / 2.0)
            ties += _cubed_less_itself(j - i + high - low) - _cubed_less_itself(high - low)
            i, low = j, high
        statistic[gene], p_value[gene] = u, _p_value(u, n1, n2, ties)
    return statistic, p_value


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
