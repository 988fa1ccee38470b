"""cell-eval2's calibrated scores: 0 is the mean response, 1 a replicate of the measurement.

The six scored metrics of its `vcc2026` profile, by its own code and its own rescaling. What it
takes from cells (means, their variance, fold changes, p values) is handed over, so that the rank
test is not done twice and only one perturbation's cells are dense at a time.

It differs from a run of the competition in three ways. The artifacts hold log1p values, so
expression is compared as means of log1p values, which cell-eval2 does where there are no counts,
and genes are not filtered by counts. The mean response is that of the training lines on the test
line's controls, since the test line's own would be taken from the cells that are to be predicted.
The replicate is one split into halves, not the mean of five.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from cell_eval2 import EvalConfig, aggregate_metrics
from cell_eval2.catalog import CATALOG, DerivedAgg
from cell_eval2.de import prepare_de, resolve_target_genes
from cell_eval2.moments import GroupMoments
from cell_eval2.run import dispatch_anndata_metrics, dispatch_de_metrics, metric_output_names
from cell_eval2.scoring import Scoring, is_degenerate, score_one
from numpy.typing import NDArray

from components.evaluate.measures.side import Side

PROFILE = "vcc2026"
AVERAGE = "average"
LFC_NMAE = "de_wilcoxon_lfc_nmae"
FEWEST_GATED = 10
"""cell-eval2 leaves a perturbation with fewer DE genes out of de_wilcoxon_lfc_nmae."""
AT_ONCE = 64
"""Perturbations whose differential expression is compared at a time, for memory."""

Floats = NDArray[np.float64]
Raw = dict[str, float]

SCORED: dict[str, Scoring] = {
    name: spec.scoring
    for name, spec in CATALOG.items()
    if PROFILE in spec.profiles and spec.scoring.scored
}


@dataclass(frozen=True)
class Calibrated:
    """Rescaled scores by prediction, or why there are none."""

    scores: dict[str, Raw]
    """0 = mean response, 1 = replicate, by metric and `AVERAGE`; NaN where there is no scale."""
    raw: dict[str, Raw]
    """As cell-eval2 has them before rescaling, the replicate's among them."""
    without_scale: dict[str, str]
    """Metrics that cannot be rescaled on these cells, with the reason."""


