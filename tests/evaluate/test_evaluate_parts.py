"""What the evaluation is put together from: statistics, strata, diagnosis, ridge, the command."""

import os
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from anndata import AnnData
from cell_eval2 import aggregate_metrics, compute_lfc_nmae_reference, compute_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu, pearsonr, wilcoxon
from statsmodels.stats.multitest import multipletests

from components.evaluate.contenders.ridge import PENALTIES, ridge_deltas
from components.evaluate.contenders.yardstick import Yardstick, halves
from components.evaluate.inputs.asked import asked_of, read_asked
from components.evaluate.inputs.pair import Pair, pair_of, predicted_of
from components.evaluate.inputs.repeat import repeat_command
from components.evaluate.inputs.rows import dense
from components.evaluate.inputs.training_lines import Training
from components.evaluate.measures import metrics
from components.evaluate.measures.calibrated import (
    AVERAGE,
    LFC_NMAE,
    SCORED,
    calibrate,
    raw_scores,
    replicate_scores,
    settings_of,
)
from components.evaluate.measures.centred import pearson_delta_centred
from components.evaluate.measures.diagnosis import EDGES, calls, control_skew, diagnose
from components.evaluate.measures.measured import Measured
from components.evaluate.measures.scoring import score
from components.evaluate.measures.side import Side
from components.evaluate.measures.strata import by_stratum, strata
from components.evaluate.measures.uncertainty import (
    BEATS,
    FALLS_SHORT,
    SMALLEST,
    UNCLEAR,
    compare,
    interval,
)
from components.evaluate.pages import effect_tables
from components.evaluate.pages.effect_tables import Effects
from components.evaluate.pages.summary import (
    described,
    spread_over_seeds,
    summary_table,
    undefined_table,
)
from components.shared.artifacts.artifact import CELLS, EVALUATION, Artifact, opening, writing
from components.shared.artifacts.evaluation import COMPARED, HEADLINE, SEEN, UNSEEN
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import MEASURED, PERTURBATIONS_FILE, TRUTH
from components.shared.findings.paired import holm
from components.shared.model.rank_cells import rank_cells
from components.shared.telling.errors import InputError
from pipelines.run import assignments_in
from tests.helpers import screen

METRIC = "pearson_delta"
values = st.one_of(st.just(float("nan")), st.floats(-1, 1))


def frame(*columns: list[float], metric: str = METRIC) -> list[pd.DataFrame]:
    labels = [f"P{i}" for i in range(len(columns[0]))]
    return [pd.DataFrame({metric: column}, index=labels, dtype=float) for column in columns]


# --- uncertainty


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=30))
def test_a_comparison_is_paired_bounded_and_turns_with_its_sides(pairs) -> None:
    model, baseline = frame(*map(list, zip(*pairs, strict=True)))
    (found,) = compare(model, {"b": baseline}, [METRIC]).to_dict("records")
    (turned,) = compare(baseline, {"b": model}, [METRIC]).to_dict("records")
    both = [m - b for m, b in pairs if not np.isnan(m) and not np.isnan(b)]
    assert found["of"] == len(both) and found["better"] + turned["better"] <= len(both)
    opposite = {BEATS: FALLS_SHORT, FALLS_SHORT: BEATS}
    assert turned["verdict"] == opposite.get(found["verdict"], found["verdict"])
    if not both:
        assert found["verdict"] == "cannot be compared with"
        return
    assert found["difference"] == pytest.approx(np.mean(both), abs=1e-12)
    if len(both) > 1:
        assert found["low"] - 1e-9 <= max(both) and found["high"] + 1e-9 >= min(both)
        p = wilcoxon(both).pvalue if any(both) else 1.0
        assert found["p"] == pytest.approx(p) and found["p_holm"] == found["p"]


