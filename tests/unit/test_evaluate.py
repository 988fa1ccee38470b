"""The evaluate stage on small generated screens, against cell-eval itself and plain numpy."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cell_eval import MetricsEvaluator
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse

from components.evaluate import cell_eval_files
from components.evaluate.baselines import (
    BASELINES,
    CONTROL_MEAN,
    MEAN_DELTA,
    SAME_PERTURBATION_DELTA,
    baseline_means,
    baseline_pairs,
    training_pseudobulks,
)
from components.evaluate.evaluate import evaluate
from components.evaluate.metrics import CELLS, HEADLINE, METRICS
from components.evaluate.pair import pair_of
from components.evaluate.scoring import as_floats, ceiling, score
from components.evaluate.summary import compare
from components.shared.artifact import EVALUATION, PREDICTIONS, SPLITS, opening, writing
from components.shared.cells import Cells
from components.shared.errors import InputError
from components.shared.perturbation import CONTROL
from components.shared.predictions import (
    CELLS_KIND,
    MEANS,
    PERTURBATIONS,
    PREDICTIONS_FILE,
    TRUTH,
)
from components.shared.rank_cells import DENOISED, RANK, rank_cells
from components.shared.splits import SPLITS_FILE, Splits
from tests.helpers import cells_artifact, screen

FILES = {
    "results.csv",
    "agg_results.csv",
    "baselines.csv",
    "ceiling.csv",
    "metrics.json",
    "report.html",
    "provenance.json",
}
UNSEEN = "X0"
Change = Callable[[anndata.AnnData], anndata.AnnData | None]


class Screen:
    """Cells, splits and predictions artifacts of one generated screen, in a folder."""

    def __init__(self, folder: Path, **shape) -> None:
        self.folder = folder
        self.obs, self.X, self.genes = screen(**shape)
        self.X = self.X.astype(np.float32)
        cells_artifact(folder / "cells", self.obs, self.X, self.genes)
        self.cells = Cells.open(folder / "cells")
        self.roles = self._roles()
        self._write_splits()
        self.splits = Splits.open(folder / "splits", self.cells)

    def _roles(self) -> np.ndarray:
        control = (self.obs["perturbation"] == CONTROL).to_numpy()
        half = np.arange(len(self.obs)) % 2 == 0
        test = (self.obs["cell_line"] == "rpe1").to_numpy()
        unseen = (self.obs["perturbation"] == UNSEEN).to_numpy()
        roles = np.where(test, "test", np.where(unseen, "unused", "train")).astype(object)
        roles[control & half], roles[control & ~half] = "control_basal", "control_reference"
        return roles

    def _write_splits(self) -> None:
        table = pd.DataFrame(
            {
                "cell": self.obs.index,
                "cell_line": self.obs["cell_line"].to_numpy(),
                "perturbation": self.obs["perturbation"].to_numpy(),
                "role": self.roles,
            }
        )
        inputs = {"cells": self.cells.artifact}
        with writing(self.folder / "splits", SPLITS, parameters={}, inputs=inputs) as draft:
            table.to_parquet(draft.path / SPLITS_FILE)
            draft.summary |= {"test_line": "rpe1", "train_lines": ["k562", "jurkat", "hepg2"]}

    def rows(self) -> np.ndarray:
        line = (self.obs["cell_line"] == "rpe1").to_numpy()
        return np.flatnonzero(
            np.isin(self.roles, ["test"]) | (line & (self.roles == "control_reference"))
        )

    def predictions(
        self, change: Change | None = None, *, name: str = "predictions", kind: str = DENOISED
    ) -> Path:
        """Write a predictions artifact: the truth plus noise in perturbed cells, then changed."""
        rows = self.rows()
        truth = self.X[rows]
        obs = self.obs.iloc[rows][["perturbation", "cell_line"]].copy()
        obs["is_control"] = obs["perturbation"] == CONTROL
        obs["seen_in_training"] = ~obs["perturbation"].isin([CONTROL, UNSEEN])
        noise = np.random.default_rng(1).normal(0, 0.8, truth.shape)
        noisy = np.clip(truth + noise, 0, 14).astype(np.float32)
        predicted = np.where(obs["is_control"].to_numpy()[:, None], truth, noisy)
        labels = obs["perturbation"].to_numpy(str)
        perturbations = sorted(set(labels) - {CONTROL})
        means = [predicted[labels == label].mean(axis=0) for label in perturbations]
        if kind == RANK:
            for label, mean in zip(perturbations, means, strict=True):
                predicted[labels == label] = self.ranked((labels == label).sum(), mean)
        adata = anndata.AnnData(
            csr_matrix(predicted) if kind == RANK else predicted,
            obs=obs.astype({"perturbation": "category", "cell_line": "category"}),
            var=pd.DataFrame(index=self.genes),
            layers={TRUTH: csr_matrix(truth)},
            varm={MEANS: np.stack(means, axis=1)},
            uns={
                "perturbation_column": "perturbation",
                "control": CONTROL,
                PERTURBATIONS: perturbations,
                CELLS_KIND: kind,
            },
        )
        adata = (change(adata) if change else None) or adata
        inputs = {"cells": self.cells.artifact, "splits": self.splits.artifact}
        target = self.folder / name
        with writing(target, PREDICTIONS, parameters={}, inputs=inputs) as draft:
            adata.write_h5ad(draft.path / PREDICTIONS_FILE)
        return target

    def basal(self) -> np.ndarray:
        return self.X[(self.obs["cell_line"] == "rpe1") & (self.roles == "control_basal")]

    def ranked(self, cells: int, mean: np.ndarray) -> np.ndarray:
        """Return the first basal controls of the test line, mapped to a mean."""
        return rank_cells(self.basal()[:cells], mean, np.random.default_rng(2))

    def evaluate(self, predictions: Path, name: str = "evaluation") -> Path:
        folder = self.folder
        evaluate(predictions, folder / "cells", folder / "splits", folder / name, threads=1)
        return folder / name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Screen:
    return Screen(tmp_path_factory.mktemp("screen"), genes=60, cells_each=10, controls_each=400)


@pytest.fixture(scope="module")
def evaluated(small: Screen) -> Path:
    return small.evaluate(small.predictions(kind=RANK))


@pytest.fixture(scope="module")
def numbers(evaluated: Path) -> dict:
    return json.loads((evaluated / "metrics.json").read_text())


def test_an_evaluation_holds_its_files_and_leaves_nothing_else_behind(
    small: Screen, evaluated: Path
) -> None:
    assert {path.name for path in evaluated.iterdir()} == FILES
    assert opening(evaluated, EVALUATION).summary["perturbations"] == 6
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
    monkeypatch.setattr(sys, "argv", ["-m", str(file), "pred.h5ad", "real.h5ad"])
    cell_eval_files.main()
    said = capsys.readouterr().out
    command = said.strip().splitlines()[-1].split()
    assert command[:2] == ["cell-eval", "run"]
    cli = Path(sys.executable).with_name("cell-eval")
    subprocess.run([str(cli), *command[1:]], cwd=tmp_path, capture_output=True, check=True)
    for name in ("results.csv", "agg_results.csv"):
        theirs = pd.read_csv(tmp_path / "cell-eval-out" / name, index_col=0)
        ours = pd.read_csv(evaluated / name, index_col=0)
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_the_helper_refuses_to_overwrite_and_to_read_what_is_no_h5ad(tmp_path: Path) -> None:
    bad = tmp_path / "bad.h5ad"
    bad.write_text("not HDF5")
    with pytest.raises(InputError, match="not a readable h5ad"):
        cell_eval_files.write_cell_eval_files(bad, tmp_path / "pred.h5ad", tmp_path / "real.h5ad")
    with pytest.raises(InputError, match="exists already"):
        cell_eval_files.write_cell_eval_files(bad, bad, tmp_path / "real.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5ad"]


def _mean(small: Screen, line: str, role: str, label: str) -> np.ndarray:
    chosen = (
        (small.obs["cell_line"] == line)
        & (small.roles == role)
        & (small.obs["perturbation"] == label)
    )
    return small.X[chosen.to_numpy()].astype(float).mean(axis=0)


def test_baselines_equal_means_recomputed_from_the_arrays(small: Screen) -> None:
    labels = sorted(set(small.obs["perturbation"]) - {CONTROL})
    means, fallbacks = baseline_means(training_pseudobulks(small.cells, small.splits), labels)
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
    assert tuple(means) == BASELINES
    assert fallbacks == [UNSEEN]
    for row, label in enumerate(labels):
        own = np.mean(deltas[label], axis=0) if label in deltas else common
        for name, delta in zip(BASELINES, (0.0, common, own), strict=True):
            np.testing.assert_allclose(means[name][row], np.maximum(control + delta, 0), atol=1e-6)


def test_baselines_do_not_depend_on_the_test_cells(small: Screen, tmp_path: Path) -> None:
    test = small.roles == "test"
    changed = small.X.copy()
    changed[test] = changed[test][::-1] * 0.5
    cells_artifact(tmp_path / "cells", small.obs, changed, small.genes)
    other = training_pseudobulks(Cells.open(tmp_path / "cells"), small.splits)
    same = training_pseudobulks(small.cells, small.splits)
    np.testing.assert_array_equal(other.deltas, same.deltas)
    np.testing.assert_array_equal(other.control, same.control)


def test_baselines_put_means_in_perturbed_cells_and_keep_the_controls(small: Screen) -> None:
    pair = pair_of(anndata.read_h5ad(small.predictions(name="kept") / PREDICTIONS_FILE), "file")
    means, _ = baseline_means(training_pseudobulks(small.cells, small.splits), pair.perturbations)
    control = pair.labels == pair.control
    for name, other in baseline_pairs(pair, means, small.genes):
        np.testing.assert_array_equal(other.predicted[control], pair.measured[control].toarray())
        for row, label in enumerate(pair.perturbations):
            rows = other.predicted[pair.labels == label]
            np.testing.assert_allclose(rows, np.tile(means[name][row], (len(rows), 1)), rtol=1e-6)


def test_baselines_of_mapped_cells_are_mapped_from_the_basal_controls_too(small: Screen) -> None:
    predictions = small.predictions(name="mapped", kind=RANK) / PREDICTIONS_FILE
    pair = pair_of(anndata.read_h5ad(predictions), "file")
    means, _ = baseline_means(training_pseudobulks(small.cells, small.splits), pair.perturbations)
    basal = csr_matrix(small.basal())
    reordered = dataclasses.replace(
        pair,
        obs=pair.obs[::-1],
        predicted=pair.predicted[::-1],
        measured=pair.measured[::-1],
    )
    for name, other in baseline_pairs(reordered, means, small.genes, basal):
        assert issparse(other.predicted) and other.predicted.dtype == np.float32
        np.testing.assert_allclose(other.means(other.predicted)[1:], means[name], atol=1e-6)
        control = other.labels == other.control
        assert (other.predicted[control] != reordered.measured[control]).nnz == 0
    pool = small.basal()[:10]  # as many as a perturbation has cells, so each is drawn once
    means = {CONTROL_MEAN: np.tile(pool.mean(axis=0, dtype=np.float64), (6, 1))}
    _, other = next(baseline_pairs(reordered, means, small.genes, csr_matrix(pool)))
    cells = other.predicted[other.labels == "G0"].toarray()
    np.testing.assert_allclose(*(x[np.argsort(x.sum(1))] for x in (cells, pool)), rtol=1e-6)


def test_metrics_said_to_be_of_means_do_not_move_with_the_cells_and_the_others_do(
    small: Screen,
) -> None:
    """cell-eval's fold change is that of means of log1p values, so it belongs to the means."""
    found = {}
    for kind in (DENOISED, RANK):
        adata = anndata.read_h5ad(
            small.predictions(name=f"of {kind}", kind=kind) / PREDICTIONS_FILE
        )
        found[kind] = score(pair_of(adata, "file"), threads=1).metrics
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
    adata = anndata.read_h5ad(small.predictions(name="called", kind=RANK) / PREDICTIONS_FILE)
    pair = pair_of(adata, "file")
    means, _ = baseline_means(training_pseudobulks(small.cells, small.splits), pair.perturbations)
    called = []
    for controls in (None, csr_matrix(small.basal())):
        _, other = next(baseline_pairs(pair, means, small.genes, controls))
        called.append(score(other, threads=1).metrics["de_nsig_counts_pred"].mean())
    assert called[0] > 10 and called[1] < 1


