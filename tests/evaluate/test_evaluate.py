"""The evaluate stage on small generated screens, against cell-eval itself and plain numpy."""

import dataclasses
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cell_eval import MetricsEvaluator
from cell_eval.__main__ import main as cell_eval_command
from pyarrow.parquet import ParquetFile
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix, issparse

from components.evaluate.contenders import baselines
from components.evaluate.contenders.baselines import baseline_means, contenders
from components.evaluate.contenders.ridge import vectors_of
from components.evaluate.contenders.yardstick import Yardstick, halves
from components.evaluate.evaluate import evaluate, in_order
from components.evaluate.inputs import cell_eval_files
from components.evaluate.inputs.pair import Pair, pair_of
from components.evaluate.inputs.rows import dense
from components.evaluate.inputs.training_lines import (
    Training,
    basal_mean,
    known_of_training,
    no_training,
)
from components.evaluate.measures.metrics import CELLS, EVERY, HEADLINE, METRICS, OURS, REFERENCE
from components.evaluate.measures.scoring import as_floats, score
from components.evaluate.pages.summary import compared
from components.shared.artifacts.artifact import EVALUATION, GENE_PRIOR, opening
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.evaluation import (
    BASELINES,
    CEILING,
    CONTROL_CELLS,
    CONTROL_MEAN,
    HALF,
    KNOWN_EFFECTS,
    MEAN_DELTA,
    MODEL,
    MODEL_MEANS,
    RIDGE,
    SAME_PERTURBATION_DELTA,
)
from components.shared.artifacts.matched_controls import BATCH
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import (
    CELLS_KIND,
    KNOWN_MEANS,
    MEANS,
    PERTURBATIONS,
    PREDICTIONS_FILE,
    TRUTH,
)
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import training_effects
from components.shared.findings.verdict import strongest_baseline
from components.shared.model.rank_cells import DENOISED, RANK, draw_partners, rank_cells
from components.shared.telling import progress
from components.shared.telling.errors import InputError
from tests.evaluate_screen import DOUBLE, LABELS, UNSEEN, Change, Screen
from tests.helpers import bare_names, cells_artifact

FILES = {
    "results.csv",
    "agg_results.csv",
    "scores.csv",
    "summary.csv",
    "comparisons.csv",
    "strata.csv",
    "perturbations.csv",
    "undefined.csv",
    "calibration.csv",
    "called_by_expression.csv",
    "metrics.json",
    "summary.md",
    "report.html",
    "explorer.html",
    "effects.parquet",
    "effects.csv.gz",
    "groups.csv",
    "provenance.json",
}
KNOWN = tuple(b for b in BASELINES if b not in (CONTROL_CELLS, RIDGE, KNOWN_EFFECTS))
"""Baselines that are means and need no prior."""