def test_holm_corrects_over_the_baselines_of_a_metric() -> None:
    rng = np.random.default_rng(0)
    model = pd.DataFrame({"pearson_delta": rng.normal(0.2, 0.2, 20), "mae_delta": rng.random(20)})
    others = {name: model + rng.normal(0, 0.1, model.shape) for name in ("a", "b")}
    table = compare(model, others, ["pearson_delta", "mae_delta"])
    for _, own in table.groupby("metric"):
        order = np.argsort(own["p"].to_numpy())
        expected = np.maximum.accumulate(own["p"].to_numpy()[order] * np.arange(2, 0, -1))
        np.testing.assert_allclose(own["p_holm"].to_numpy()[order], np.minimum(expected, 1))


def test_a_win_needs_both_the_test_and_the_interval_and_errors_count_downwards() -> None:
    few = frame([0.5] * 4, [0.1, 0.2, 0.3, 0.2])
    assert compare(few[0], {"b": few[1]}, [METRIC])["verdict"][0] == UNCLEAR  # p = 0.125
    rng = np.random.default_rng(1)
    low, high = frame(list(rng.random(30)), list(rng.random(30) + 1), metric="mae_delta")
    found = compare(low, {"b": high}, ["mae_delta"])
    assert found["verdict"][0] == BEATS and found["better"][0] == 30


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(60):
        low, high = interval(rng.normal(1.0, 1.0, 40))
        covered.append(low <= 1.0 <= high)
    assert 50 <= sum(covered) <= 60
    assert np.isnan(interval(np.array([1.0, np.nan]))).all()
    assert interval(np.array([0.5, 0.5, np.nan])) == (0.5, 0.5)


# --- strata and tables


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 40)), min_size=1),
)
def test_every_perturbation_is_in_one_group_of_each_kind(rows) -> None:
    seen, cells, de = (pd.Series(list(column)) for column in zip(*rows, strict=True))
    groups = strata(seen, cells, de)
    assert not groups.isna().any().any()
    assert ((groups["training"] == SEEN) == seen).all()
    for name, counts in (("cells", cells), ("measured DE genes", de)):
        for label, part in counts.groupby(groups[name], observed=True):
            low, *high = map(int, str(label).split(" to "))
            assert part.min() == low and part.max() == (high[0] if high else low)
    assert set(groups.loc[de == 0, "measured DE genes"]) <= {"0"}


def test_means_by_stratum_leave_out_and_count_what_has_no_value() -> None:
    (model,) = frame([0.1, 0.3, np.nan, 0.8])
    seen = pd.Series([True, True, True, False], index=model.index)
    groups = strata(seen, pd.Series(5, model.index), pd.Series(range(4), model.index))
    table = by_stratum({"model": model}, groups, [METRIC]).set_index(["stratum", "group"])
    trained = table.loc["training"]
    assert list(trained.index) == [SEEN, UNSEEN]
    assert list(trained["mean"]) == pytest.approx([0.2, 0.8])
    assert list(trained["perturbations"]) == [3, 1] and list(trained["undefined"]) == [1, 0]
    assert list(table.loc["cells"].index) == ["5"]


def test_the_describe_table_leaves_out_what_is_missing_and_counts_it() -> None:
    table = pl.DataFrame(
        {
            "perturbation": ["a", "b", "c", "d"],
            "roc_auc": [0.5, float("nan"), None, float("inf")],
            "mae": [1, 2, 3, 4],
        }
    )
    found = described(table).to_pandas().set_index("statistic").astype(float)
    assert found.loc["mean", "roc_auc"] == 0.5
    assert found.loc["null_count", "roc_auc"] == 3
    assert found.loc["mean", "mae"] == 2.5 and found.loc["null_count", "mae"] == 0


def test_the_summary_has_intervals_but_not_for_one_number_of_the_whole_set() -> None:
    values = pd.DataFrame(
        {METRIC: [0.1, 0.2, 0.6, np.nan], "pearson_edistance": [0.5] * 4}, index=list("abcd")
    )
    ceiling = pd.DataFrame({"ceiling": [0.9]}, index=pd.Index([METRIC], name="metric"))
    table = summary_table({"model": values}, ceiling).set_index(["prediction", "metric"])
    own = table.loc[("model", METRIC)]
    assert own["mean"] == pytest.approx(0.3) and own["median"] == 0.2 and own["max"] == 0.6
    assert own["low"] < 0.3 < own["high"] and own["undefined"] == 1
    assert np.isnan(table.loc[("model", "pearson_edistance"), "low"])
    assert table.loc[("ceiling", METRIC), "mean"] == 0.9


