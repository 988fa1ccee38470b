"""Estimates of an effect from other lines, made in four ways, and the weight of each way.

- `copied`: the mean of the lines' deltas, as measured.
- `shrunk`: that mean with its noise taken out gene by gene (`shrinkage`).
- `kernel`: that mean with its noise taken out over perturbations. Where two perturbations change a
  line alike, each is evidence of the other. How alike they are is seen in the products of one
  line's deltas with another's: noise and what is a line's own are in no such product but by chance.
  The posterior mean of a Gaussian process over perturbations (Rasmussen and Williams 2006, equation
  2.25) whose kernel is the mean of those products.
- `mean`: the mean effect of all perturbations, the most that carries between lines in some data.

What each way counts is learned from the lines (`effect_weights`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.shrinkage import UNKNOWN, shrunk

COPIED, SHRUNK, KERNEL, COMMON = "copied", "shrunk", "kernel", "mean"
PARTS = (COPIED, SHRUNK, KERNEL, COMMON)
OWN_PART = 0.5
"""Share of one line's signal that is taken to be its own, where there is no second line: with 0.3
to 0.8 of the whole the kernel is ahead of copying in OP3."""
LEAST_VARIANCE = 1e-6
"""Of a delta: less is a gene that does not vary, which carries no information."""
LEAST_NOISE = 1e-6
"""Of a perturbation, as a share of the mean over perturbations: keeps the kernel solvable."""
SourceLine = tuple[LineDeltas, int]
"""A line that effects are estimated from: the deltas it is part of, and its place in them."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimates:
    """Estimates of the effect of each perturbation that one of some lines has."""

    there: Mask
    """Which perturbations, [perturbations]."""
    parts: dict[str, Floats]
    """By way, rows of the perturbations that are there, [known, genes]."""

    def combined(self, weights: Mapping[str, float]) -> Floats:
        """Return the weighted sum of the parts, [known, genes]."""
        return weighted(self.parts, weights)


def weighted(parts: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Return the weighted sum of ``parts``, by way, all of one shape."""
    found = np.zeros_like(parts[COPIED])
    for name, weight in weights.items():
        if weight:
            found += weight * parts[name]
    return found


def estimates_from(lines: Sequence[SourceLine], *, centre: bool = False) -> Estimates:
    """Estimate effects from ``lines``.

    With ``centre`` each line's effects are taken without its own mean effect, its response to
    being perturbed at all, and the mean over lines of those is added to all estimates.
    """
    change = np.array([part.change[i] for part, i in lines])
    precision = precision_of(lines)
    shared = np.zeros(change.shape[2])
    if centre:
        change, shared = without_own_response(change, precision > 0)
    total = precision.sum(axis=0)
    there = total.any(axis=1)
    if not there.any():
        nothing = np.zeros((0, change.shape[2]))
        return Estimates(there, dict.fromkeys(PARTS, nothing))
    summed, weight = (precision * change).sum(axis=0)[there], total[there]
    # A gene that no other line measures is known to be nothing in particular.
    mean = np.divide(summed, weight, out=np.zeros_like(summed), where=weight > 0)
    variance = 1 / np.maximum(weight, 1 / UNKNOWN)
    has = (precision > 0)[:, there]
    parts = {
        COPIED: mean,
        SHRUNK: shrunk(mean, variance),
        KERNEL: over_perturbations(mean, variance, np.where(has, change[:, there], 0.0), has),
        COMMON: np.broadcast_to(mean.mean(axis=0), mean.shape),
    }
    return Estimates(
        there, {way: part + shared for way, part in parts.items()} if centre else parts
    )


def without_own_response(change: Floats, has: Mask) -> tuple[Floats, Floats]:
    """Return each line's effects less their mean, and the mean over lines of those means.

    ``has`` says which there are, of the same shape: [lines, perturbations, genes].
    """
    counts = has.sum(axis=1, keepdims=True)
    sums = np.where(has, change, 0.0).sum(axis=1, keepdims=True)
    own = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    lines = np.maximum((counts > 0).sum(axis=0), 1)
    return np.where(has, change - own, 0.0), (own.sum(axis=0) / lines)[0]


def precision_of(lines: Sequence[SourceLine]) -> Floats:
    """Return the weight of each line's deltas, 0 where there are none, [lines, ...].

    It is one over their variance, but no line passes for surer than lines are on average: a gene
    that is hardly expressed in one varies little there, and says little of where it is. Of a gene
    that does not vary at all nothing is known.
    """
    variance = np.array([part.variance[i] for part, i in lines])
    there = np.array([part.there[i] for part, i in lines])[..., None]
    usable = there & np.isfinite(variance) & (variance > LEAST_VARIANCE)
    variance[~usable] = 0.0
    average = variance.sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    floored = np.maximum(variance, average)
    return np.divide(1.0, floored, out=np.zeros_like(floored), where=usable)


def over_perturbations(mean: Floats, variance: Floats, change: Floats, has: Mask) -> Floats:
    """Return the lines' mean deltas with their noise taken out by what perturbations share.

    The mean and its sampling variance (`UNKNOWN` where nothing is known) are [perturbations,
    genes]; each line's deltas, 0 where it ``has`` none, [lines, perturbations, genes].
    """
    own = mean @ mean.T
    products, pairs = _cross_products(change, np.asarray(has.any(axis=2)))
    noise = np.where(variance < UNKNOWN, variance, 0.0).sum(axis=1)
    within = own - np.diag(noise + OWN_PART * np.maximum(own.diagonal() - noise, 0.0))
    kernel = _positive(np.where(pairs > 0, products / np.maximum(pairs, 1), within))
    rest = own.diagonal() - kernel.diagonal()
    least = LEAST_NOISE * max(float(own.diagonal().mean()), 1e-12)
    return kernel @ np.linalg.solve(kernel + np.diag(np.maximum(rest, least)), mean)


def _cross_products(change: Floats, has: Mask) -> tuple[Floats, Floats]:
    """Return sums over pairs of lines of one's deltas times the other's, and how many pairs.

    ``has`` says which perturbations a line has, [lines, perturbations]; both are symmetric.
    """
    summed, counts = change.sum(axis=0), has.astype(float)
    products, pairs = summed @ summed.T, np.outer(counts.sum(axis=0), counts.sum(axis=0))
    for own, count in zip(change, counts, strict=True):
        products -= own @ own.T
        pairs -= np.outer(count, count)
    return products, pairs


def _positive(kernel: Floats) -> Floats:
    """Return the nearest kernel without negative eigenvalues."""
    values, axes = np.linalg.eigh((kernel + kernel.T) / 2)
    return (axes * np.maximum(values, 0.0)) @ axes.T