VERSIONS = ("cell_eval", "cell_eval2")
"""Whose scores they are."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Screen:
    return Screen(tmp_path_factory.mktemp("screen"), genes=60, cells_each=10, controls_each=400)


@pytest.fixture(scope="module")
def evaluated(small: Screen) -> Path:
    return small.evaluate(small.predictions(_with_known_means, kind=RANK), prior=small.prior())


@pytest.fixture
def predicted(small: Screen, evaluated: Path) -> anndata.AnnData:
    """What was evaluated."""
    return anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE)


def _with_known_means(adata: anndata.AnnData) -> None:
    adata.varm[KNOWN_MEANS] = adata.varm[MEANS] * np.float32(0.9)


@pytest.fixture(scope="module")
def numbers(evaluated: Path) -> dict:
    return json.loads((evaluated / "metrics.json").read_text())


def test_an_evaluation_holds_its_files_and_leaves_nothing_else_behind(
    small: Screen, evaluated: Path
) -> None:
    assert {path.name for path in evaluated.iterdir()} == FILES
    artifact = opening(evaluated, EVALUATION)
    assert artifact.summary["perturbations"] == len(LABELS)
    assert set(artifact.provenance["inputs"]) == {"predictions", "cells", "splits", "gene_prior"}
    assert set(artifact.provenance["parameters"]) == {"threads", "repeat"}
    assert {path.name for path in small.folder.iterdir()} >= {"cells", "splits", "evaluation"}
    assert not list(small.folder.glob(".*")) and not Path("cell-eval-outdir").exists()


def test_the_command_line_of_cell_eval_gives_the_same_numbers(
    small: Screen,
    evaluated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = small.folder / "predictions" / PREDICTIONS_FILE
    monkeypatch.setattr(sys, "argv", ["-m", str(file), "my pred.h5ad", "real.h5ad"])
    cell_eval_files.main()
    said = capsys.readouterr().out
    command = shlex.split(said.strip().splitlines()[-1])
    assert command[:2] == ["cell-eval", "run"]
    monkeypatch.setattr(sys, "argv", command)
    cell_eval_command()
    tables = {
        name: [
            pd.read_csv(folder / name, index_col=0)
            for folder in (evaluated, tmp_path / "cell-eval-out")
        ]
        for name in ("results.csv", "agg_results.csv")
    }
    ours, theirs = tables["results.csv"]
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=1e-6, atol=1e-6)
    full = ours.columns[ours.notna().all()]
    ours, theirs = (
        table.loc[["count", "mean", "50%"], full] for table in tables["agg_results.csv"]
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=1e-6, atol=1e-6)


def test_the_helper_refuses_to_overwrite_and_to_read_what_is_no_h5ad(tmp_path: Path) -> None:
    bad = tmp_path / "bad.h5ad"
    bad.write_text("not HDF5")
    with pytest.raises(InputError, match=r"bad\.h5ad: cannot be opened, truncated or damaged"):
        cell_eval_files.write_cell_eval_files(bad, tmp_path / "pred.h5ad", tmp_path / "real.h5ad")
    with pytest.raises(InputError, match="exists already"):
        cell_eval_files.write_cell_eval_files(bad, bad, tmp_path / "real.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5ad"]


def _training(cells: Cells, splits: Splits) -> Training:
    return Training.of(training_effects(cells, splits), basal_mean(cells, splits), cells.genes)


def _mean(small: Screen, line: str, role: str, label: str) -> np.ndarray:
    chosen = (
        (small.obs["cell_line"] == line)
        & (small.roles == role)
        & (small.obs["perturbation"] == label)
    )
    return small.X[chosen.to_numpy()].astype(float).mean(axis=0)


def test_baselines_equal_means_recomputed_from_the_arrays(small: Screen) -> None:
    labels = sorted(set(small.obs["perturbation"]) - {CONTROL})
    training = _training(small.cells, small.splits)
    means, fallbacks = baseline_means(training, labels)
    deltas = {
        label: [
            _mean(small, line, "train", label) - _mean(small, line, "control_reference", CONTROL)
            for line in ("k562", "jurkat", "hepg2")
        ]
        for label in labels
        if label != UNSEEN
    }
    control = _mean(small, "rpe1", "control_basal", CONTROL)
    common = np.mean([delta for found in deltas.values() for delta in found], axis=0)
    assert tuple(means) == KNOWN
    assert fallbacks == {SAME_PERTURBATION_DELTA: [UNSEEN]}
    for row, label in enumerate(labels):
        own = np.mean(deltas[label], axis=0) if label in deltas else common
        for name, delta in zip(KNOWN, (0.0, common, own), strict=True):
            np.testing.assert_allclose(means[name][row], np.maximum(control + delta, 0), atol=1e-6)


def test_baselines_do_not_depend_on_the_test_cells(small: Screen, tmp_path: Path) -> None:
    test = small.roles == "test"
    changed = small.X.copy()
    changed[test] = changed[test][::-1] * 0.5
    cells_artifact(tmp_path / "cells", small.obs, changed, small.genes)
    other = _training(Cells.open(tmp_path / "cells"), small.splits)
    same = _training(small.cells, small.splits)
    np.testing.assert_array_equal(other.deltas, same.deltas)
    np.testing.assert_array_equal(other.control, same.control)


def _contenders(small: Screen, pair: Pair, *, ranked: bool, pool: np.ndarray | None = None):
    """Return every prediction of a pair by name, and the means of the baselines."""
    means, _ = baseline_means(_training(small.cells, small.splits), pair.perturbations)
    controls = csr_matrix(small.basal() if pool is None else pool)
    own = pair.means(pair.predicted)[1:]
    found = contenders(pair, own, means, small.genes, controls, ranked=ranked)
    return dict(found), means | {MODEL_MEANS: own}


def _pair(small: Screen, name: str, kind: str = DENOISED) -> Pair:
    file = small.predictions(name=name, kind=kind) / PREDICTIONS_FILE
    return pair_of(anndata.read_h5ad(file), "file")


def test_a_mean_stands_in_every_cell_of_its_perturbation_and_the_controls_stay(
    small: Screen,
) -> None:
    pair = _pair(small, "kept")
    found, means = _contenders(small, pair, ranked=False)
    assert list(found) == [MODEL, MODEL_MEANS, CONTROL_CELLS, *KNOWN]
    control = pair.rows[pair.control]
    for name in (MODEL_MEANS, *KNOWN):
        predicted = found[name].predicted
        np.testing.assert_array_equal(predicted[control], dense(pair.measured[control]))
        for row, label in enumerate(pair.perturbations):
            cells = predicted[pair.rows[label]]
            np.testing.assert_allclose(cells, np.tile(means[name][row], (len(cells), 1)), rtol=1e-6)


def test_baselines_of_mapped_cells_are_mapped_from_the_basal_controls_too(small: Screen) -> None:
    pair = _pair(small, "mapped", RANK)
    reordered = dataclasses.replace(
        pair,
        obs=pair.obs[::-1],
        predicted=pair.predicted[::-1],
        measured=pair.measured[::-1],
    )
    found, means = _contenders(small, reordered, ranked=True)
    for name in KNOWN:
        other = found[name]
        assert issparse(other.predicted[:5]) and other.predicted.dtype == np.float32
        np.testing.assert_allclose(other.means(other.predicted)[1:], means[name], atol=1e-6)
        control = other.rows[other.control]
        assert (other.predicted[control] != reordered.measured[control]).nnz == 0


def test_mapped_cells_do_not_depend_on_which_are_asked_for_before(small: Screen) -> None:
    pair = _pair(small, "one by one", RANK)
    found, means = _contenders(small, pair, ranked=True)
    rng = np.random.default_rng(0)  # one for all perturbations, in their order
    labels = np.repeat(pair.perturbations, [len(pair.rows[x]) for x in pair.perturbations])
    partners = draw_partners(labels, len(small.basal()), 0)
    expected = {
        label: rank_cells(small.basal()[partners[labels == label]], mean, rng)
        for label, mean in zip(pair.perturbations, means[MEAN_DELTA], strict=True)
    }
    for label in reversed(pair.perturbations):
        cells = found[MEAN_DELTA].predicted[pair.rows[label]].toarray()
        np.testing.assert_array_equal(cells, expected[label])


def test_no_cell_of_a_baseline_is_made_before_it_is_asked_for(
    small: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = _pair(small, "on request", RANK)
    made = []

    def noted(controls: np.ndarray, *given: object) -> np.ndarray:
        made.append(len(controls))
        return rank_cells(controls, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(baselines, "rank_cells", noted)
    found, _ = _contenders(small, pair, ranked=True)
    assert not made
    rows = pair.rows[pair.perturbations[0]]
    assert found[CONTROL_MEAN].predicted[rows].shape == (len(rows), len(pair.genes))
    assert made == [len(rows)]


def test_random_control_cells_are_basal_ones_each_once_if_there_are_enough(small: Screen) -> None:
    pool = small.basal()[:10]  # as many as a perturbation has cells
    found, _ = _contenders(small, _pair(small, "drawn"), ranked=True, pool=pool)
    for name in (CONTROL_CELLS, CONTROL_MEAN):
        other = found[name]
        cells = other.predicted[other.rows["G0"]].toarray()
        if name == CONTROL_CELLS:
            np.testing.assert_array_equal(*(x[np.argsort(x.sum(1))] for x in (cells, pool)))
    everything = found[CONTROL_CELLS].predicted[:].toarray()
    shuffled = np.random.default_rng(0).permutation(len(everything))
    np.testing.assert_array_equal(
        found[CONTROL_CELLS].predicted[shuffled].toarray(), everything[shuffled]
    )


def test_baselines_take_controls_of_the_own_batch_where_the_model_did(small: Screen) -> None:
    pair = _pair(small, "of batches", RANK)
    pool = np.repeat(small.basal()[:1], 30, axis=0)
    of_controls = np.repeat(["one", "two"], 15)
    pool[:, -1] = np.linspace(1, 3, 30)
    batches = np.tile(["one", "two"], len(pair.labels))[: len(pair.labels)]
    of_batches = dataclasses.replace(pair, obs=pair.obs.assign(batch=batches))
    for given, apart in ((of_controls, True), (None, False)):
        made = contenders(
            of_batches, np.zeros(0), {}, small.genes, csr_matrix(pool), ranked=True, batches=given
        )
        cells = dict(made)[CONTROL_CELLS].predicted[:].toarray()
        perturbed = pair.labels != pair.control
        first = np.isin(cells[:, -1], pool[:15, -1].astype(np.float32))
        assert (first == (batches == "one"))[perturbed].all() == apart


def test_an_evaluation_takes_them_so_where_the_predictions_say_that_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(tmp_path, genes=40, cells_each=8, controls_each=20, batches=True)
    given = []

    def taken(*_: object, batches: np.ndarray | None, **__: object) -> None:
        given.append(batches)
        raise InterruptedError

    monkeypatch.setattr("components.evaluate.evaluate.contenders", taken)
    for matched in (False, True):
        predictions = screen.predictions(name=f"{matched}", kind=RANK, matched=matched)
        with pytest.raises(InterruptedError):
            screen.evaluate(predictions, f"of {matched}")
    basal = (screen.obs["cell_line"] == "rpe1") & (screen.roles == "control_basal")
    assert given[0] is None
    assert given[1].tolist() == screen.obs[BATCH][basal].tolist()


def test_metrics_said_to_be_of_means_do_not_move_with_the_cells_and_the_others_do(
    small: Screen,
) -> None:
    """cell-eval's fold change is that of means of log1p values, so it belongs to the means."""
    found = {}
    for kind in (DENOISED, RANK):
        found[kind] = score(_pair(small, f"of {kind}", kind), threads=1, what="cells").metrics
    moved = (found[RANK] - found[DENOISED]).abs().max()
    assert set(moved.index) == set(METRICS)
    for metric in METRICS.values():
        if metric.of == CELLS:
            assert moved[metric.name] > 1e-3, metric.name
        else:
            assert moved[metric.name] < 1e-6, metric.name