def test_what_is_undefined_is_counted_with_its_reason() -> None:
    values = pd.DataFrame({"roc_auc": [np.nan, np.nan, 0.5], METRIC: [1.0, 1, 1]}, list("abc"))
    table = undefined_table({"model": values}, pd.Series([0, 7, 3], list("abc")))
    (row,) = table.to_dict("records")
    assert (row["metric"], row["undefined"], row["without_de"]) == ("roc_auc", 2, 1)
    assert "none or all" in row["why"]
    nowhere = pd.DataFrame({"mae_delta": [np.nan]}, ["a"])
    (row,) = undefined_table({"model": nowhere}, pd.Series([1], ["a"])).to_dict("records")
    assert row["why"] == "cell-eval computed no value"


def predictions_of(cells: np.ndarray | csr_matrix, labels: list[str]) -> AnnData:
    """Return what `predict` writes, where prediction and truth are the same cells."""
    obs = pd.DataFrame({"perturbation": labels, "cell_line": "l", "seen_in_training": True})
    obs["is_control"] = obs["perturbation"] == CONTROL
    adata = AnnData(cells, obs.set_index(obs.index.astype(str)))
    adata.layers[TRUTH] = adata.X.copy()
    adata.uns |= {"perturbation_column": "perturbation", "control": CONTROL}
    return adata


@pytest.mark.parametrize("kind", [csr_matrix, np.asarray])
def test_what_was_measured_of_the_predicted_perturbations_is_compared_in_its_own_rows(
    kind: Callable,
) -> None:
    labels = ["B", "A", CONTROL, "B", CONTROL, "A", "C"]
    cells = np.random.default_rng(0).random((7, 5), np.float32)
    adata = predictions_of(kind(cells), labels)
    adata.layers[TRUTH] = kind(cells + np.array([[1], [1], [0], [1], [0], [1], [1]], np.float32))
    whole, pair = predicted_of(adata, "here")
    assert whole is pair
    adata.obs[MEASURED] = [label != "A" for label in labels]
    whole, pair = predicted_of(adata, "here")
    assert whole.perturbations == ["A", "B", "C"] and pair and pair.perturbations == ["B", "C"]
    rows = [0, 2, 3, 4, 6]
    assert pair.obs.index.tolist() == [str(row) for row in rows]
    np.testing.assert_array_equal(dense(pair.predicted[:]), dense(adata.X)[rows])
    np.testing.assert_array_equal(dense(pair.measured[:]), dense(adata.layers[TRUTH])[rows])
    np.testing.assert_array_equal(dense(whole.predicted[:]), cells)
    adata.obs[MEASURED] = adata.obs["is_control"]
    del adata.layers[TRUTH]
    assert predicted_of(adata, "here")[1] is None
    with pytest.raises(InputError, match=r"^here: no perturbed cell was measured"):
        pair_of(adata, "here")


@pytest.mark.parametrize(
    ("unmeasured", "told"),
    [([2], "is false of a control"), ([0], "some cells of 'B' are measured and others are not")],
)
def test_a_measurement_that_is_there_for_some_cells_of_a_label_is_refused(
    unmeasured: list[int], told: str
) -> None:
    labels = ["B", "A", CONTROL, "B", CONTROL]
    adata = predictions_of(np.full((5, 3), 0.5, np.float32), labels)
    adata.obs[MEASURED] = ~np.isin(np.arange(5), unmeasured)
    with pytest.raises(InputError, match=f"^here: .*{told}"):
        pair_of(adata, "here")


@pytest.mark.parametrize("place", [0, 1, -1, None])
@pytest.mark.parametrize("kind", [csr_matrix, np.asarray])
def test_one_value_that_is_no_whole_number_tells_log1p_from_counts(
    place: int | None, kind: Callable
) -> None:
    values = np.full((40, 60), 2.0, np.float32)  # more than are looked at together
    if place is not None:
        values.flat[place] = 0.5
    adata = predictions_of(kind(values), ["A"] * 20 + [CONTROL] * 20)
    if place is None:
        with pytest.raises(InputError, match="only whole numbers"):
            pair_of(adata, "here")
    else:
        assert pair_of(adata, "here").perturbations == ["A"]


