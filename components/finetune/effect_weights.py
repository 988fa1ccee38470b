"""What each way to estimate an effect counts, learned from the lines that effects are told from.

Which way carries to another line differs from screen to screen, so each line is left out in turn
and estimated from the others, and what it measured is regressed on the four ways (`effect_parts`).
No weight is negative (stacking; Breiman 1996, "Stacked regressions"). They are brought to a sum of
1: the size of an effect is the business of the factor in `confidence`.

What shares over perturbations agrees more with the truth, and makes perturbations more alike: of
four cell types of OP3 the kernel has a correlation of 0.343 and a discrimination of 0.884, copying
0.285 and 0.936. There, what they are alike in is their mean effect, which tells none from another.
So as much of that is held back as makes left-out lines told apart as well as by copying: its weight
is then below zero. Near the best correlation that costs little of it (`HELD_BACK`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from components.finetune import effect_parts
from components.finetune.data import Floats
from components.finetune.effect_parts import COMMON, COPIED, KERNEL, PARTS, Estimates, SourceLine
from components.finetune.selection import centred, discrimination
from components.shared.artifacts.perturbation_names import line_key
from components.shared.model.tokens import Ints

HALVES = {COPIED: 0.0, effect_parts.SHRUNK: 0.5, KERNEL: 0.5, COMMON: 0.0}
"""Weights where left-out lines tell nothing. Where a line tells nothing but the mean effect, the
kernel is that: it is most of every product."""
WITHOUT_LINES = HALVES | {COMMON: -0.25}
"""Weights where no line can be left out. From one cell type of OP3 to another, correlation and
discrimination are 0.251 and 0.874 by halves, 0.249 and 0.898 where a quarter of the mean effect is
held back, 0.238 and 0.915 where half of it is, and 0.202 and 0.920 by copying. On five kinds of
generated screens the quarter moves them by -0.003 to 0.008 and by -0.006 to 0.003."""
HELD_BACK = np.linspace(0.0, 0.5, 6)
"""Shares of the mean effect that may be held back. Of OP3's cell types told by three others, a
quarter shrunk and the rest the kernel, 0.3, 0.4, 0.5 and 0.6 of it move the correlation from 0.344
to 0.340, 0.337, 0.333, 0.328 and discrimination from 0.897 to 0.924, 0.932, 0.939, 0.944."""
TOLD_APART = 300
"""Perturbations that are told apart in a left-out line, at most: their pairs cost time."""
RIDGE = 1e-3
"""On the weights, as a share of the mean square of a part: two parts that say the same share."""

NO_GENES = np.array([], np.int64)
Weights = dict[str, float]


def weights_of(
    lines: Sequence[SourceLine],
    estimate: Callable[[tuple[SourceLine, ...]], Estimates] = effect_parts.estimates_from,
) -> Weights:
    """Return how much each way counts when another line is estimated from ``lines``.

    Each line is predicted from the others, and its deltas are regressed on the four predictions.
    Every perturbation counts alike, however strong it is, as in a mean of correlations. Weights
    sum to 1 before a share of the mean effect is held back. Names of one line share a `line_key`.
    """
    gram, target = np.zeros((len(PARTS), len(PARTS))), np.zeros(len(PARTS))
    some = []
    for line in _left_out(lines, estimate):
        own, measured = _products(line)
        gram, target = gram + own, target + measured
        some.append(line.thinned)
    if not some:
        return dict(WITHOUT_LINES)
    return _told_apart(_stacked(gram, target), [line for line in some if len(line.measured) > 1])


@dataclass(frozen=True)
class Compared:
    """What a line measured, beside its estimates from other lines."""

    parts: dict[str, Floats]
    """By way, [perturbations, genes]."""
    measured: Floats
    """Same shape."""
    targets: list[Ints]
    """Positions of each perturbation's own genes."""

    @classmethod
    def of(cls, estimates: Estimates, line: SourceLine) -> "Compared":
        """Compare the perturbations that are both estimated and measured."""
        part, number = line
        rows = estimates.there & part.there[number]
        kept = rows[estimates.there]
        return cls(
            {way: effects[kept] for way, effects in estimates.parts.items()},
            part.change[number][rows],
            [part.targets[i] if part.targets else NO_GENES for i in np.flatnonzero(rows).tolist()],
        )

    def discrimination(self, effects: Floats) -> Floats:
        """Return the discrimination of each perturbation by its effect [perturbations, genes]."""
        return np.array(discrimination(np.array(effects, dtype=float), self.measured, self.targets))

    @property
    def thinned(self) -> "Compared":
        """No more than `TOLD_APART` of the perturbations, evenly spread."""
        count = len(self.measured)
        rows = np.unique(np.linspace(0, count - 1, min(count, TOLD_APART)).astype(int))
        return Compared(
            {way: effects[rows] for way, effects in self.parts.items()},
            self.measured[rows],
            [self.targets[i] for i in rows.tolist()],
        )