def test_a_mean_in_every_cell_is_called_everywhere_but_mapped_cells_are_not(
    small: Screen,
) -> None:
    pair, called = _pair(small, "called", RANK), []
    for ranked in (False, True):
        found, _ = _contenders(small, pair, ranked=ranked)
        metrics = score(found[CONTROL_MEAN], threads=1, what="cells").metrics
        called.append(metrics["de_nsig_counts_pred"].mean())
    assert called[0] > 10 and called[1] < 1


def test_a_screen_without_training_cells_has_no_baselines(small: Screen) -> None:
    table = small.splits.table.replace({"role": {"train": "unused"}})
    splits = dataclasses.replace(small.splits, table=table)
    assert known_of_training(small.cells, splits, small.folder) is None
    assert "no training cells" in str(no_training(splits))


def test_a_training_line_without_reference_controls_is_named(small: Screen) -> None:
    table = small.splits.table.copy()
    table.loc[table["cell_line"] == "jurkat", "role"] = table["role"].replace(
        {"control_reference": "unused"}
    )
    with pytest.raises(InputError, match="line 'jurkat'"):
        _training(small.cells, dataclasses.replace(small.splits, table=table))


def test_the_baselines_score_as_their_knowledge_says(numbers: dict) -> None:
    found = {name: means["pearson_delta"] for name, means in numbers["baselines"].items()}
    assert list(found) == list(BASELINES)
    for name in (CONTROL_CELLS, CONTROL_MEAN):
        assert found[name] is None or abs(found[name]) < 0.15
    assert found[SAME_PERTURBATION_DELTA] > found[CONTROL_MEAN] + 0.3
    assert found[SAME_PERTURBATION_DELTA] > found[MEAN_DELTA] + 0.2
    assert numbers["model"]["pearson_delta"] > found[SAME_PERTURBATION_DELTA]
    assert numbers["fallbacks"] == {SAME_PERTURBATION_DELTA: 1, RIDGE: 0}
    comparison = numbers["comparisons"][CONTROL_MEAN]
    assert comparison["low"] > 0 and comparison["better"] == comparison["of"] == len(LABELS)
    assert comparison["verdict"] == "beats" and comparison["p_holm"] < 0.05
    centred = {name: found["pearson_delta_centred"] for name, found in numbers["ours"].items()}
    assert centred[SAME_PERTURBATION_DELTA] > 0.3 and abs(centred[MEAN_DELTA]) < 0.2