def test_a_gene_the_cells_do_not_have_is_refused(small: Screen) -> None:
    pair = pair_of(anndata.read_h5ad(small.predictions(name="gene") / PREDICTIONS_FILE), "file")
    with pytest.raises(InputError, match="gene 'G59' is not in the cells"):
        next(baseline_pairs(pair, {CONTROL_MEAN: np.zeros((6, 59))}, small.genes[:-1]))


def test_a_screen_without_training_cells_has_no_baselines(small: Screen) -> None:
    table = small.splits.table.replace({"role": {"train": "unused"}})
    with pytest.raises(InputError, match="no training cells"):
        training_pseudobulks(small.cells, dataclasses.replace(small.splits, table=table))


def test_a_training_line_without_reference_controls_is_named(small: Screen) -> None:
    table = small.splits.table.copy()
    table.loc[table["cell_line"] == "jurkat", "role"] = table["role"].replace(
        {"control_reference": "unused"}
    )
    with pytest.raises(InputError, match="line 'jurkat'"):
        training_pseudobulks(small.cells, dataclasses.replace(small.splits, table=table))


def test_the_baselines_score_as_their_knowledge_says(numbers: dict) -> None:
    found = {name: means["pearson_delta"] for name, means in numbers["baselines"].items()}
    assert found[CONTROL_MEAN] is None or abs(found[CONTROL_MEAN]) < 0.15
    assert found[SAME_PERTURBATION_DELTA] > found[CONTROL_MEAN] + 0.3
    assert found[SAME_PERTURBATION_DELTA] > found[MEAN_DELTA] + 0.2
    assert numbers["model"]["pearson_delta"] > found[SAME_PERTURBATION_DELTA]
    assert numbers["same_perturbation_fallbacks"] == 1
    comparison = numbers["comparisons"][CONTROL_MEAN]
    assert comparison["low"] > 0 and comparison["better"] == comparison["of"] == 6