def ahead_beyond_luck(one: Floats, other: Floats) -> bool:
    """Say whether scores are higher on average than others by more than two standard errors."""
    difference = one - other
    return bool(difference.mean() > 2 * difference.std() / np.sqrt(len(difference)))


def _left_out(
    lines: Sequence[SourceLine], estimate: Callable[[tuple[SourceLine, ...]], Estimates]
) -> Iterator[Compared]:
    for part, number in lines:
        name = line_key(part.lines[number])
        others = tuple((other, i) for other, i in lines if line_key(other.lines[i]) != name)
        if others and part.there[number].any():
            yield Compared.of(estimate(others), (part, number))


def _products(line: Compared) -> tuple[Floats, Floats]:
    """Return the products of the four estimates with each other and with what was measured.

    Every perturbation is scaled to norm 1 by what was measured: [ways, ways] and [ways].
    """
    measured = centred(line.measured)
    norm = np.linalg.norm(measured, axis=1, keepdims=True)
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    measured *= scale
    ways = [centred(line.parts[way]) * scale for way in PARTS]
    gram = np.array([[float((a * b).sum()) for b in ways] for a in ways])
    return gram, np.array([float((a * measured).sum()) for a in ways])


def _stacked(gram: Floats, target: Floats) -> Weights:
    if not gram.trace() or not (target > 0).any():
        return dict(HALVES)
    root = np.linalg.cholesky(gram + RIDGE * gram.trace() / len(gram) * np.eye(len(gram)))
    found, _ = nnls(root.T, np.linalg.solve(root, target))
    return {way: float(weight / found.sum()) for way, weight in zip(PARTS, found, strict=True)}


def _told_apart(weights: Weights, lines: Sequence[Compared]) -> Weights:
    """Hold back the least of the mean effect with which lines are told apart as by copying.

    That is, where copying is not ahead beyond luck. Where no share of it does, the one that tells
    them apart best is held back: none, where the mean effect is not what makes perturbations alike.
    """
    if not lines:
        return weights
    copying = np.concatenate([line.discrimination(line.parts[COPIED]) for line in lines])
    best, found = -np.inf, weights
    for share in HELD_BACK:
        held_back = weights | {COMMON: weights[COMMON] - float(share)}
        apart = np.concatenate([_as_large_as_copying(line, held_back) for line in lines])
        if apart.mean() > best:
            best, found = apart.mean(), held_back
        if not ahead_beyond_luck(copying, apart):
            break
    return found


def _as_large_as_copying(line: Compared, weights: Weights) -> Floats:
    """Return the discrimination of the weighted parts, brought to the size of copying.

    How large effects are made moves discrimination too, and is decided later (`effect_sizes`).
    """
    effects = effect_parts.weighted(line.parts, weights)
    size = np.linalg.norm(line.parts[COPIED]) / (np.linalg.norm(effects) or 1.0)
    return line.discrimination(effects * size)


def in_words(weights: Mapping[str, float]) -> str:
    """Return the weights as a part of a sentence, the largest first."""
    ways = {
        COPIED: "the mean of the lines' own changes",
        effect_parts.SHRUNK: "that mean without its noise, gene by gene",
        KERNEL: "that mean without its noise, by what perturbations have in common",
        COMMON: "the mean effect of all perturbations",
    }
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    said = [f"{weight:.2f} of {ways[way]}" for way, weight in ordered if weight >= 0.005]
    less = [f"less {-weight:.2f} of {ways[way]}" for way, weight in ordered if weight <= -0.005]
    return ", ".join(said + less)