def test_the_baseline_of_the_prior_needs_a_prior_with_vectors(small: Screen) -> None:
    asked = {"G1", DOUBLE, UNSEEN, "G7", "elsewhere", CONTROL}
    vectors = vectors_of(opening(small.prior("some", without=("G7",)), GENE_PRIOR), asked)
    assert set(vectors) == {"G1", DOUBLE, UNSEEN}
    assert vectors_of(opening(small.prior("less", without=("G2",)), GENE_PRIOR), {DOUBLE}) == {}
    training = _training(small.cells, small.splits)
    means, fallbacks = baseline_means(training, ["G1", "G7"], vectors)
    assert RIDGE not in means  # only two training perturbations have a vector
    vectors = vectors_of(
        opening(small.prior("most", without=("G7",)), GENE_PRIOR), set(training.perturbations)
    )
    means, fallbacks = baseline_means(training, ["G1", "G7"], vectors)
    assert fallbacks[RIDGE] == ["G7"]
    np.testing.assert_array_equal(means[RIDGE][1], means[MEAN_DELTA][1])
    assert np.abs(means[RIDGE][0] - means[MEAN_DELTA][0]).max() > 1e-6


def test_a_prior_that_does_not_name_its_genes_is_refused(small: Screen) -> None:
    folder = small.prior("nameless")
    save_file({"prior": np.ones((2, 3), np.float32)}, folder / "prior.safetensors")
    artifact = dataclasses.replace(opening(small.prior("named"), GENE_PRIOR), path=folder)
    with pytest.raises(InputError, match=r"no metadata 'genes'.* run the prior task again"):
        vectors_of(artifact, {"G1"})


def test_pearson_delta_is_what_numpy_says(predicted: anndata.AnnData, evaluated: Path) -> None:
    pair = pair_of(predicted, "file")
    change, measured = (
        means[1:] - means[0] for means in map(pair.means, (pair.predicted, pair.measured))
    )
    results = pd.read_csv(evaluated / "results.csv", index_col=0)
    for row, label in enumerate(pair.perturbations):
        expected = np.corrcoef(change[row], measured[row])[0, 1]
        assert results.loc[label, "pearson_delta"] == pytest.approx(expected, abs=1e-4)


def test_metrics_json_agrees_with_the_tables(evaluated: Path, numbers: dict) -> None:
    results = pd.read_csv(evaluated / "results.csv", index_col=0)
    seen = results.index != UNSEEN
    for metric in HEADLINE:
        name = metric.name
        assert numbers["model"][name] == pytest.approx(results[name].mean())
        assert numbers["seen"][name] == pytest.approx(results.loc[seen, name].mean())
        assert numbers["nan_counts"][name] == results[name].isna().sum()
    assert numbers["unseen"]["mse"] == pytest.approx(results.loc[UNSEEN, "mse"])
    assert numbers["seen"]["pearson_edistance"] is None  # one number for the whole set
    counted = [numbers[f"perturbations{part}"] for part in ("", "_seen", "_unseen")]
    assert counted == [12, 11, 1]
    table = pd.read_csv(evaluated / "summary.csv").set_index(["prediction", "metric"])
    for baseline in BASELINES:
        stored = table.loc[(baseline, "mae_delta"), "mean"]
        assert numbers["baselines"][baseline]["mae_delta"] == pytest.approx(stored)
    highest = table.loc[CEILING, "mean"]
    assert numbers["ceiling"]["mae_delta"] is None and np.isnan(highest["mae_delta"])
    assert numbers["ceiling"]["pearson_delta"] == pytest.approx(highest["pearson_delta"])
    half = table.loc[(HALF, "pearson_delta"), "mean"]
    assert highest["pearson_delta"] == pytest.approx(2 * half / (1 + half)) and 0 < half < 1


def test_known_effects_are_scored_gene_by_gene_whatever_the_order_of_the_genes() -> None:
    means = np.array([[1.0, 2.0, 3.0]], np.float32)
    found = in_order(means, ["A", "B", "C"], ["C", "X", "A"])
    np.testing.assert_array_equal(found, [[3, 0, 1]])
    assert found.dtype == np.float64


def test_what_the_network_added_to_known_effects_is_compared(evaluated: Path) -> None:
    found = pd.read_csv(evaluated / "comparisons.csv")
    assert KNOWN_EFFECTS in set(found["baseline"])


def test_every_prediction_has_every_metric_in_one_table_and_ours_are_apart(
    evaluated: Path,
) -> None:
    scores = pd.read_csv(evaluated / "scores.csv")
    assert list(scores.columns) == ["prediction", "perturbation", "metric", "value"]
    assert list(dict.fromkeys(scores["prediction"])) == [MODEL, MODEL_MEANS, *BASELINES, HALF]
    sizes = scores.groupby("prediction")["metric"].nunique()
    assert set(sizes) == {len(EVERY)} and set(scores["metric"]) == set(EVERY)
    assert len(scores) == len(sizes) * len(EVERY) * len(LABELS)
    results = pd.read_csv(evaluated / "results.csv", index_col=0)
    assert set(results) == set(METRICS) and not set(results) & {metric.name for metric in OURS}
    model = scores[scores["prediction"] == MODEL].pivot(
        index="perturbation", columns="metric", values="value"
    )
    pd.testing.assert_frame_equal(
        model[list(results)], results, check_names=False, check_dtype=False
    )


def test_the_table_of_the_reference_run_can_be_read_line_by_line(evaluated: Path) -> None:
    page = _Page()
    page.feed((evaluated / "report.html").read_text())
    results = pd.read_csv(evaluated / "results.csv", index_col=0)
    lines = [row for row in page.rows if row and row[0] in REFERENCE and len(row) == 6]
    assert [row[0] for row in lines] == list(REFERENCE)
    for name, *cells in lines:
        values = [results[name].mean(), results[name].median(), results[name].max()]
        assert cells[:3] == [f"{value:.4f}" for value in values]


def test_the_list_of_runs_gets_few_and_finite_numbers(numbers: dict) -> None:
    found = dict(compared(numbers))
    assert {"pearson_delta", "mae_delta", f"pearson_delta/{MEAN_DELTA}"} <= set(found)
    assert len(found) <= 15 and all(np.isfinite(value) for value in found.values())
    assert found.get("vcc2026") == numbers["calibrated"]["scores"][MODEL]["average"]


