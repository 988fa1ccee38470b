"""Sentences of the card on the scores: which baselines win, and what metrics look at."""

from collections.abc import Mapping
from typing import Any

from components.shared.artifacts.evaluation import HEADLINE, HEADLINE_METRIC
from components.shared.findings.verdict import INCOMPARABLE, standing

WHAT_CELLS_ARE = {
    "rank": "The cells are measured {test_line} controls, mapped gene by gene, by rank, to the "
    "predicted mean, which stays exact. Their spread, zeros and correlation of genes are those of "
    "the controls and no prediction. The baselines' means were turned into cells the same way.",
    "denoised": "The cells are the model's output, cell by cell, which spreads less than measured "
    "cells do; a baseline's cells all hold its mean. Where a mean lies among the controls then "
    "decides these metrics more than effects do: roc_auc below 0.5 is no wrong direction.",
}
"""Content of `X` besides the measured controls, by evaluate's `predicted_cells`."""

Facts = Mapping[str, Any]


def number(value: float | None) -> str:
    """Return a metric's value as text, a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def against_baselines(metrics: Facts) -> list[str]:
    """Return a sentence a baseline: the test in the headline, and how many of all it was."""
    return [_against(name, metrics) for name in metrics["baselines"]]


def _against(name: str, metrics: Facts) -> str:
    test = metrics["comparisons"].get(name)
    if not test or test["difference"] is None:
        return f"In {HEADLINE_METRIC} the model {INCOMPARABLE} `{name}`."
    text = (
        f"In {HEADLINE_METRIC} the model **{test['verdict']}** `{name}`: {number(test['model'])} "
        f"against {number(test['baseline'])}"
    )
    if test["low"] is not None and test["high"] is not None:
        text += (
            f" (paired difference {test['difference']:+.4f}, 95 % interval {test['low']:+.4f} to "
            f"{test['high']:+.4f}, ahead in {test['better']} of {test['of']} perturbations)"
        )
    return f"{text}. In all: {standing(metrics, name).counted}."


def means_and_cells(metrics: Facts, test_line: str) -> list[str]:
    """Return which metrics of the table look at predicted means and which at predicted cells."""
    of = {
        what: ", ".join(name for name in HEADLINE if name in names)
        for what, names in metrics["metrics_of"].items()
    }
    return [
        f"Of the predicted means (`varm['predicted_mean']`) alone: {of['means']}.",
        f"Of the predicted cells (`X`): {of['cells']}. "
        + WHAT_CELLS_ARE[metrics["predicted_cells"]].format(test_line=test_line),
    ]