def test_pearson_delta_is_what_numpy_says(small: Screen, evaluated: Path) -> None:
    pair = pair_of(anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE), "file")
    predicted, measured = pair.deltas()
    results = pd.read_csv(evaluated / "results.csv", index_col=0)
    for row, label in enumerate(pair.perturbations):
        expected = np.corrcoef(predicted[row], measured[row])[0, 1]
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
    assert counted == [6, 5, 1]
    table = pd.read_csv(evaluated / "baselines.csv").set_index(["baseline", "metric"])
    assert list(table.columns) == ["mean", "median", "n_nan"]
    for baseline in BASELINES:
        stored = table.loc[(baseline, "mae_delta"), "mean"]
        assert numbers["baselines"][baseline]["mae_delta"] == pytest.approx(stored)
    highest = pd.read_csv(evaluated / "ceiling.csv", index_col="metric")["ceiling"]
    assert numbers["ceiling"]["mae_delta"] is None and np.isnan(highest["mae_delta"])
    assert numbers["ceiling"]["pearson_delta"] == pytest.approx(highest["pearson_delta"])
    assert 0 < highest["pearson_delta"] < 1


def test_metrics_json_says_what_the_cells_are_and_which_metrics_look_at_them(
    numbers: dict,
) -> None:
    assert numbers["predicted_cells"] == RANK
    of = numbers["metrics_of"]
    assert {"pearson_delta", "mae_delta", "discrimination_score_l1"} <= set(of["means"])
    assert {"roc_auc", "pr_auc", "overlap_at_N", "de_nsig_counts_pred"} <= set(of["cells"])
    assert {*of["means"], *of["cells"]} == {*numbers["model"]} - {"de_nsig_counts_real"}


