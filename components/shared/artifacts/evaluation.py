"""The contract of an evaluation: its files, its predictions, its metrics."""

from pathlib import Path
from typing import Any

from components.shared.artifacts.shapes import MEANS, VALUE
from components.shared.storage.documents import Shape, read_json

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
EXPLORER_FILE = "explorer.html"
SUMMARY_PAGE = "summary.md"

RESULTS_FILE = "results.csv"
AGGREGATED_FILE = "agg_results.csv"
"""Both under cell-eval's own names."""
SCORES_FILE = "scores.csv"
SUMMARY_FILE = "summary.csv"
COMPARISONS_FILE = "comparisons.csv"
STRATA_FILE = "strata.csv"
GROUPS_FILE = "groups.csv"
"""The kind of each scored perturbation; compare reads it."""
UNDEFINED_FILE = "undefined.csv"
CALIBRATION_FILE = "calibration.csv"
CALLED_FILE = "called_by_expression.csv"

MODEL = "model"
MODEL_MEANS = "model_means"
"""The model's predicted mean in every cell: it tells what the cells add."""
CONTROL_CELLS = "control_cells"
CONTROL_MEAN = "control_mean"
MEAN_DELTA = "mean_delta"
SAME_PERTURBATION_DELTA = "same_perturbation_delta"
RIDGE = "prior_ridge"
KNOWN_EFFECTS = "known_effects"
"""What a model with the prior `effects` started from: the difference is what its network added. A
part of the model, so the verdict takes it for no baseline."""
BASELINES = (
    CONTROL_CELLS,
    CONTROL_MEAN,
    MEAN_DELTA,
    SAME_PERTURBATION_DELTA,
    RIDGE,
    KNOWN_EFFECTS,
)
"""In the order of what they know."""
HALF = "measured_half"
"""One half of the measured cells as a prediction of the other, at half the depth."""
CEILING = "ceiling"
"""The same, mapped to full depth."""
TITLES = {
    MODEL: "model",
    MODEL_MEANS: "model's means",
    CONTROL_CELLS: "control cells",
    CONTROL_MEAN: "control mean",
    MEAN_DELTA: "mean training delta",
    SAME_PERTURBATION_DELTA: "same-perturbation training delta",
    RIDGE: "ridge on the prior",
    KNOWN_EFFECTS: "known effects alone",
    HALF: "half of the measured cells",
    CEILING: "ceiling",
}

HEADLINE_METRIC = "pearson_delta"
"""The metric of a verdict, named beforehand: of many, one would always look good."""
MAE_DELTA = "mae_delta"
HEADLINE = (
    HEADLINE_METRIC,
    MAE_DELTA,
    "discrimination_score_l1",
    "overlap_at_N",
    "de_direction_match",
    "de_sig_genes_recall",
    "pr_auc",
    "roc_auc",
)
"""cell-eval's metrics that the reference run reports, in the order of every table here."""
CENTRED = "pearson_delta_centred"
"""Ours: the headline metric without what all perturbations share."""
COMPARED = (*HEADLINE, CENTRED)
"""Metrics in which the model is compared with each baseline, and that a verdict counts."""

SEEN, UNSEEN = "seen", "unseen"
"""Whether training had a perturbation, in another line."""

NUMBERS: Shape = {
    "model": MEANS,
    "seen?": MEANS,
    "unseen?": MEANS,
    "baselines?": {str: MEANS},
    "ceiling?": MEANS,
    "nan_counts?": {str: int},
    "comparisons?": {
        str: {
            "model?": VALUE,
            "baseline?": VALUE,
            "difference": VALUE,
            "low": VALUE,
            "high": VALUE,
            "better": int,
            "of": int,
            "verdict": str,
        }
    },
    "tests?": {str: {str: {"verdict": str}}},
    "not_computed?": {str: str},
    "fallbacks?": {str: int},
    "metrics_of?": {"means": [str], "cells": [str]},
    "predicted_cells?": str,
    "scored?": bool,
    "not_scored?": str,
    "perturbations?": int,
    "perturbations_seen?": int,
    "perturbations_unseen?": int,
    "perturbations_without_de?": int,
    "run?": {str: str},
    "limitations?": [str],
}
"""`metrics.json` of an evaluation."""


def read_numbers(folder: Path) -> dict[str, Any]:
    """Return what `metrics.json` holds in the folder of an artifact, or where it was published."""
    file = folder / METRICS_FILE
    return read_json(file, str(file), "run the evaluate task again", NUMBERS)


def lower_is_better(metric: str) -> bool:
    """Return whether a metric is an error."""
    return metric.startswith(("mae", "mse"))