# --- centred deltas, calls, diagnosis


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(3, 20), st.integers(0, 10_000))
def test_centred_correlation_is_numpys_and_ignores_a_shift_common_to_both(p, genes, seed) -> None:
    rng = np.random.default_rng(seed)
    predicted, measured = rng.normal(size=(2, p, genes))
    found = pearson_delta_centred(predicted, measured)
    common = measured.mean(axis=0)
    expected = [pearsonr(a - common, b - common)[0] for a, b in zip(predicted, measured)]  # noqa: B905
    np.testing.assert_allclose(found, expected, atol=1e-9)
    shift = rng.normal(size=genes) * 5
    np.testing.assert_allclose(
        found, pearson_delta_centred(predicted + shift, measured + shift), atol=1e-6
    )


def test_the_mean_effect_predicts_nothing_once_it_is_taken_away() -> None:
    measured = np.random.default_rng(0).normal(1, 0.1, (4, 30))
    mean = np.tile(measured.mean(axis=0), (4, 1))
    assert np.isnan(pearson_delta_centred(mean, measured)).all()
    assert np.isnan(pearson_delta_centred(measured[:1], measured[:1])).all()


def test_every_gene_is_counted_in_one_bin_of_fdr_and_one_quintile() -> None:
    rng = np.random.default_rng(0)
    fdr, really = rng.random((3, 50)) ** 4, rng.random((3, 50)) < 0.2
    fdr[0, :3] = 0.0, 0.05, 1.0
    found = calls(fdr, really, rng.random(50))
    table = found.calibration
    assert table["genes"].sum() == 150
    assert (table["genes"] * table["really_de"]).sum() == pytest.approx(really.sum())
    inside = (fdr >= EDGES[3]) & (fdr < EDGES[4])
    assert table["really_de"][3] == pytest.approx(really[inside].mean())
    assert table["genes"].iloc[-1] == (fdr >= 0.5).sum()  # 1 itself too
    called = found.by_expression
    assert called["measured"].mean() == pytest.approx(really.mean())
    assert called["predicted"].mean() == pytest.approx((fdr < 0.05).mean())
    assert called["mean"].is_monotonic_increasing and len(called) == 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=2, max_size=12), st.floats(0, 3))
def test_control_skew_is_what_the_rank_test_makes_of_one_value_in_every_cell(controls, c) -> None:
    column = np.array(controls, dtype=np.float32)
    value = np.float32(c)
    u = mannwhitneyu(np.full(3, value), column).statistic / (3 * len(column))
    skew = control_skew(np.array([[float(value)]]), column[:, None])
    assert skew[0, 0] == pytest.approx(abs(2 * u - 1), abs=1e-6)


