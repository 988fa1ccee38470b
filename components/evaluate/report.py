"""The HTML report: one file, no network, what a reader needs to believe or doubt the numbers."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from components.evaluate import plots
from components.evaluate.baselines import (
    CONTROL_MEAN,
    MEAN_DELTA,
    SAME_PERTURBATION_DELTA,
)
from components.evaluate.metrics import (
    CELLS,
    HEADLINE,
    HIGHER,
    LOWER,
    MEANS,
    METRICS,
    OTHERS,
    Metric,
)
from components.evaluate.pair import Pair
from components.evaluate.scoring import OF_THE_SET, Score
from components.evaluate.summary import HEADLINE_METRIC, Comparison

TITLES = {
    CONTROL_MEAN: "control mean",
    MEAN_DELTA: "mean training delta",
    SAME_PERTURBATION_DELTA: "same-perturbation training delta",
}
EXPLAINED = {
    CONTROL_MEAN: "the mean of the test line's basal controls: no effect at all",
    MEAN_DELTA: "the control mean plus the mean delta over all training lines and perturbations: "
    "the same effect for every perturbation",
    SAME_PERTURBATION_DELTA: "the control mean plus the perturbation's own delta, averaged over "
    "the training lines that have it",
}


@dataclass(frozen=True)
class Evaluation:
    """All that the report tells."""

    pair: Pair
    model: Score
    baselines: dict[str, Score]
    ceiling: pd.DataFrame
    """From `scoring.ceiling`."""
    comparisons: dict[str, Comparison]
    """Model against each baseline in pearson_delta."""
    seen: pd.Series
    """Whether training had each perturbation."""
    fallbacks: list[str]
    """Perturbations whose same-perturbation baseline is the mean delta."""
    numbers: dict[str, Any]
    """What `metrics.json` holds."""
    test_line: str
    train_lines: list[str]
    digests: dict[str, str]
    """sha256 of each input artifact."""


def write_report(facts: Evaluation, file: Path) -> None:
    """Write the report."""
    template = files("components.evaluate").joinpath("report.html.j2").read_text()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["signed"] = lambda value: number(value, "+.3f")
    file.write_text(environment.from_string(template).render(_content(facts)), encoding="utf-8")


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number for a table; a dash where there is none."""
    return "\N{EN DASH}" if value is None else format(value, form).replace("-", "\N{MINUS SIGN}")


def _content(facts: Evaluation) -> dict[str, Any]:
    numbers = facts.numbers
    own = facts.model.metrics[HEADLINE_METRIC]
    found = own.dropna()
    return {
        "test_line": facts.test_line,
        "train_lines": facts.train_lines,
        "numbers": numbers,
        "cells": int((facts.pair.labels != facts.pair.control).sum()),
        "controls": int((facts.pair.labels == facts.pair.control).sum()),
        "genes": len(facts.pair.genes),
        "titles": TITLES,
        "explained": EXPLAINED,
        "headline": [_row(metric, numbers) for metric in HEADLINE],
        "others": [_row(METRICS[name], numbers) for name in _computed(numbers)],
        "metrics": HEADLINE,
        "of": {what: _of(what) for what in (MEANS, CELLS)},
        "comparisons": facts.comparisons,
        "parts": [
            _row(metric, numbers)
            | {
                "seen": numbers["seen"].get(metric.name),
                "unseen": numbers["unseen"].get(metric.name),
            }
            for metric in HEADLINE
        ],
        "fallbacks": facts.fallbacks,
        "of_the_set": OF_THE_SET,
        "best": _extremes(found, largest=True),
        "worst": _extremes(found, largest=False),
        "plots": _plots(facts, own),
        "digests": facts.digests,
        "without_ceiling": facts.ceiling.empty,
    }


def _of(what: str) -> str:
    return ", ".join(metric.name for metric in HEADLINE if metric.of == what)


def _computed(numbers: dict[str, Any]) -> list[str]:
    return [metric.name for metric in OTHERS if metric.name in numbers["model"]]


def _row(metric: Metric, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return a metric's line of the table, each baseline marked by how the model compares."""
    value = numbers["model"].get(metric.name)
    cells = []
    for means in numbers["baselines"].values():
        other = means.get(metric.name)
        cells.append({"value": other, "mark": _mark(value, other, metric.better)})
    return {
        "metric": metric,
        "model": value,
        "baselines": cells,
        "ceiling": numbers["ceiling"].get(metric.name),
        "n_nan": numbers["nan_counts"].get(metric.name, 0),
    }


def _mark(model: float | None, other: float | None, better: str) -> str:
    """Return 'better' or 'worse' for the model beside a baseline, or nothing."""
    if model is None or other is None or model == other or better not in (HIGHER, LOWER):
        return ""
    return "better" if (model > other) == (better == HIGHER) else "worse"


def _extremes(found: pd.Series, *, largest: bool, most: int = 5) -> list[tuple[str, float]]:
    ordered = found.sort_values(ascending=not largest, kind="stable")
    return [(str(label), float(value)) for label, value in ordered.head(most).items()]


def _plots(facts: Evaluation, own: pd.Series) -> dict[str, str]:
    others = {name: score.metrics[HEADLINE_METRIC] for name, score in facts.baselines.items()}
    predicted, measured = facts.pair.deltas()
    size = pd.Series(np.abs(measured).mean(axis=1), index=facts.pair.perturbations)
    same = TITLES[SAME_PERTURBATION_DELTA]
    drawn = {
        "distributions": plots.distributions(
            {"model": own} | {TITLES[name]: values for name, values in others.items()},
            HEADLINE_METRIC,
        ),
        "against": plots.model_against(
            own, others[SAME_PERTURBATION_DELTA], facts.seen, HEADLINE_METRIC, same
        ),
        "effect_size": plots.effect_size(size, own, facts.seen, HEADLINE_METRIC),
    }
    ordered = own.dropna().sort_values(ascending=False, kind="stable")
    if len(ordered):
        middle = (len(ordered) - 1) // 2
        places = dict.fromkeys([0, middle, len(ordered) - 1])
        what = {0: "best", len(ordered) - 1: "worst", middle: "median"} | {0: "best"}
        chosen = [(what[at], str(ordered.index[at]), float(ordered.iloc[at])) for at in places]
        rows = [facts.pair.perturbations.index(label) for _, label, _ in chosen]
        drawn["effects"] = plots.effects(chosen, predicted[rows], measured[rows], facts.pair.genes)
    if facts.seen.any() and not facts.seen.all():
        flags = facts.seen.loc[own.index]
        drawn["seen"] = plots.distributions(
            {"seen in training": own[flags], "not seen": own[~flags]},
            HEADLINE_METRIC,
            plots.OTHER_COLOUR,
        )
    return drawn