def test_metrics_json_says_what_the_cells_are_and_which_metrics_look_at_them(
    numbers: dict,
) -> None:
    assert numbers["predicted_cells"] == RANK
    of = numbers["metrics_of"]
    assert {"pearson_delta", "mae_delta", "discrimination_score_l1"} <= set(of["means"])
    assert {"roc_auc", "pr_auc", "overlap_at_N", "de_nsig_counts_pred"} <= set(of["cells"])
    assert {*of["means"], *of["cells"]} == {*numbers["model"]} - {"de_nsig_counts_real"}


def test_the_ceiling_is_cell_evals_where_no_value_is_missing(
    predicted: anndata.AnnData, tmp_path: Path
) -> None:
    pair = pair_of(predicted, "file")
    _, measured = pair.anndata()
    evaluator = MetricsEvaluator(
        None, measured, pert_col="perturbation", num_threads=1, outdir=str(tmp_path)
    )
    theirs_by_half, reported = evaluator.compute_ceiling(write_csv=False)
    found = Yardstick.of(pair, threads=1).ceiling()
    assert found
    theirs = reported.to_pandas().iloc[0].astype(float).dropna()
    assert "pearson_delta" in theirs.index
    np.testing.assert_allclose(found.table["ceiling"][theirs.index], theirs, rtol=1e-6)
    pd.testing.assert_series_equal(
        found.table["half_depth"], found.outcome.metrics.mean(), check_names=False
    )
    pd.testing.assert_frame_equal(
        as_floats(found.outcome.table),
        as_floats(theirs_by_half),
        check_exact=False,
        rtol=1e-6,
        atol=1e-6,
    )