def _screen_with_power(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return controls and which genes are called: well expressed ones, as in real screens."""
    rate = np.geomspace(0.05, 20, 120)
    factor = np.where(rng.random(120) < 0.4, 1.5, 1.0)
    controls, cells = (np.log1p(rng.poisson(rate * f, (300, 120))) for f in (1.0, factor))
    return controls, mannwhitneyu(cells, controls).pvalue < 0.001


def test_a_mean_in_every_cell_is_diagnosed_and_real_cells_are_not() -> None:
    rng = np.random.default_rng(0)
    controls, really = _screen_with_power(rng)
    mean = controls.mean(axis=0)
    fdr = mannwhitneyu(np.tile(mean, (50, 1)), controls).pvalue  # knows nothing of effects
    skew = control_skew(mean[None], controls)
    found = diagnose(fdr[None], really[None], skew)
    assert found and found.roc_auc < 0.45 and found.skew_roc_auc < 0.45
    assert found.agreement > 0.8 and found.explained
    wrong = np.where(really, 1.0, rng.random(120) * 1e-3)[None]  # calls all the others
    mapped = rank_cells(controls[:50].astype(np.float32), mean, rng)
    blamed = diagnose(wrong, really[None], control_skew(mapped.mean(axis=0)[None], controls))
    assert blamed and blamed.roc_auc < 0.1 and not blamed.explained
    assert diagnose(fdr[None], np.zeros((1, 120), bool), skew) is None


def test_a_prediction_that_calls_every_gene_alike_agrees_with_nothing() -> None:
    controls, really = _screen_with_power(np.random.default_rng(0))
    skew = control_skew(controls.mean(axis=0)[None], controls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose(np.ones((1, 120)), really[None], skew)
        level = diagnose(np.linspace(0, 1, 120)[None], really[None], np.full((1, 120), 0.3))
    assert found and found.agreement == 0 and found.roc_auc == 0.5
    assert level and level.agreement == 0 and level.skew_roc_auc == 0.5


# --- ridge


def test_ridge_finds_what_vectors_say_of_effects_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    labels = [f"P{i:02d}" for i in range(60)]
    x, weights = rng.normal(size=(60, 6)), rng.normal(size=(6, 25))
    y = x @ weights + rng.normal(0, 0.3, (60, 25)) + 2.0
    training = Training(np.ones(25), labels[:50], y[:50])
    vectors = dict(zip(labels, x, strict=True))
    found = ridge_deltas(training, vectors, labels[50:])
    error = np.mean((np.array([found[label] for label in labels[50:]]) - y[50:]) ** 2)
    assert error < 0.15 * y[50:].var(axis=0).mean()
    noise = {label: rng.normal(size=6) for label in labels}
    useless = np.array(list(ridge_deltas(training, noise, labels[50:]).values()))
    mean = training.mean_delta()
    assert np.abs(useless - mean).mean() < 0.2 * np.abs(y[50:] - mean).mean()
    assert ridge_deltas(training, {"P00": x[0], "P55": x[5]}, ["P55"]) == {}
    assert ridge_deltas(training, vectors, ["elsewhere"]) == {}
    assert np.all(np.diff(PENALTIES) > 0)


# --- cell-eval2


@pytest.fixture(scope="module")
def pair() -> Pair:
    labels = ("G0", "G1", "G2", "X0", "G1+G2")
    obs, X, genes = screen(  # noqa: N806
        lines=("rpe1",), perturbations=labels, genes=90, cells_each=40, controls_each=150
    )
    obs = obs.assign(is_control=obs["perturbation"] == "non-targeting", seen_in_training=True)
    rng = np.random.default_rng(0)
    measured = X.astype(np.float32)
    predicted = np.clip(measured + rng.normal(0, 0.5, X.shape), 0, 14).astype(np.float32)
    predicted[obs["is_control"]] = measured[obs["is_control"]]
    return Pair(
        csr_matrix(predicted), obs, genes, "perturbation", "non-targeting", csr_matrix(measured)
    )


def _groups(pair: Pair) -> tuple[Side, Side]:
    measured = Measured.of(pair, threads=1)
    return score(pair, threads=1, measured=measured, what="cells").predicted, measured.side


def _theirs(pair: Pair, whole: Side, **changes: str) -> dict[str, float]:
    config = replace(settings_of(whole, pair.genes), cache_strict=False, num_threads=1, **changes)
    config = replace(config, pert_col=pair.perturbation_column)
    table = aggregate_metrics(compute_metrics(*pair.anndata(), config=config))
    return dict(zip(table["metric"], table["mean"], strict=True))


def test_the_raw_scores_are_cell_eval2s_own(pair: Pair) -> None:
    predicted, measured = _groups(pair)
    found, theirs = raw_scores(predicted, measured, pair.genes), _theirs(pair, measured)
    assert set(found) == set(SCORED) and len(SCORED) == 6
    for name, value in found.items():
        assert value == pytest.approx(theirs[name], rel=1e-6, abs=1e-9), name


def test_cells_without_any_effect_lose_one_metric_and_keep_the_others(pair: Pair) -> None:
    controls = pair.obs["is_control"].to_numpy()
    nothing = pair.measured.tolil()
    for label in set(pair.obs["perturbation"]) - {pair.control}:
        of_label = np.flatnonzero(pair.obs["perturbation"] == label)
        nothing[of_label] = pair.measured[np.flatnonzero(controls)[: len(of_label)]]
    predicted, measured = _groups(replace(pair, measured=nothing.tocsr()))
    found = raw_scores(predicted, measured, pair.genes)
    assert np.isnan(found["expr_mse_unbiased_capped_norm"]) and np.isfinite(found["pds_cosine"])
    without = calibrate({"model": found}, found, found).without_scale
    assert "has no value on these cells" in without["expr_mse_unbiased_capped_norm"]


def test_a_panel_whose_every_gene_was_knocked_down_loses_one_metric_with_its_reason(
    pair: Pair,
) -> None:
    few = [pair.genes.index(gene) for gene in ("G0", "G1", "G2")]
    rows = np.flatnonzero(pair.obs["perturbation"].isin(["G0", "G1", "G2", pair.control]))
    panel = replace(
        pair,
        predicted=pair.predicted[rows][:, few],
        measured=pair.measured[rows][:, few],
        obs=pair.obs.iloc[rows],
        genes=[pair.genes[column] for column in few],
    )
    found = Yardstick.of(panel, threads=1).examine(panel, what="panel")
    assert np.isnan(found.calibrated["pds_cosine"])
    assert "remove every one of the 3 measured gene" in found.not_computed["pds_cosine"]
    assert np.isfinite(found.calibrated["de_wilcoxon_sig_jaccard"])


def test_the_replicate_is_cell_eval2s_own(pair: Pair) -> None:
    whole = _groups(pair)[1]
    split = halves(pair)
    assert split
    half, other = _groups(split)
    found = replicate_scores(half, other, whole, pair.genes)
    theirs = _theirs(split, whole, control_source="pred")
    for name in set(SCORED) - {LFC_NMAE}:
        assert found[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-9), name
    config = replace(
        settings_of(whole, pair.genes), num_threads=1, pert_col=pair.perturbation_column
    )
    _, reference = compute_lfc_nmae_reference(pair.anndata()[1], config=config, seed=0)
    assert found[LFC_NMAE] == pytest.approx(reference["nmae_ref_raw"][0], rel=1e-6)


def test_calibrated_scores_are_0_at_the_mean_response_and_1_at_a_replicate() -> None:
    zero = dict.fromkeys(SCORED, 0.2) | {
        "expr_mse_unbiased_capped_norm": 1.0,
        LFC_NMAE: 1.0,
        "pds_cosine": 0.5,
    }
    replicate = {name: 0.9 if value < 0.9 else 0.1 for name, value in zero.items()}
    between = {name: (zero[name] + replicate[name]) / 2 for name in SCORED}
    found = calibrate({"zero": zero, "one": replicate, "half": between}, zero, replicate)
    for name, expected in (("zero", 0.0), ("one", 1.0), ("half", 0.5)):
        for metric in (*SCORED, AVERAGE):
            if (name, metric) != ("half", AVERAGE):
                assert found.scores[name][metric] == pytest.approx(expected, abs=0.3)
    assert found.scores["zero"][AVERAGE] == pytest.approx(0.0)
    assert found.scores["one"][AVERAGE] == pytest.approx(1.0)
    worse = replicate | {"pds_cosine": 0.4}
    without = calibrate({"zero": zero}, zero, worse)
    assert "no better than the mean response" in without.without_scale["pds_cosine"]
    assert np.isnan(without.scores["zero"][AVERAGE])
    nothing = calibrate({"zero": zero}, zero, replicate | {LFC_NMAE: np.nan})
    assert "replicate has no value" in nothing.without_scale[LFC_NMAE]


# --- seeds


def _evaluation(folder: Path, cells: Artifact, mean: float) -> Path:
    with writing(folder, EVALUATION, parameters={}, inputs={"cells": cells}) as draft:
        table = pd.DataFrame({"prediction": ["model"], "metric": [METRIC], "mean": [mean]})
        table.to_csv(draft.path / "summary.csv", index=False)
    return folder


def test_the_spread_over_seeds_is_of_the_means_and_of_one_data_set(tmp_path: Path) -> None:
    for name in ("cells", "others"):
        with writing(tmp_path / name, CELLS, parameters={"name": name}):
            pass
    cells, others = (opening(tmp_path / name, CELLS) for name in ("cells", "others"))
    folders = [_evaluation(tmp_path / f"seed{i}", cells, 0.1 * i) for i in range(3)]
    (row,) = spread_over_seeds(folders).to_dict("records")
    assert row["seeds"] == 3 and row["mean"] == pytest.approx(0.1)
    assert row["sd"] == pytest.approx(0.1) and (row["low"], row["high"]) == (0.0, 0.2)
    for wrong, message in (
        (folders[:1], "needs two or more"),
        ([folders[0], folders[0]], "given twice"),
        ([folders[0], _evaluation(tmp_path / "x", others, 0.5)], "evaluates other cells"),
    ):
        with pytest.raises(InputError, match=message):
            spread_over_seeds(wrong)


# --- the command that repeats the run


def _artifact(**parameters: object) -> Artifact:
    return Artifact(Path("x"), "0" * 64, {"parameters": parameters})


TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20)
MAKEFILE = 'export ARGS\nrun:\n\t@printf %s "$$ARGS"\n'


@settings(max_examples=40, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=3), TEXT)
def test_the_command_gives_the_parameters_back_by_shell_and_make(source, lines, column) -> None:
    inputs = {
        "cells": _artifact(
            source=source,
            control=column,
            obs_filter={"day": [3, 7]},
            layer="counts",
            left_out=[],
            missing_is_control=False,
        ),
        "splits": _artifact(train_lines=lines, test_line="rpe1", val_fraction=0.15, seed=7),
        "gene_prior": _artifact(uri="none", vocabulary="random://tiny"),
    }
    command = repeat_command(inputs)
    assert command.startswith("make run PARAMS=<")
    command = "make -f - run " + command[command.index("ARGS=") :]
    said = subprocess.run(
        ["bash", "-c", command],
        input=MAKEFILE,
        env={"PATH": os.environ["PATH"]},  # without MAKEFLAGS, for the tests may be run by make
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {}
    for assignment in assignments_in(said):
        name, _, value = assignment.partition("=")
        text = name in {"dataset", "control_label", "test_line", "prior", "pretrained"}
        found[name] = value if text else yaml.safe_load(value)  # as pipelines.run reads them
    assert found == {
        "dataset": source,
        "control_label": column,
        "train_lines": lines,
        "test_line": "rpe1",
        "prior": "none",
        "pretrained": "random://tiny",
        "seed": 7,
        "ingest_options": {"obs_filter": {"day": [3, 7]}, "layer": "counts"},
        "split_options": {"val_fraction": 0.15},
    }


def test_cells_that_do_not_say_where_they_are_from_give_no_command() -> None:
    assert repeat_command({"cells": _artifact(), "splits": _artifact(seed=1)}) == ""


def test_a_finished_model_that_was_applied_gives_no_command_to_train_it() -> None:
    inputs = {"cells": _artifact(source="screen.h5ad"), "splits": _artifact(train_lines=[])}
    assert repeat_command(inputs) == ""
    assert repeat_command(inputs | {"splits": _artifact(train_lines=["k562"])})


def test_a_win_whose_interval_includes_no_difference_is_none() -> None:
    """Many small gains pass the test of ranks; one large loss leaves the mean unclear."""
    difference = np.array([0.2] * 39 + [-6.8])
    model, baseline = frame(list(difference), [0.0] * 40)
    found = compare(model, {"b": baseline}, [METRIC]).iloc[0]
    assert found["p_holm"] < 0.001 and found["low"] < 0 < found["high"]
    assert found["difference"] > SMALLEST and found["verdict"] == UNCLEAR


def test_the_summarys_spread_is_that_of_a_sample() -> None:
    values = pd.DataFrame({METRIC: [0.1, 0.2, 0.6, np.nan]}, index=list("abcd"))
    (row,) = summary_table({"model": values}, None).to_dict("records")
    assert row["sd"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1)) and row["n"] == 3


def test_the_same_values_have_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=30)
    assert interval(values) == interval(values)


@settings(max_examples=25)  # statsmodels collects garbage at each call, which takes 0.1 s here
@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), max_size=12))
def test_holm_is_that_of_statsmodels(p) -> None:
    known = [value for value in p if not np.isnan(value)]
    expected = np.full(len(p), np.nan)
    if known:
        expected[~np.isnan(p)] = multipletests(known, method="holm")[1]
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_holm_corrects_each_p_by_those_that_are_no_smaller() -> None:
    found = holm([0.03, 0.01, np.nan, 0.02])
    np.testing.assert_allclose(found, [0.04, 0.03, np.nan, 0.04])


def test_the_headline_metrics_are_described_in_the_order_that_an_evaluation_promises() -> None:
    assert tuple(metric.name for metric in metrics.HEADLINE) == HEADLINE
    assert tuple(metric.name for metric in (*metrics.HEADLINE, *metrics.OURS)) == COMPARED


def test_a_table_of_perturbations_that_cannot_be_read_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    assert read_asked(tmp_path) is None
    (tmp_path / PERTURBATIONS_FILE).write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"; run the predict task again$"):
        read_asked(tmp_path)


def test_a_table_of_other_perturbations_is_refused_by_the_name_of_one(tmp_path: Path) -> None:
    asked = pd.DataFrame({"perturbation": ["A", "B"]})
    given = SimpleNamespace(perturbations=["A", "C"])
    with pytest.raises(
        InputError, match=r": 'B', 'C' .* alike, once and sorted; run the predict task again$"
    ):
        asked_of(given, [], asked, tmp_path)


def test_a_table_of_perturbations_is_taken_row_by_row(tmp_path: Path) -> None:
    asked = pd.DataFrame({"perturbation": ["A", "B"], "cells": [3, 4]}, index=[7, 2])
    found = asked_of(SimpleNamespace(perturbations=["A", "B"]), [], asked, tmp_path)
    pd.testing.assert_frame_equal(found, asked.reset_index(drop=True))


def test_a_gene_that_does_not_change_is_named_neither_up_nor_down() -> None:
    genes = ["G0", "G1", "G2", "G3"]
    changes = np.array([[0.5, 0.0, -0.25, 0.0]])
    asked = pd.DataFrame({"perturbation": ["G0"]})
    effects = Effects(["G0"], genes, np.ones(4), 1 + changes, None, None, None, asked)
    assert effects.top(0) == (["G0"], ["G2"])


def test_effects_are_the_same_however_many_perturbations_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    labels, genes = [f"G{i}" for i in range(5)], [f"G{i}" for i in range(4)]
    measured: Any = SimpleNamespace(
        perturbations=["G4", "G1", "G2"],
        centroids=rng.random((4, 4)),
        p_value=rng.random((3, 4)),
        fdr=rng.random((3, 4)),
    )
    asked = pd.DataFrame({"perturbation": labels})
    means = rng.random((5, 4)).astype(np.float32)
    effects = Effects(labels, genes, rng.random(4), means, None, measured, None, asked)
    [whole] = effects.tables()
    table = whole.to_pandas().set_index("perturbation")
    change = measured.centroids[[2, 3, 1]] - measured.centroids[0]
    found = table.loc[["G1", "G2", "G4"], "measured_change"].to_numpy().reshape(3, 4)
    np.testing.assert_allclose(found, change, atol=1e-4)
    assert table.loc[["G0", "G3"], "measured_change"].isna().all()
    strength = effects.strength
    monkeypatch.setattr(effect_tables, "BLOCK", 2)
    parts = [part.to_pandas() for part in effects.tables()]
    assert len(parts) == 3
    names = {"perturbation": str, "gene": str}
    together = pd.concat([part.astype(names) for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(together, whole.to_pandas().astype(names))
    assert effects.strength.tolist() == strength.tolist()
