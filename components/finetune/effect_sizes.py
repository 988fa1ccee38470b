"""By what factor known effects are multiplied, learned from left-out lines.

The least error asks for small effects, since what is not known of one is best left out. But effects
that are too small are taken for other, weaker ones, and for none. So they are made as large as
errors allow, and larger still where copying tells the perturbations of left-out lines better apart.
"""

from dataclasses import dataclass, replace

import numpy as np

from components.finetune.data import Floats
from components.finetune.effect_parts import COPIED, Estimates, weighted
from components.finetune.effect_weights import Compared, Weights, ahead_beyond_luck
from components.shared.artifacts.confidence import MOST_SCALE

ESTIMATED = "estimated"
FACTORS = np.linspace(0.0, MOST_SCALE, 61)
"""That the one for the size of known effects is chosen from."""


@dataclass(frozen=True)
class Sizes:
    """Errors of the estimates of left-out lines, by the factor that they are multiplied by."""

    squared: Floats
    """Sum over perturbations and genes of squared errors with each of `FACTORS`."""
    absolute: Floats
    """The same of absolute errors."""
    copied: tuple[float, float]
    """Both sums of copying: the mean of the other lines' changes, as measured."""
    perturbations: int
    lines: tuple[Compared, ...]
    """Of each line some perturbations, as copied and as `ESTIMATED`."""

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(
            self.squared + other.squared,
            self.absolute + other.absolute,
            (self.copied[0] + other.copied[0], self.copied[1] + other.copied[1]),
            self.perturbations + other.perturbations,
            self.lines + other.lines,
        )

    @classmethod
    def of(cls, line: Compared, weights: Weights) -> "Sizes":
        """Compare the weighted estimates of a line, from the other lines, with what it measured."""
        found = weighted(line.parts, weights)
        missed = line.parts[COPIED] - line.measured
        squared, absolute = np.zeros(len(FACTORS)), np.zeros(len(FACTORS))
        for i, factor in enumerate(FACTORS):
            error = factor * found - line.measured
            squared[i], absolute[i] = np.square(error).sum(), np.abs(error).sum()
        copied = float(np.square(missed).sum()), float(np.abs(missed).sum())
        kept = replace(line, parts={COPIED: line.parts[COPIED], ESTIMATED: found})
        told = (kept.thinned,) if len(found) > 1 else ()
        return cls(squared, absolute, copied, len(found), told)

    @property
    def factor(self) -> float | None:
        """One of `FACTORS`; None where nothing was estimated.

        It is the largest whose errors are no larger than copying's or predicting nothing's, or
        the one with the least squared error where none is as good as that. Where copying then tells
        perturbations apart better, beyond luck, it is the smallest larger one that does as well,
        of those whose errors are no larger than copying's. Where none does, it is the smallest that
        does as well as the best of them.
        """
        if not self.perturbations or np.ptp(self.squared) == 0:
            return None
        least = np.arange(len(FACTORS)) >= self.squared.argmin()
        as_copied = (self.squared <= self.copied[0]) & (self.absolute <= self.copied[1]) & least
        as_nothing = (self.squared <= self.squared[0]) & (self.absolute <= self.absolute[0])
        good = np.flatnonzero(as_copied & as_nothing)
        first = int(good.max() if len(good) else self.squared.argmin())
        larger = [i for i in np.flatnonzero(as_copied).tolist() if i > first]
        return float(FACTORS[self._told_apart([first, *larger]) if self.lines else first])

    def _told_apart(self, places: list[int]) -> int:
        """Return the first of ``places`` in `FACTORS` that tells apart as well as copying."""
        copying = self._discrimination(COPIED)
        apart = []
        for place in places:
            apart.append(self._discrimination(ESTIMATED, FACTORS[place]))
            if not ahead_beyond_luck(copying, apart[-1]):
                return place
        best = apart[int(np.argmax([scores.mean() for scores in apart]))]
        return next(
            place
            for place, scores in zip(places, apart, strict=True)
            if not ahead_beyond_luck(best, scores)
        )

    def _discrimination(self, way: str, factor: float = 1.0) -> Floats:
        return np.concatenate(
            [line.discrimination(factor * line.parts[way]) for line in self.lines]
        )


NO_ESTIMATES = Sizes(np.zeros(len(FACTORS)), np.zeros(len(FACTORS)), (0.0, 0.0), 0, ())


def as_large_as_measured(estimates: Estimates, weights: Weights) -> float:
    """Return the factor that gives weighted estimates the norm of what their lines measured.

    For where no line can be left out. That norm holds noise, so it is an upper bound of the size
    that the least error asks for; but on five kinds of generated screens with one training line,
    errors stay below copying's with it (mae_delta 0.186 to 0.261 for 0.205 to 0.288), while
    discrimination rises by 0.04 to 0.11, to 0.85 to 0.94 for copying's 0.85 to 0.95.
    """
    found = float(np.linalg.norm(estimates.combined(weights)))
    measured = float(np.linalg.norm(estimates.parts[COPIED]))
    return min(measured / found, MOST_SCALE) if found else 1.0