def test_the_ceiling_is_cell_evals_where_no_value_is_missing(small: Screen, tmp_path: Path) -> None:
    pair = pair_of(anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE), "file")
    _, measured = pair.anndata()
    evaluator = MetricsEvaluator(
        None, measured, pert_col="perturbation", num_threads=1, outdir=str(tmp_path)
    )
    halves, reported = evaluator.compute_ceiling(write_csv=False)
    found = ceiling(pair, threads=1)
    assert found
    theirs = reported.to_pandas().iloc[0].astype(float).dropna()
    assert "pearson_delta" in theirs.index
    np.testing.assert_allclose(found.table["ceiling"][theirs.index], theirs, rtol=1e-6)
    pd.testing.assert_frame_equal(
        found.halves.metrics, as_floats(halves), check_exact=False, rtol=1e-6, atol=1e-6
    )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_whole_page_with_every_headline_metric(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    for metric in HEADLINE:
        assert page.text.count(metric.name) >= 3  # table, seen and unseen, explanation
    for sentence in (
        "beats the control mean",
        "model beats the same-perturbation training delta",
        "mapped gene by gene, by rank, to the predicted mean",
    ):
        assert sentence in " ".join(page.text.split())
    assert len(page.images) == 5
    for image in page.images:
        assert image["alt"] and str(image["src"]).startswith("data:image/svg+xml;base64,")
    assert "http" not in page.text and str(evaluated.parent) not in text
    assert len(text) < 3e6


def _relabel(adata: anndata.AnnData, change: Callable[[str], str]) -> None:
    adata.obs["perturbation"] = [change(label) for label in adata.obs["perturbation"]]


def _set(adata: anndata.AnnData, value: float) -> None:
    adata.X[0, 3] = value


def _other_mean(adata: anndata.AnnData) -> None:
    adata.varm[MEANS][7, adata.uns[PERTURBATIONS].index("G2")] += 0.01


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


BAD: dict[str, tuple[Change, str]] = {
    "ctrl label": (lambda a: _relabel(a, lambda x: x.replace("G3", "G3+ctrl")), "bare gene symbol"),
    "blank label": (lambda a: _relabel(a, lambda x: x.replace("G3", " G3")), "bare gene symbol"),
    "negative": (lambda a: _set(a, -0.5), r"X: -0.5 in cell '\S+', gene 'G3'"),
    "NaN": (lambda a: _set(a, np.nan), "X: nan in cell"),
    "infinite": (lambda a: _set(a, np.inf), "X: inf in cell"),
    "too large": (lambda a: _set(a, 15.0), r"within \[0, 15\)"),
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


@pytest.mark.parametrize("case", BAD)
def test_bad_predictions_give_one_line_and_no_output(
    small: Screen, case: str, request: pytest.FixtureRequest
) -> None:
    change, message = BAD[case]
    predictions = small.predictions(change, name=f"bad {case}")
    with pytest.raises(InputError, match=message) as caught:
        small.evaluate(predictions, name=f"out {case}")
    assert "\n" not in str(caught.value)
    assert not (small.folder / f"out {case}").exists()


@pytest.mark.parametrize(
    ("line", "role", "message"),
    [
        ("rpe1", "control_basal", "has role 'control_basal', but a control here must be"),
        ("k562", "control_reference", "is of line 'k562'"),
    ],
)
def test_controls_of_the_basal_half_or_of_a_training_line_are_refused(
    small: Screen, line: str, role: str, message: str
) -> None:
    chosen = (small.obs["cell_line"] == line).to_numpy() & (small.roles == role)
    names = list(small.obs.index[chosen][:3])
    predictions = small.predictions(lambda a: _rename(a, names), name=f"controls {line} {role}")
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


def test_negative_threads_are_refused(small: Screen) -> None:
    with pytest.raises(InputError, match="threads: -1"):
        evaluate("a", "b", "c", "d", threads=-1)


def test_an_existing_target_is_not_touched(small: Screen, evaluated: Path) -> None:
    before = (evaluated / "provenance.json").read_text()
    with pytest.raises(InputError, match="exists already"):
        small.evaluate(small.folder / "predictions")
    assert (evaluated / "provenance.json").read_text() == before


def test_one_perturbation_of_one_cell_with_one_control_is_evaluated(tmp_path: Path) -> None:
    tiny = Screen(tmp_path, perturbations=("G0",), cells_each=1, controls_each=2, genes=20)
    found = tiny.evaluate(tiny.predictions())
    numbers = json.loads((found / "metrics.json").read_text())
    assert numbers["perturbations"] == 1
    assert set(numbers["not_computed"]) == {"pearson_edistance", "clustering_agreement"}
    assert all(value is None for value in numbers["ceiling"].values())
    assert numbers["unseen"]["pearson_delta"] is None
    assert numbers["nan_counts"]["roc_auc"] == 1 and numbers["model"]["roc_auc"] is None
    page = (found / "report.html").read_text()
    assert "too few cells to split" in page and "Every test perturbation was seen" in page


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


@pytest.mark.parametrize("kind", [csr_matrix, np.asarray])
def test_the_pair_keeps_sparse_and_dense_as_they_are(small: Screen, kind: Callable) -> None:
    adata = anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE)
    adata.X = kind(adata.X.toarray())
    predicted, measured = pair_of(adata, "file").anndata()
    assert issparse(predicted.X) == (kind is csr_matrix) and issparse(measured.X)


def test_unused_categories_are_not_taken_for_perturbations(small: Screen) -> None:
    adata = anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE)
    adata.obs["perturbation"] = adata.obs["perturbation"].cat.add_categories("NOT_THERE")
    pair = pair_of(adata, "file")
    assert "NOT_THERE" not in pair.perturbations
    assert "NOT_THERE" not in pair.anndata()[0].obs["perturbation"].cat.categories


