"""How well lines agree on a perturbation, and how much of what they measured is no noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.shared.artifacts.confidence import correlations
from components.shared.artifacts.perturbation_names import line_key

ROWS_AT_ONCE = 64
"""Perturbations whose deltas of all lines are centred together, for memory."""
LEAST_ALLOWED = 0.1
"""Deltas whose noise allows no more correlation than this cannot be seen to agree or not: what is
seen, noise and all, is divided by it."""


@dataclass(frozen=True)
class Evidence:
    """How far the deltas of lines agree with each other."""

    lines: list[str]
    there: NDArray[np.bool_]
    """Which perturbations a line has, [lines, perturbations]."""
    reliable: Floats
    """Share of the variance over genes of a line's delta that is no noise, same shape."""
    pairs: dict[tuple[int, int], Floats]
    """Correlation over genes of two lines' deltas, NaN where one has none, [perturbations]."""

    @classmethod
    def of(cls, deltas: Sequence[LineDeltas]) -> "Evidence":
        """Compare all lines with each other, some perturbations at a time."""
        lines = [(part, i) for part in deltas for i in range(len(part.lines))]
        names = [part.lines[i] for part, i in lines]
        there = np.array([part.there[i] for part, i in lines])
        reliable = np.zeros(there.shape)
        pairs = {
            (a, b): np.full(there.shape[1], np.nan)
            for a, b in combinations(range(len(lines)), 2)
            if line_key(names[a]) != line_key(names[b])
        }
        for block in blocks(there.shape[1]):
            change = [part.change[i, block] for part, i in lines]
            variance = [part.variance[i, block] for part, i in lines]
            usable = [np.isfinite(each) & (each > 0) for each in variance]
            for i, both in enumerate(usable):
                noise = np.where(both, variance[i], 0.0).sum(axis=1)
                total = np.square(_centred(change[i], both)).sum(axis=1)
                share = np.divide(noise, total, out=np.ones_like(total), where=total > 0)
                reliable[i, block] = np.where(there[i, block], np.clip(1 - share, 0, 1), 0)
            for (a, b), found in pairs.items():
                both = usable[a] & usable[b]
                values = correlations(_centred(change[a], both), _centred(change[b], both))
                found[block] = np.where(there[a, block] & there[b, block], values, np.nan)
        return cls(names, there, reliable, pairs)

    def without(self, line: str) -> list[int]:
        """Return the lines that may tell of ``line``."""
        return [i for i, name in enumerate(self.lines) if line_key(name) != line_key(line)]

    @property
    def usual(self) -> float:
        """How alike two lines' effects are on average, noise apart, from 0 to 1."""
        seen, could, _ = self._agreement(range(len(self.lines)))
        most = float(could.sum())
        return float(np.clip(seen.sum() / most, 0, 1)) if most > 0 else 0.0

    def table(self, chosen: Sequence[int]) -> pd.DataFrame:
        """Return what some lines tell of each perturbation, a row each.

        Returns:
            `lines` that have it; `agreement`: mean correlation of two lines' deltas as a share of
            what their noise allows, NaN with one line or where it allows next to nothing;
            `carried`: the correlation that the mean of their deltas should have with a delta of one
            more line, were that as like and as noisy as they are to each other.
        """
        lines = self.there[list(chosen)].sum(axis=0)
        seen, could, pairs = self._agreement(chosen)
        told = (pairs > 0) & (could > LEAST_ALLOWED)
        agreement = np.divide(seen, could, out=np.full(len(seen), np.nan), where=told)
        # Of one line alone: what its noise leaves of how alike lines usually are.
        alone = self.usual * self.reliable[list(chosen)].sum(axis=0) / np.maximum(lines, 1)
        alike = np.where(pairs > 0, np.maximum(seen, 0), alone)
        # Spearman and Brown: of the mean of n with another one, all pairs correlated alike.
        carried = alike * np.sqrt(lines / (1 + np.maximum(lines - 1, 0) * alike))
        return pd.DataFrame(
            {"lines": lines, "agreement": np.clip(agreement, -1, 1), "carried": carried}
        )

    def _agreement(self, chosen: Sequence[int]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Return the mean correlation of pairs of lines, what noise allows, and their number."""
        inside = {pair: r for pair, r in self.pairs.items() if set(pair) <= set(chosen)}
        size = self.there.shape[1]
        seen, could, count = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
        for (a, b), found in inside.items():
            there = np.isfinite(found)
            seen += np.where(there, found, 0.0)
            could += np.where(there, np.sqrt(self.reliable[a] * self.reliable[b]), 0.0)
            count += there
        return seen / np.maximum(count, 1), could / np.maximum(count, 1), count


def blocks(rows: int) -> Iterator[slice]:
    """Yield slices of a few rows."""
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE))


def _centred(values: Floats, usable: NDArray[np.bool_]) -> Floats:
    """Return rows less their mean over usable genes, 0 at the others."""
    count = np.maximum(usable.sum(axis=1, keepdims=True), 1)
    mean = np.where(usable, values, 0.0).sum(axis=1, keepdims=True) / count
    return np.where(usable, values - mean, 0.0)
