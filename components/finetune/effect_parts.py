"""What other lines tell of an effect, said in four ways, and how much each way counts.

- `copied`: the mean of the lines' deltas, as measured.
- `shrunk`: that mean with its noise taken out gene by gene (`shrinkage`).
- `kernel`: that mean with its noise taken out over perturbations. Where two perturbations change a
  line alike, each tells of the other. How alike they are is seen in the products of one line's
  deltas with another's: noise and what is a line's own are in no such product but by chance. The
  posterior mean of a Gaussian process over perturbations (Rasmussen and Williams 2006, equation
  2.25) whose kernel is the mean of those products.
- `mean`: the mean effect of all perturbations, the most that one line tells another in some data.

Which of them carries to another line differs from screen to screen, so each line is left out in
turn, told by the others, and what it measured is regressed on the four. No weight is negative
(stacking; Breiman 1996, "Stacked regressions"). They are brought to a sum of 1: the size of an
effect is the business of the factor in `confidence`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.shrinkage import UNKNOWN, shrunk

COPIED, SHRUNK, KERNEL, COMMON = "copied", "shrunk", "kernel", "mean"
PARTS = (COPIED, SHRUNK, KERNEL, COMMON)
WITHOUT_LINES = {COPIED: 0.0, SHRUNK: 0.5, KERNEL: 0.5, COMMON: 0.0}
"""Weights where no line can be left out. From one cell type of OP3 to another the mean correlation
is 0.220 and discrimination 0.862 with them; 0.216 and 0.826 where a fifth is the mean effect, 0.162
and 0.918 for copying. On three kinds of generated screens that fifth costs 0.01 and 0.05. Where a
line tells nothing but the mean effect, the kernel is that: it is most of every product."""
OWN_PART = 0.5
"""Share of one line's signal that is taken to be its own, where no second line tells: with 0.3 to
0.8 of the whole the kernel is ahead of copying in OP3."""
LEAST_VARIANCE = 1e-6
"""Of a delta: less is a gene that does not vary, which tells nothing."""
LEAST_NOISE = 1e-6
"""Of a perturbation, as a share of the mean over perturbations: keeps the kernel solvable."""
RIDGE = 1e-3
"""On the weights, as a share of the mean square of a part: two parts that say the same share."""

Teller = tuple[LineDeltas, int]
"""A line that tells of effects: the deltas it is part of, and its place in them."""
Weights = dict[str, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Told:
    """What some lines tell of each perturbation that one of them has."""

    there: Mask
    """Which perturbations, [perturbations]."""
    parts: dict[str, Floats]
    """By way, rows of the perturbations that are there, [known, genes]."""

    def combined(self, weights: Mapping[str, float]) -> Floats:
        """Return the weighted sum of the parts, [known, genes]."""
        found = np.zeros_like(self.parts[COPIED])
        for name, weight in weights.items():
            if weight:
                found += weight * self.parts[name]
        return found


def told_by(lines: Sequence[Teller], *, centre: bool = False) -> Told:
    """Return what ``lines`` tell.

    With ``centre`` each line's effects are taken without its own mean effect, its response to
    being perturbed at all, and the mean over lines of those is added to what all tell.
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
        return Told(there, dict.fromkeys(PARTS, nothing))
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
    return Told(there, {way: part + shared for way, part in parts.items()} if centre else parts)


def without_own_response(change: Floats, has: Mask) -> tuple[Floats, Floats]:
    """Return each line's effects less their mean, and the mean over lines of those means.

    Args:
        change: of each line, [lines, perturbations, genes].
        has: which of them there are, same shape.
    """
    counts = has.sum(axis=1, keepdims=True)
    sums = np.where(has, change, 0.0).sum(axis=1, keepdims=True)
    own = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    lines = np.maximum((counts > 0).sum(axis=0), 1)
    return np.where(has, change - own, 0.0), (own.sum(axis=0) / lines)[0]


def precision_of(lines: Sequence[Teller]) -> Floats:
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

    Args:
        mean: of the lines' deltas, [perturbations, genes].
        variance: its sampling variance, same shape; `UNKNOWN` where nothing is known.
        change: each line's deltas, 0 where it has none, [lines, perturbations, genes].
        has: which of them there are, same shape.
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

    Args:
        change: 0 where there is none, [lines, perturbations, genes].
        has: which perturbations a line has, [lines, perturbations].

    Returns:
        Two symmetric arrays, [perturbations, perturbations].
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


def weights_of(
    lines: Sequence[Teller],
    key: Callable[[str], str],
    told: Callable[[Sequence[Teller]], Told] = told_by,
) -> Weights:
    """Return how much each way counts when ``lines`` tell another one, summing to 1.

    Each line is predicted from the others, and its deltas are regressed on the four predictions.
    Every perturbation counts alike, however strong it is, as in a mean of correlations.

    Args:
        lines: that tell.
        key: what two names of one line have in common.
        told: what some of them tell.
    """
    gram, target = np.zeros((len(PARTS), len(PARTS))), np.zeros(len(PARTS))
    for part, number in lines:
        name = key(part.lines[number])
        others = [(other, i) for other, i in lines if key(other.lines[i]) != name]
        if not others or not part.there[number].any():
            continue
        found = told(others)
        rows = found.there & part.there[number]
        measured, kept = _centred(part.change[number][rows]), rows[found.there]
        norm = np.linalg.norm(measured, axis=1, keepdims=True)
        scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
        measured *= scale
        ways = [_centred(found.parts[way][kept]) * scale for way in PARTS]
        gram += [[float((a * b).sum()) for b in ways] for a in ways]
        target += [float((a * measured).sum()) for a in ways]
    return _stacked(gram, target)


def _stacked(gram: Floats, target: Floats) -> Weights:
    if not gram.trace() or not (target > 0).any():
        return dict(WITHOUT_LINES)
    root = np.linalg.cholesky(gram + RIDGE * gram.trace() / len(gram) * np.eye(len(gram)))
    found, _ = nnls(root.T, np.linalg.solve(root, target))
    return {way: float(weight / found.sum()) for way, weight in zip(PARTS, found, strict=True)}


def _centred(effects: Floats) -> Floats:
    return effects - effects.mean(axis=1, keepdims=True)


def in_words(weights: Mapping[str, float]) -> str:
    """Return the weights as a part of a sentence, the largest first."""
    ways = {
        COPIED: "the mean of the lines' own changes",
        SHRUNK: "that mean without its noise, gene by gene",
        KERNEL: "that mean without its noise, by what perturbations have in common",
        COMMON: "the mean effect of all perturbations",
    }
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{weight:.2f} of {ways[way]}" for way, weight in ordered if weight >= 0.005)
