"""The tables of an evaluation: every score, their means with intervals, what was undefined."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from components.evaluate.measures.calibrated import AVERAGE
from components.evaluate.measures.metrics import CELLS, EVERY, MEANS, METRICS, REFERENCE
from components.evaluate.measures.scoring import OF_THE_SET
from components.evaluate.measures.strata import TRAINING
from components.evaluate.measures.uncertainty import too_few
from components.shared.artifacts import evaluation
from components.shared.artifacts.artifact import EVALUATION, opening
from components.shared.artifacts.evaluation import CEILING, HEADLINE_METRIC, MODEL, SEEN, UNSEEN
from components.shared.artifacts.predictions import CELLS_KIND
from components.shared.findings.paired import interval
from components.shared.telling.errors import InputError

PREDICTED = "perturbations_predicted"
"""Those that were asked for, measured or not."""

PERTURBATIONS = ("perturbations", "perturbations_seen", "perturbations_unseen")
"""Counts of those that were measured."""

Scores = Mapping[str, pd.DataFrame]
"""Metrics of each prediction, index = perturbation; NaN where there is no value."""
Means = dict[str, float | None]


def finite(value: float) -> float | None:
    """Return a float JSON can hold, None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def summary_table(scores: Scores, ceiling: pd.DataFrame | None) -> pd.DataFrame:
    """Summarise every metric of every prediction over the perturbations that have a value.

    A row per prediction and metric: prediction, metric, mean, low and high (bootstrap interval of
    the mean over perturbations, see `uncertainty`), median, max, min, sd, n (with a value),
    undefined. The ceiling (from `yardstick.at_full_depth`, None = there is none) has means alone.
    Metrics that are one number for the whole set have no interval.
    """
    parts = [_summarised(values).assign(prediction=name) for name, values in scores.items()]
    if ceiling is not None:
        means = ceiling["ceiling"].rename("mean").rename_axis("metric").reset_index()
        parts.append(means.assign(prediction=CEILING))
    columns = ["prediction", "metric", "mean", "low", "high", "median", "max", "min", "sd", "n"]
    return pd.concat(parts, ignore_index=True)[[*columns, "undefined"]]


def _summarised(values: pd.DataFrame) -> pd.DataFrame:
    low, high = np.array(
        [
            (np.nan, np.nan) if name in OF_THE_SET else interval(values[name].to_numpy(float))
            for name in values
        ]
    ).T
    found = values.agg(["mean", "median", "max", "min", "std"]).T.rename(columns={"std": "sd"})
    counts = {"n": values.count(), "undefined": values.isna().sum()}
    return found.assign(low=low, high=high, **counts).rename_axis("metric").reset_index()


def described(table: pl.DataFrame) -> pl.DataFrame:
    """Return cell-eval's describe table (`agg_results.csv`) over what has a value.

    In cell-eval's own the mean is NaN as soon as one perturbation's value is; here missing values
    are left out and counted under ``null_count``.
    """
    values = table.drop("perturbation").cast(pl.Float64)
    known = [pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in values.columns]
    return values.select(known).describe()


def undefined_table(scores: Scores, de_genes: pd.Series) -> pd.DataFrame:
    """Count what has no value and say why, by prediction and metric.

    Columns: prediction, metric, undefined, without_de (how many of them have no measured
    differentially expressed gene, as ``de_genes`` counts them), why.
    """
    rows = []
    for name, values in scores.items():
        for metric in values:
            missing = values.index[values[metric].isna()]
            if len(missing):
                without = int((de_genes.reindex(missing) == 0).sum())
                why = EVERY[str(metric)].undefined or "cell-eval computed no value"
                rows.append([name, metric, len(missing), without, why])
    return pd.DataFrame(rows, columns=["prediction", "metric", "undefined", "without_de", "why"])


def nothing_scored(why: str, kind: str) -> dict[str, Any]:
    """Return the numbers of `metrics.json` where nothing was measured: the same keys, empty.

    ``why`` is one sentence; ``kind`` is one of `rank_cells.PREDICTED_CELLS`.
    """
    empty = ["model", "model_means", SEEN, UNSEEN, "baselines", "ceiling", "ours", "intervals"]
    empty += ("nan_counts", "comparisons", "tests", "not_computed", "fallbacks", "diagnosis")
    return {
        "scored": False,
        "not_scored": why,
        **{key: {} for key in empty},
        **dict.fromkeys((*PERTURBATIONS, "perturbations_without_de"), 0),
        "metrics_of": {MEANS: [], CELLS: []},
        "calibrated": {"scores": {}, "raw": {}, "without_scale": {}},
        CELLS_KIND: kind,
    }