def test_a_ceiling_needs_two_controls(small: Screen) -> None:
    adata = anndata.read_h5ad(small.folder / "predictions" / PREDICTIONS_FILE)
    first = adata.obs.index[adata.obs["is_control"]][1:]
    assert ceiling(pair_of(adata[~adata.obs.index.isin(first)].copy(), "f"), threads=1) is None


@given(
    st.lists(
        st.tuples(*[st.one_of(st.just(float("nan")), st.floats(-1, 1))] * 2),
        min_size=1,
        max_size=30,
    )
)
def test_a_comparison_is_paired_bounded_and_turns_with_its_sides(
    values: list[tuple[float, float]],
) -> None:
    model, baseline = pd.DataFrame(values)[0], pd.DataFrame(values)[1]
    found, turned = compare(model, baseline), compare(baseline, model)
    both = [(m, b) for m, b in values if not np.isnan(m) and not np.isnan(b)]
    assert found.of == len(both)
    assert found.better + turned.better <= found.of
    if not both:
        assert found.verdict == "cannot be compared with"
        return
    assert found.difference == pytest.approx(np.mean([m - b for m, b in both]), abs=1e-12)
    opposite = {"beats": "falls short of", "falls short of": "beats"}
    assert turned.verdict == opposite.get(found.verdict, found.verdict)
    if found.low is not None and found.high is not None:
        assert found.low - 1e-12 <= found.difference <= found.high + 1e-12 or found.of < 5