class _Page(HTMLParser):
    """What stands in a page: whether its tags close, the rows of its tables, its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        assert not [value for name, value in attrs if "href" in name and value[:1] != "#"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        sources = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        assert all(value[:1] == "#" or value.startswith("data:image/png") for value in sources)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()


def test_the_report_is_one_whole_page_with_every_headline_metric(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    for metric in HEADLINE:
        assert page.text.count(metric.name) >= 5  # tables, plot, strata, explanation
    for sentence in (
        "the model beats the control mean: ahead in 12 of 12 perturbations",
        "Over 12 perturbations the model is better than copying each gene's effect",
        "better than same perturbation",  # in words, beside the mark at the model's number
        "mapped gene by gene, by rank, to the predicted mean",
        "1 of 12 perturbations are in no training line",
        "Distribution over perturbations",
        "Calibrated scores of cell-eval2",
    ):
        assert sentence in " ".join(page.text.split())
    assert text.count("<svg") == text.count("</svg>") == len(HEADLINE) + len(OURS) + 7
    assert "quirk" not in text and str(evaluated.parent) not in text
    assert not re.search(r"#0([1-6])0\1", text)  # every stand-in colour has become a variable
    assert len(text) < 3e6


def test_the_summary_in_markdown_is_a_table_of_every_headline_metric(evaluated: Path) -> None:
    text = (evaluated / "summary.md").read_text()
    assert not bare_names(text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split()[1].strip("`") for row in rows[2:]] == [m.name for m in (*HEADLINE, *OURS)]
    assert "the model **beats** the control mean" in text


def test_every_section_is_listed_and_linked(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    links = re.findall(r'<li><a href="#(part-\d+)">(.*?)</a></li>', page)
    sections = re.findall(r'<h2 id="(part-\d+)">(.*?)</h2>', page)
    assert links == sections and len(sections) > 8 and "<h2>" not in page


def test_a_mark_stands_at_the_models_number_alone_and_says_what_the_test_says(
    evaluated: Path, numbers: dict
) -> None:
    page = (evaluated / "report.html").read_text()
    strongest = strongest_baseline(numbers)
    table = page[page.index("Headline metrics</h2>") :]
    rows = table[table.index("<tbody>") : table.index("</tbody>")].split("<tr>")[1:]
    said = {"beats": "better than", "falls short of": "worse than"}
    for metric, row in zip((*HEADLINE, *OURS), rows, strict=True):
        first, *others = row.split("<td")[1:]
        word = said.get(numbers["tests"][metric.name][strongest]["verdict"])
        assert (f'<span class="said">{word}' in first) if word else ("said" not in first)
        assert not any("mark" in cell for cell in others)


def _relabel(adata: anndata.AnnData, change: Callable[[str], str]) -> None:
    adata.obs["perturbation"] = [change(label) for label in adata.obs["perturbation"]]


def _set(adata: anndata.AnnData, value: float) -> None:
    adata.X[0, 3] = value


def _other_mean(adata: anndata.AnnData) -> None:
    adata.varm[MEANS][7, adata.uns[PERTURBATIONS].index("G2")] += 0.01


def _spoil_half(adata: anndata.AnnData) -> None:
    adata.X = dense(adata.X).astype(np.float16)
    adata.X[5, 3] = 20


def _spoil_truth(adata: anndata.AnnData) -> None:
    adata.layers[TRUTH].data[5] = np.nan


def _counts(adata: anndata.AnnData) -> None:
    adata.X = np.round(adata.X)
    adata.layers[TRUTH] = csr_matrix(np.round(adata.layers[TRUTH].toarray()))


def _swap_controls(adata: anndata.AnnData) -> None:
    adata.X[np.flatnonzero(adata.obs["is_control"])[0]] += 1.0


def _rename(adata: anndata.AnnData, names: list[str]) -> None:
    rows = adata.obs_names.to_numpy().copy()
    rows[np.flatnonzero(adata.obs["is_control"])[: len(names)]] = names
    adata.obs_names = rows


def _with_genes(adata: anndata.AnnData, genes: list[str]) -> anndata.AnnData:
    """Return the predictions with columns of these names, those of the first genes again."""
    columns = np.arange(len(genes)) % adata.n_vars
    changed = adata[:, columns].copy()
    changed.var_names = genes
    return changed


BAD: dict[str, tuple[Change, str]] = {
    "extra gene": (
        lambda a: _with_genes(a, [*a.var_names, "NEW"]),
        "gene 'NEW' is not in the cells artifact",
    ),
    "gene twice": (
        lambda a: _with_genes(a, [*a.var_names, "G3"]),
        "gene 'G3' comes twice",
    ),
    "cell twice": (
        lambda a: _rename(a, [a.obs_names[np.flatnonzero(a.obs["is_control"])[1]]]),
        "is there twice",
    ),
    "ctrl label": (lambda a: _relabel(a, lambda x: x.replace("G3", "G3+ctrl")), "bare gene symbol"),
    "blank label": (lambda a: _relabel(a, lambda x: x.replace("G3", " G3")), "bare gene symbol"),
    "negative": (lambda a: _set(a, -0.5), r"X: -0.5 in cell '\S+', gene 'G3'"),
    "NaN": (lambda a: _set(a, np.nan), "X: nan in cell"),
    "infinite": (lambda a: _set(a, np.inf), "X: inf in cell"),
    "too large": (lambda a: _set(a, 15.0), r"within \[0, 15\)"),
    "half precision": (_spoil_half, "X: 20.0 in cell"),
    "NaN truth": (_spoil_truth, "layer 'truth': nan in cell"),
    "counts": (_counts, "only whole numbers"),
    "no controls": (lambda a: a[~a.obs["is_control"]].copy(), "no control cells"),
    "only controls": (lambda a: a[a.obs["is_control"]].copy(), "no perturbed cells"),
    "changed controls": (_swap_controls, "differs from layer 'truth' in control cells"),
    "no truth": (lambda a: a.layers.__delitem__(TRUTH), "no layer 'truth'"),
    "no control named": (lambda a: a.uns.__delitem__("control"), "uns has no 'control'"),
    "no seen flag": (
        lambda a: a.obs.drop(columns="seen_in_training", inplace=True),
        "no obs column 'seen_in_training'",
    ),
    "wrong flag": (lambda a: a.obs.update({"is_control": ~a.obs["is_control"]}), "is_control"),
    "unknown cell": (lambda a: _rename(a, ["elsewhere"]), "'elsewhere' .* not in the cells"),
    "perturbation left out": (
        lambda a: a[a.obs["perturbation"] != "G2"].copy(),
        "no cells of test perturbation 'G2'",
    ),
    "no means": (lambda a: a.varm.__delitem__(MEANS), "no varm 'predicted_mean'"),
    "unknown cells": (
        lambda a: a.uns.update({CELLS_KIND: "new"}),
        r"'predicted_cells' \(rank or den",
    ),
    "means of others": (
        lambda a: a.uns.update({PERTURBATIONS: a.uns[PERTURBATIONS][::-1]}),
        "must name the perturbations of the cells, sorted",
    ),
    "other mean": (_other_mean, r"cells of 'G2' have mean \S+ in gene 'G7', but varm"),
    "other label": (
        lambda a: _relabel(a, lambda x: {"G1": "G2", "G2": "G1"}.get(x, x)),
        "is 'G1' in the splits",
    ),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize("case", BAD)
def test_bad_predictions_give_one_line_and_no_output(
    small: Screen, case: str, request: pytest.FixtureRequest
) -> None:
    change, message = BAD[case]
    predictions = small.predictions(change, name=f"bad {case}")
    with pytest.raises(InputError, match=message) as caught:
        small.evaluate(predictions, name=f"out {case}")
    assert "\n" not in str(caught.value) and str(predictions) in str(caught.value)
    assert not (small.folder / f"out {case}").exists()


@pytest.mark.parametrize(
    ("line", "role", "cells", "message"),
    [
        ("rpe1", "control_basal", 1, "has role 'control_basal', but a control here must be .*'$"),
        ("rpe1", "control_basal", 2, r"has role 'control_basal'.* \(and 1 more cell\)$"),
        ("k562", "control_reference", 3, r"is of line 'k562'.* \(and 2 more cells\)$"),
    ],
)
def test_controls_of_the_basal_half_or_of_a_training_line_are_refused(
    small: Screen, line: str, role: str, cells: int, message: str
) -> None:
    chosen = (small.obs["cell_line"] == line).to_numpy() & (small.roles == role)
    names = list(small.obs.index[chosen][:cells])
    predictions = small.predictions(lambda a: _rename(a, names), name=f"controls {role} {cells}")
    with pytest.raises(InputError, match=message):
        small.evaluate(predictions, name="refused")


def test_predictions_of_other_splits_are_refused(small: Screen, tmp_path: Path) -> None:
    Screen(tmp_path, genes=60, cells_each=10, controls_each=60, seed=1)
    with pytest.raises(InputError, match="made with other splits"):
        evaluate(
            small.predictions(name="foreign"),
            tmp_path / "cells",
            tmp_path / "splits",
            tmp_path / "e",
        )


def test_what_it_does_is_said_as_it_goes(small: Screen, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    target = small.evaluate(
        small.predictions(name="told"), name="of told", prior=small.prior("told by")
    )
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        f"evaluate: wrote {target}: 12 of 12 perturbations scored; open {target}/report.html"
    )
    line = r"^(?:([a-z_ ]+): +100%.*|evaluate: (.*) in [\d.]+ s)$"
    said = [bar or done for bar, done in re.findall(line, err, re.MULTILINE)]
    predictions = ("model", "model_means", "control_cells", "control_mean", "mean_delta")
    predictions += ("same_perturbation_delta", "prior_ridge")
    assert list(dict.fromkeys(said)) == [
        "measured cells",
        *(line for name in predictions for line in (name, f"scored {name}")),
        *("half of the measured cells", "the other half", "scored the measured cells themselves"),
        *("wrote effects", "wrote the explorer"),
    ]


def test_negative_threads_are_refused(small: Screen) -> None:
    with pytest.raises(InputError, match="threads: -1"):
        evaluate("a", "b", "c", "d", threads=-1)


def test_an_existing_target_is_not_touched(small: Screen, evaluated: Path) -> None:
    before = (evaluated / "provenance.json").read_text()
    with pytest.raises(InputError, match="exists already"):
        small.evaluate(small.folder / "predictions")
    assert (evaluated / "provenance.json").read_text() == before


def test_genes_in_another_order_change_no_number(small: Screen, tmp_path: Path) -> None:
    few = Screen(tmp_path, perturbations=("G0", "G1", "G2"), controls_each=30)
    order = np.random.default_rng(0).permutation(len(few.genes))
    straight = few.evaluate(few.predictions(kind=RANK), name="straight")
    shuffled = few.evaluate(
        few.predictions(lambda a: a[:, order].copy(), name="shuffled", kind=RANK), name="other"
    )
    ours, theirs = (
        pd.read_csv(folder / "scores.csv").set_index(["prediction", "perturbation", "metric"])
        for folder in (straight, shuffled)
    )
    # Which genes tie for a rank is drawn gene by gene for the baselines, so theirs may differ.
    for name in (MODEL, MODEL_MEANS, CONTROL_CELLS, HALF):
        pd.testing.assert_frame_equal(ours.loc[name], theirs.loc[name], rtol=1e-5, atol=1e-6)


def test_a_prediction_of_fewer_genes_is_scored_on_those(tmp_path: Path) -> None:
    few = Screen(tmp_path, perturbations=("G0", "G1", "G2"), controls_each=60, batches=True)
    found = few.evaluate(few.predictions(lambda a: a[:, :20].copy(), kind=RANK))
    numbers = json.loads((found / "metrics.json").read_text())
    assert "20 genes" in (found / "report.html").read_text()
    within = numbers["batch_matched"]["pearson_delta"]
    assert within[MODEL] == pytest.approx(numbers["model"]["pearson_delta"], abs=0.2)


def test_one_perturbation_of_one_cell_with_one_control_is_evaluated(tmp_path: Path) -> None:
    tiny = Screen(tmp_path, perturbations=("G0",), cells_each=1, controls_each=2, genes=20)
    found = tiny.evaluate(tiny.predictions())
    numbers = json.loads((found / "metrics.json").read_text())
    assert numbers["perturbations"] == 1
    assert set(numbers["not_computed"]) == {"pearson_edistance", "clustering_agreement"}
    assert all(value is None for value in numbers["ceiling"].values())
    assert numbers["unseen"]["pearson_delta"] is None
    assert numbers["nan_counts"]["roc_auc"] == 1 and numbers["model"]["roc_auc"] is None
    assert numbers["ours"][MODEL]["pearson_delta_centred"] is None
    page = (found / "report.html").read_text()
    assert "too few cells to split" in page and "Every test perturbation was seen" in page
    assert "there is no replicate to calibrate by" in page


def test_a_perturbation_of_one_cell_among_others_has_scores_but_no_ceiling(tmp_path: Path) -> None:
    mixed = Screen(tmp_path, perturbations=("G0", "G1", "G2"), controls_each=30)
    test = (mixed.roles == "test") & (mixed.obs["perturbation"] == "G1").to_numpy()
    mixed.roles[np.flatnonzero(test)[1:]] = "unused"
    shutil.rmtree(tmp_path / "splits")
    mixed.write_splits()
    found = mixed.evaluate(mixed.predictions(kind=RANK))
    scores = pd.read_csv(found / "scores.csv")
    scored = {name: set(part["perturbation"]) for name, part in scores.groupby("prediction")}
    assert scored[MODEL] == {"G0", "G1", "G2"} and scored[HALF] == {"G0", "G2"}


@pytest.mark.parametrize(("side", "value"), [("predicted", 0.0), ("predicted", 0.7), ("both", 0.7)])
def test_values_that_are_all_equal_are_scored_and_what_is_undefined_is_counted(
    tmp_path: Path, side: str, value: float
) -> None:
    flat = Screen(tmp_path, perturbations=("G0", "G1"), controls_each=20)

    def equal(adata: anndata.AnnData) -> None:
        perturbed = np.flatnonzero(~adata.obs["is_control"])
        rows = perturbed if side == "predicted" else np.arange(adata.n_obs)
        adata.X[rows] = value
        adata.varm[MEANS][:] = value
        if side == "both":
            adata.layers[TRUTH] = csr_matrix(adata.X)

    found = flat.evaluate(flat.predictions(equal))
    numbers = json.loads((found / "metrics.json").read_text())
    undefined = pd.read_csv(found / "undefined.csv").set_index(["prediction", "metric"])
    if side == "both":
        assert numbers["model"]["pearson_delta"] is None
        assert undefined.loc[(MODEL, "pearson_delta"), "undefined"] == 2
        assert "the same for every gene" in undefined.loc[(MODEL, "pearson_delta"), "why"]
    else:
        assert np.isfinite(numbers["model"]["pearson_delta"])
    assert "Undefined values" in (found / "report.html").read_text()


def test_controls_that_are_halved_are_said_aloud(tmp_path: Path) -> None:
    whole = Screen(tmp_path, perturbations=("G0", "G1"), controls_each=20)
    whole.roles[np.char.startswith(whole.roles.astype(str), "control")] = "control_both"
    shutil.rmtree(tmp_path / "splits")
    whole.write_splits()
    page = (whole.evaluate(whole.predictions()) / "report.html").read_text()
    assert "controls of rpe1 are halved" not in page
    (tmp_path / "halves").mkdir()
    halved = Screen(tmp_path / "halves", perturbations=("G0", "G1"), controls_each=20)
    page = (halved.evaluate(halved.predictions()) / "report.html").read_text()
    assert "The controls of rpe1 are halved: one half is the model's input" in page


def test_perturbations_without_de_genes_are_counted_and_left_out_of_the_means(
    tmp_path: Path,
) -> None:
    mixed = Screen(tmp_path, perturbations=("G0", "G1", "G2"), cells_each=12, controls_each=40)

    def no_effect(adata: anndata.AnnData) -> None:
        rows = np.flatnonzero(adata.obs["perturbation"] == "G0")
        control = np.flatnonzero(adata.obs["is_control"])[: len(rows)]
        truth = adata.layers[TRUTH].toarray()
        truth[rows] = truth[control]
        adata.layers[TRUTH] = csr_matrix(truth)

    found = mixed.evaluate(mixed.predictions(no_effect))
    numbers = json.loads((found / "metrics.json").read_text())
    results = pd.read_csv(found / "results.csv", index_col=0)
    assert numbers["perturbations_without_de"] == 1
    assert numbers["nan_counts"]["roc_auc"] == 1
    assert numbers["model"]["roc_auc"] == pytest.approx(results["roc_auc"][["G1", "G2"]].mean())
    assert results.loc["G0", "overlap_at_N"] == 0
    page = (found / "report.html").read_text()
    row = page[page.index("roc_<wbr>auc") :]
    assert "<small>n = 2</small>" in row[: row.index("</tr>")]
    assert "n = 3" not in page


@pytest.mark.parametrize("kind", [csr_matrix, np.asarray])
def test_the_pair_keeps_sparse_and_dense_as_they_are(
    predicted: anndata.AnnData, kind: Callable
) -> None:
    predicted.X = kind(predicted.X.toarray())
    model, measured = pair_of(predicted, "file").anndata()
    assert issparse(model.X) == (kind is csr_matrix) and issparse(measured.X)


def test_unused_categories_are_not_taken_for_perturbations(predicted: anndata.AnnData) -> None:
    labels = predicted.obs["perturbation"].cat.add_categories("NOT_THERE")
    predicted.obs["perturbation"] = labels
    pair = pair_of(predicted, "file")
    assert "NOT_THERE" not in pair.perturbations
    assert "NOT_THERE" not in pair.anndata()[0].obs["perturbation"].cat.categories


def test_a_ceiling_needs_two_controls(predicted: anndata.AnnData) -> None:
    rest = predicted.obs.index[predicted.obs["is_control"]][1:]
    one_left = predicted[~predicted.obs.index.isin(rest)].copy()
    assert halves(pair_of(one_left, "file")) is None


def test_a_line_that_was_not_measured_gets_effects_and_keys_without_scores(
    numbers: dict, tmp_path: Path
) -> None:
    bare = Screen(tmp_path, genes=60, cells_each=10, controls_each=100, measured=False)
    found = bare.evaluate(bare.predictions())
    told = json.loads((found / "metrics.json").read_text())
    assert told["not_scored"] == "no perturbed cell of rpe1 was measured"
    assert told["not_scored"] in (found / "report.html").read_text()
    assert numbers.keys() - told.keys() <= {"too_few", "predicted_strength", *VERSIONS}
    assert not any(told[name] for name in ("scored", "model", "ceiling", "baselines", "intervals"))
    effects = ParquetFile(found / "effects.parquet")
    assert set(effects.read()["perturbation"].to_pylist()) == set(LABELS)
    assert effects.metadata.row_group(0).column(0).compression == "ZSTD"  # half of the default
    coded = pa.dictionary(pa.int32(), pa.string())  # as pandas writes categories
    types = {effects.schema_arrow.field(name).type for name in ("perturbation", "gene")}
    assert types == {coded}
    assert not (found / "results.csv").exists()


def test_the_report_says_for_each_prediction_why_its_roc_auc_is_below_chance(
    tmp_path: Path,
) -> None:
    sparse = Screen(
        tmp_path,
        perturbations=tuple(LABELS[:6]),
        genes=150,
        cells_each=40,
        controls_each=300,
        sparse=True,
    )
    found = sparse.evaluate(sparse.predictions())
    numbers = json.loads((found / "metrics.json").read_text())
    why = numbers["diagnosis"][CONTROL_MEAN]
    assert why["roc_auc"] == pytest.approx(numbers["baselines"][CONTROL_MEAN]["roc_auc"])
    assert why["roc_auc"] < 0.3 and why["agreement"] > 0.9
    assert why["skew_roc_auc"] == pytest.approx(why["roc_auc"], abs=0.05)
    called = pd.read_csv(found / "called_by_expression.csv").query("prediction == 'control_mean'")
    assert called["predicted"].iloc[0] > 0.8 > called["predicted"].iloc[-1]
    assert called["measured"].iloc[0] < called["measured"].iloc[-1]
    page = _Page()
    page.feed((found / "report.html").read_text())
    text = " ".join(page.text.split())
    assert f"control mean: {why['roc_auc']:.3f}" in text
    assert "So the low roc_auc measures missing cell-to-cell spread" in text
    below = {
        name
        for name, means in {MODEL: numbers["model"], **numbers["baselines"]}.items()
        if means["roc_auc"] < 0.5
    }
    assert set(numbers["diagnosis"]) - {MODEL_MEANS} == below


def test_what_is_kept_of_the_measured_cells_changes_no_number(tmp_path: Path) -> None:
    few = Screen(tmp_path, perturbations=("G0", "G1"), controls_each=20)
    predictions, found = few.predictions(kind=RANK), []
    for name in ("first", "again"):
        folders = (tmp_path / "cells", tmp_path / "splits", tmp_path / name)
        evaluate(predictions, *folders, threads=1, cache=tmp_path / "cache")
        found.append((tmp_path / name / "scores.csv").read_text())
    assert found[0] == found[1]
    assert len(list((tmp_path / "cache").iterdir())) == 4  # measured, model, two halves
