"""Means over perturbations, and whether the model beats a baseline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from components.evaluate.scoring import OF_THE_SET, Score

HEADLINE_METRIC = "pearson_delta"
RESAMPLES = 2000

Means = dict[str, float | None]


def finite(value: float) -> float | None:
    """Return a float JSON can hold, None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def nan_means(metrics: pd.DataFrame) -> Means:
    """Return each metric's mean over the perturbations that have one, None where none has."""
    return {str(name): finite(value) for name, value in metrics.mean().items()}


def baseline_table(baselines: Mapping[str, Score]) -> pd.DataFrame:
    """Return the baselines in long form: baseline, metric, mean (nan-mean), median, n_nan."""
    parts = []
    for name, score in baselines.items():
        values = score.metrics
        part = pd.DataFrame(
            {"mean": values.mean(), "median": values.median(), "n_nan": values.isna().sum()}
        )
        parts.append(part.rename_axis("metric").reset_index().assign(baseline=name))
    return pd.concat(parts)[["baseline", "metric", "mean", "median", "n_nan"]]


@dataclass(frozen=True)
class Comparison:
    """The model less a baseline in pearson_delta, paired over perturbations."""

    model: float | None
    """Nan-mean over all perturbations, as in the headline table."""
    baseline: float | None
    difference: float | None
    """Mean over the perturbations that have a value on both sides."""
    low: float | None
    high: float | None
    """Bootstrap 95 % interval of the difference, None with fewer than two perturbations."""
    better: int
    """Perturbations with the model ahead."""
    of: int
    """Perturbations with a value on both sides."""

    @property
    def verdict(self) -> str:
        """Return beats / falls short of / is level with / cannot be compared with."""
        if self.difference is None:
            return "cannot be compared with"
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "is not clearly different from"
        return "beats" if self.low > 0 else "falls short of"


def compare(model: pd.Series, baseline: pd.Series) -> Comparison:
    """Compare pearson_delta of the model and a baseline over the same perturbations.

    The interval resamples perturbations (2,000 times, fixed seed), as the perturbations of the
    screen are a sample of those one would ask the model about.
    """
    difference = (model - baseline).dropna().to_numpy()
    n = len(difference)
    low = high = None
    if n > 1:
        drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        low, high = map(float, np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975]))
    return Comparison(
        model=finite(model.mean()),
        baseline=finite(baseline.mean()),
        difference=float(difference.mean()) if n else None,
        low=low,
        high=high,
        better=int((difference > 0).sum()),
        of=n,
    )


def metrics_json(
    model: Score,
    baselines: Mapping[str, Score],
    ceiling: pd.DataFrame,
    seen: pd.Series,
) -> dict[str, Any]:
    """Return what `metrics.json` holds; every number is finite or None.

    Args:
        model: the model's score.
        baselines: the baselines' scores.
        ceiling: from `scoring.ceiling`.
        seen: whether training had the perturbation, index = perturbation.
    """
    values = model.metrics
    seen = seen.loc[values.index]
    # One number for the whole set says nothing of a part of it.
    of_one = values.assign(**{name: np.nan for name in OF_THE_SET if name in values})
    return {
        "model": nan_means(values),
        "seen": nan_means(of_one[seen]),
        "unseen": nan_means(of_one[~seen]),
        "baselines": {name: nan_means(score.metrics) for name, score in baselines.items()},
        "ceiling": {
            name: finite(ceiling["ceiling"].get(name, math.nan)) for name in values.columns
        },
        "nan_counts": {str(name): int(count) for name, count in values.isna().sum().items()},
        "perturbations": len(values),
        "perturbations_seen": int(seen.sum()),
        "perturbations_unseen": int((~seen).sum()),
        "not_computed": model.not_computed,
    }