def metrics_json(
    summary: pd.DataFrame, strata: pd.DataFrame, groups: pd.DataFrame, comparisons: pd.DataFrame
) -> dict[str, Any]:
    """Return the numbers of `metrics.json`; every one is finite or None.

    From `summary_table`, `strata.by_stratum` over all metrics, `strata.strata` and
    `uncertainty.compare`.
    """
    rows = summary.set_index(["prediction", "metric"])
    named = dict.fromkeys(rows.index.get_level_values(0))
    means = {name: _means(rows.loc[name, "mean"]) for name in named}
    ours = [metric for metric in EVERY if metric not in METRICS]
    model = rows.loc[MODEL]
    every = [str(metric) for metric in model.index if metric in METRICS]
    tests = _tests(comparisons)
    return {
        "scored": True,
        "not_scored": "",
        "model": _only(means[MODEL], every),
        "model_means": _only(means[evaluation.MODEL_MEANS], every),
        **{part: _part(strata, part, every) for part in (SEEN, UNSEEN)},
        "baselines": {
            name: _only(means[name], every) for name in evaluation.BASELINES if name in means
        },
        "ceiling": dict.fromkeys(every) | _only(means.get(CEILING, {}), every),
        "ours": {
            name: _only(found, ours) for name, found in means.items() if name != evaluation.HALF
        },
        "intervals": {
            str(name): [finite(row["low"]), finite(row["high"])] for name, row in model.iterrows()
        },
        "nan_counts": {name: int(count) for name, count in model["undefined"][every].items()},
        "perturbations": len(groups),
        "perturbations_seen": int((groups[TRAINING] == SEEN).sum()),
        "perturbations_unseen": int((groups[TRAINING] == UNSEEN).sum()),
        "comparisons": {
            name: {
                "model": means[MODEL][HEADLINE_METRIC],
                "baseline": means[name][HEADLINE_METRIC],
                **found,
            }
            for name, found in tests.get(HEADLINE_METRIC, {}).items()
        },
        "tests": tests,
        "too_few": too_few(len(groups), comparisons["baseline"].nunique()),
    }


def _tests(comparisons: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each comparison by metric and baseline."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in comparisons.to_dict("records"):
        found.setdefault(str(row["metric"]), {})[str(row["baseline"])] = {
            **{key: finite(row[key]) for key in ("difference", "low", "high", "p", "p_holm")},
            **{key: int(row[key]) for key in ("better", "of")},
            "verdict": row["verdict"],
        }
    return found


def compared(numbers: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what a list of runs shows: the headline metrics and those of the baselines that count.

    KFP's Metrics hold finite numbers only, so of `metrics.json` what has no value is left out.
    """
    if not numbers["scored"]:
        return [(name, float(numbers[name])) for name in (PREDICTED, "perturbations")]
    found = {name: numbers["model"].get(name) for name in REFERENCE} | numbers["ours"][MODEL]
    for name in (evaluation.MEAN_DELTA, evaluation.SAME_PERTURBATION_DELTA):
        found[f"{HEADLINE_METRIC}/{name}"] = numbers["baselines"][name][HEADLINE_METRIC]
    found[f"{HEADLINE_METRIC}/{CEILING}"] = numbers["ceiling"][HEADLINE_METRIC]
    found["vcc2026"] = numbers["calibrated"]["scores"].get(MODEL, {}).get(AVERAGE)
    return [(name, value) for name, value in found.items() if value is not None]


def _means(values: pd.Series) -> Means:
    return {str(name): finite(value) for name, value in values.items()}


def _only(means: Means, metrics: list[str]) -> Means:
    return {name: means[name] for name in metrics if name in means}


def _part(strata: pd.DataFrame, part: str, metrics: list[str]) -> Means:
    """Return the model's means over the perturbations seen, or not seen, in training.

    One number for the whole set says nothing of a part of it.
    """
    chosen = strata[(strata["prediction"] == MODEL) & (strata["group"] == part)]
    found = _means(chosen.set_index("metric")["mean"])
    return {name: None if name in OF_THE_SET else found.get(name) for name in metrics}


def spread_over_seeds(evaluations: Sequence[Path | str]) -> pd.DataFrame:
    """Return mean and spread of each metric's mean over several evaluation artifacts, one a seed.

    A row per prediction and metric: prediction, metric, seeds (with a value), mean, sd (n - 1; NaN
    for one), low and high (the extremes).

    Raises:
        InputError: fewer than two, one given twice, or evaluations of other cells than the first.
    """
    if len(evaluations) < 2:
        raise InputError(f"{len(evaluations)} evaluations; a spread over seeds needs two or more")
    artifacts = [opening(folder, EVALUATION) for folder in evaluations]
    cells = [artifact.provenance["inputs"]["cells"]["sha256"] for artifact in artifacts]
    for number, artifact in enumerate(artifacts):
        if artifact.digest in [other.digest for other in artifacts[:number]]:
            raise InputError(f"{artifact.path}: the same evaluation is given twice")
        if cells[number] != cells[0]:
            raise InputError(
                f"{artifact.path}: evaluates other cells (sha256 {cells[number][:12]}) than "
                f"{artifacts[0].path} ({cells[0][:12]}); give seeds of one data set"
            )
    tables = [pd.read_csv(artifact.path / evaluation.SUMMARY_FILE) for artifact in artifacts]
    grouped = pd.concat(tables).groupby(["prediction", "metric"], sort=False)["mean"]
    found = grouped.agg(seeds="count", mean="mean", sd="std", low="min", high="max")
    return found.reset_index()