def raw_scores(
    predicted: Side,
    measured: Side,
    genes: list[str],
    *,
    own_controls: bool = False,
    failed: dict[str, str] | None = None,
) -> Raw:
    """Return the profile's metrics before rescaling, aggregated over perturbations.

    One that cannot be computed of these cells is NaN, as pds_cosine is where every gene is some
    perturbation's target; ``failed`` is filled with cell-eval2's reason. ``own_controls``: the
    sides have different controls, as the halves of the ceiling.
    """
    failed = {} if failed is None else failed
    settings = settings_of(measured, genes)
    if own_controls:
        settings = replace(settings, control_source="pred")
    names = [name for name, spec in CATALOG.items() if PROFILE in spec.profiles]
    sides = (predicted, measured)
    bulks, moments = zip(*map(_moments, sides), strict=True)
    with _quiet():
        rows = []
        for name in names:
            with _told(name, failed):
                rows += dispatch_anndata_metrics(
                    [name],
                    bulks[0],
                    bulks[1],
                    np.array(genes),
                    settings,
                    comparator="lognorm",
                    pred_moments=moments[0],
                    real_moments=moments[1],
                )
        folds = [_fold_changes(side, settings.de.epsilon) for side in sides]
        resolution = resolve_target_genes(
            _de(measured, folds[1], genes, slice(1)),  # whose genes those of all are
            measured.perturbations,
            target_gene_map=settings.target_gene_map,
        )
        for start in range(0, len(measured.perturbations), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            prepared = prepare_de(
                *(_de(side, fold, genes, part) for side, fold in zip(sides, folds, strict=True)),
                control=measured.control,
                target_resolution=resolution,
            )
            for name in names:
                with _told(name, failed):
                    rows += dispatch_de_metrics([name], prepared, settings)
        schema = {"perturbation": pl.Utf8, "metric": pl.Utf8, "value": pl.Float64}
        known = pl.DataFrame(rows, schema=schema).filter(~pl.col("metric").is_in(list(failed)))
        found = _aggregated(known, [x for x in metric_output_names(settings) if x not in failed])
    return {name: _number(found.get(name)) for name in SCORED}


@contextmanager
def _told(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Note that a metric cannot be computed, and continue."""
    try:
        yield
    except ValueError as error:
        failed.setdefault(name, " ".join(str(error).split()))


def _aggregated(rows: pl.DataFrame, names: list[str]) -> Raw:
    """Return every metric over all perturbations; NaN where a ratio of sums has no denominator.

    cell-eval2 ends there, since a panel whose measured effects sum to nothing beyond their noise
    cannot be competed on. Its other metrics say something about such cells all the same.
    """
    known = [name for name in names if _has_value(rows, CATALOG[name].derived)]
    table = aggregate_metrics(rows, metrics=known)
    return dict(zip(table["metric"], table["mean"], strict=True))


def _has_value(rows: pl.DataFrame, ratio: DerivedAgg | None) -> bool:
    """Return whether a metric has a value: a ratio of sums needs a positive, finite denominator."""
    if ratio is None:
        return True
    finite = rows.filter(pl.col("value").is_finite())
    above = finite.filter(pl.col("metric") == ratio.numerator)
    below = finite.filter(pl.col("metric") == ratio.denominator)
    return below.join(above, on="perturbation", how="semi")["value"].sum() > 0


def replicate_scores(half: Side, other: Side, whole: Side, genes: list[str]) -> Raw:
    """Return what a replicate scores: one half of the measured cells against the other.

    All measured cells, the ``whole``, say which genes de_wilcoxon_lfc_nmae looks at, as in
    cell-eval2's `compute_lfc_nmae_reference`.
    """
    found = raw_scores(half, other, genes, own_controls=True)
    return found | {LFC_NMAE: _fold_change_error(half, other, whole, genes)}


def _fold_change_error(half: Side, other: Side, whole: Side, genes: list[str]) -> float:
    epsilon = settings_of(whole, genes).de.epsilon
    # Perturbations of a single cell have no halves.
    rows = [whole.perturbations.index(label) for label in half.perturbations]
    size = np.abs(_fold_changes(whole, epsilon)[rows])
    error = np.abs(_fold_changes(half, epsilon) - _fold_changes(other, epsilon))
    gate = whole.called[rows] & np.isfinite(size)
    column = {gene: number for number, gene in enumerate(genes)}
    for row, label in enumerate(half.perturbations):
        if label in column:
            gate[row, column[label]] = False
    gated = [row for row, kept in enumerate(gate) if kept.sum() >= FEWEST_GATED]
    ratios = [error[row][gate[row]].sum() / size[row][gate[row]].sum() for row in gated]
    return float(np.mean(ratios)) if ratios else np.nan


def _moments(side: Side) -> tuple[dict[str, Any], dict[str, GroupMoments]]:
    """Return means and squares in cell-eval2's form, by the name of the space they are in."""
    labels = np.array([side.control, *side.perturbations])
    moments = GroupMoments(labels, side.sizes.astype(np.float64), side.squares)
    return {"lognorm": (labels, side.centroids)}, {"lognorm": moments}


def _fold_changes(side: Side, epsilon: float) -> Floats:
    """Return log2 fold changes of means in counts per 10,000, [perturbations, genes]."""
    logs = np.log2(side.linear_means + epsilon)
    return logs[1:] - logs[0]


def _de(side: Side, fold: Floats, genes: list[str], part: slice) -> pl.DataFrame:
    """Return some perturbations' differential expression in cell-eval2's form."""
    # A cross join repeats names many times as fast as an array of them is read.
    targets = pl.DataFrame({"target": side.perturbations[part]}, schema={"target": pl.String})
    features = pl.DataFrame({"feature": genes})
    return targets.join(features, how="cross", maintain_order="left_right").with_columns(
        pl.Series("log2_fold_change", fold[part].ravel()),
        pl.Series("p_value", side.p_value[part].ravel()),
        pl.Series("p_adj", side.fdr[part].ravel()),
    )


def calibrate(raw: Mapping[str, Raw], zero: Raw, replicate: Raw) -> Calibrated:
    """Rescale scores: from 0, what the mean response scores, to 1, what a replicate does."""
    policies, without = {}, {}
    for name, policy in SCORED.items():
        if why := _no_scale(zero[name], replicate[name], policy):
            without[name] = why
        else:
            policies[name] = _anchored(policy, replicate[name])
    scores = {}
    for prediction, values in raw.items():
        rescaled = {
            name: score_one(values[name], zero[name], policy) for name, policy in policies.items()
        }
        mean = float(np.mean(list(rescaled.values()))) if not without else np.nan
        scores[prediction] = dict.fromkeys(SCORED, np.nan) | rescaled | {AVERAGE: mean}
    return Calibrated(scores, {**raw, "replicate": replicate}, without)


def _anchored(policy: Scoring, replicate: float) -> Scoring:
    return replace(policy, anchor=replicate, allow_negative_baseline=False)


def _no_scale(zero: float, replicate: float, policy: Scoring) -> str:
    """Say why a metric has no scale between the mean response and a replicate, or nothing."""
    for what, value in (("mean response", zero), ("replicate", replicate)):
        if not np.isfinite(value):
            return f"the {what} has no value on these cells"
    better = replicate > zero if policy.direction == "higher" else replicate < zero
    # The first of the two, since cell-eval2 takes no anchor at a metric's worst value.
    if not better or is_degenerate(zero, _anchored(policy, replicate)):
        return f"a replicate ({replicate:.3g}) is no better than the mean response ({zero:.3g})"
    return ""


def settings_of(measured: Side, genes: list[str]) -> EvalConfig:
    """Return the profile's settings for log1p values."""
    known = set(genes)
    return replace(
        EvalConfig.from_preset(PROFILE),
        control=measured.control,
        input_type="lognorm",
        device="cpu",
        # A perturbation of two genes, or of one that is not measured, has no gene to leave out.
        target_gene_map={label: None for label in measured.perturbations if label not in known},
    )


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep cell-eval2 from logging what is counted here anyway."""
    logger = logging.getLogger("cell_eval2")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
