"""The predict stage with a model of random weights: means and cells, and what they are made of."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix, issparse
from scipy.stats import rankdata

from components.predict.predict import predict
from components.predict.predictor import mean_of_cells
from components.predict.wanted import Wanted, perturbation_table
from components.shared.artifacts.artifact import MODEL, PREDICTIONS, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import (
    CONFIDENCE_FILE,
    MEAN,
    MEASURED,
    NEAR_BY,
    SUMMED,
    Confidence,
)
from components.shared.artifacts.predictions import (
    CELLS_KIND,
    MEANS,
    PERTURBATIONS,
    PERTURBATIONS_FILE,
    Predictions,
)
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE, TrainingEffects
from components.shared.model import model as scgpt_model
from components.shared.model.rank_cells import DENOISED, PREDICTED_CELLS, RANK
from components.shared.parameters.recipe import load_recipe
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.helpers import cells_artifact, screen
from tests.publish.publish_run import ARGS

VOCABULARY = {f"G{i}": i for i in range(28)} | {"X0": 28, "<pad>": 29}
UNKNOWN = "Y0"
"""A target that is not in the vocabulary, so that the model cannot identify it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, splits and predictions of both kinds under two recipes."""
    folder = tmp_path_factory.mktemp("world")
    perturbations = ("G0", "G1", "X0", UNKNOWN, "G1+G2")
    cells = screen(perturbations=perturbations, cells_each=25, controls_each=40)
    cells_artifact(folder / "cells", *cells)
    lines = {"train_lines": ["k562", "jurkat", "hepg2"], "test_line": "rpe1"}
    halved = {"val_fraction": 0.2, "halve_controls": True}
    split(folder / "cells", folder / "splits", **lines, **halved)
    for kind in PREDICTED_CELLS:
        for recipe in ("smoke", "reference"):
            name = f"{recipe} {kind}"
            write_model(folder / f"model {name}", recipe, predicted_cells=kind)
            run(folder, f"model {name}", name)
    return folder


def write_model(folder: Path, recipe: str, **overrides: Any) -> None:
    """Write a model artifact whose weights are random and large enough to matter."""
    torch.manual_seed(0)
    state = scgpt_model.export_state(scgpt_model.build(ARGS, VOCABULARY))
    state = {name: tensor * 1.5 for name, tensor in state.items()}
    settings = asdict(load_recipe(recipe, overrides))
    args = ARGS | {"scgpt_perturb": {"recipe": recipe, "seed": 0, "settings": settings}}
    with writing(folder, MODEL, parameters={}) as draft:
        torch.save(state, draft.path / "best_model.pt")
        (draft.path / "args.json").write_text(json.dumps(args))
        (draft.path / "vocab.json").write_text(json.dumps(VOCABULARY))


def run(world: Path, model: str, name: str, seed: int = 0) -> None:
    predict(world / model, world / "cells", world / "splits", world / name, seed=seed)


def read(world: Path, name: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the h5ad, its X as an array, and the labels of the rows."""
    adata = Predictions.open(world / name).anndata
    return adata, adata.to_df().to_numpy(), adata.obs["perturbation"].to_numpy(str)


@pytest.mark.parametrize("recipe", ["smoke", "reference"])
def test_both_kinds_of_cells_have_the_means_that_are_stored(world: Path, recipe: str) -> None:
    means = {}
    for kind in PREDICTED_CELLS:
        adata, predicted, labels = read(world, f"{recipe} {kind}")
        means[kind] = adata.varm[MEANS]
        assert adata.uns[CELLS_KIND] == kind
        assert list(adata.uns[PERTURBATIONS]) == ["G0", "G1", "G1+G2", "X0", UNKNOWN]
        assert means[kind].dtype == np.float32
        for column, label in enumerate(adata.uns[PERTURBATIONS]):
            found = predicted[labels == label].mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(found, means[kind][:, column], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(means[RANK], means[DENOISED])


def test_mapped_cells_are_sparse_and_their_genes_correlate_as_in_the_controls(world: Path) -> None:
    cells = Cells.open(world / "cells")
    basal = cells.rows(Splits.open(world / "splits", cells).basal("rpe1")).toarray()
    varied = basal.std(axis=0) > 0
    likeness = {}
    for kind in PREDICTED_CELLS:
        adata, predicted, labels = read(world, f"reference {kind}")
        assert issparse(adata.X) == (kind == RANK)
        found = predicted[labels == "G0"]
        kept = varied & (found.std(axis=0) > 0)
        ranks = (rankdata(x[:, kept], axis=0).T for x in (found, basal))
        pairs = np.triu_indices(kept.sum(), 1)
        likeness[kind] = np.corrcoef(*(np.corrcoef(x)[pairs] for x in ranks))[0, 1]
    assert likeness[RANK] > 0.8 > likeness[DENOISED]


def test_a_perturbation_the_model_cannot_see_gives_the_basal_controls_and_their_pools_mean(
    world: Path,
) -> None:
    cells = Cells.open(world / "cells")
    basal = cells.rows(Splits.open(world / "splits", cells).basal("rpe1")).toarray()
    _, mapped, labels = read(world, "smoke rank")
    found = mapped[labels == UNKNOWN]
    assert len(found) == 25 > len(basal) == 20
    distance = np.abs(found[:, None] - basal[None]).mean(axis=2)
    nearest, second = np.sort(distance, axis=1)[:, :2].T
    assert (nearest < 0.6 * second).all()
    # The mean is the whole pool's, whichever controls were drawn.
    np.testing.assert_allclose(found.mean(axis=0), basal.mean(axis=0), atol=1e-5)
    # More cells than controls: each control once before any comes again.
    assert set(np.bincount(distance.argmin(axis=1), minlength=20)) == {1, 2}


def test_the_seed_decides_the_cells_and_the_summary_says_what_they_are(world: Path) -> None:
    run(world, "model smoke rank", "again")
    run(world, "model smoke rank", "other", seed=1)
    first, again, other = (read(world, name)[1] for name in ("smoke rank", "again", "other"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for name, kind in (("smoke rank", RANK), ("smoke denoised", DENOISED)):
        assert opening(world / name, PREDICTIONS).summary[CELLS_KIND] == kind


def test_recipes_name_their_cells() -> None:
    kinds = {name: load_recipe(name, {}).predicted_cells for name in ("default", "reference")}
    assert kinds == {"default": RANK, "reference": DENOISED}


# What is asked for -------------------------------------------------------------------------------


def ask(world: Path, name: str, perturbations: list[str], model: str = "", **keywords: Any) -> Any:
    """Predict ``perturbations`` with the world's cells; return the artifact."""
    lines = {"train_lines": ["k562", "jurkat", "hepg2"], "test_line": "rpe1", "val_fraction": 0.2}
    options = {key: keywords.pop(key) for key in ("aliases",) if key in keywords}
    if not (world / f"splits {name}").exists():
        asked = {"perturbations": perturbations} | options
        split(world / "cells", world / f"splits {name}", **lines, **asked)
    folder = world / f"model {model or 'smoke rank'}"
    predict(folder, world / "cells", world / f"splits {name}", world / name, **keywords)
    return Predictions.open(world / name)


def test_what_was_not_measured_is_predicted_beside_what_was(world: Path) -> None:
    found = ask(world, "some measured", ["G1", "G7", "G0+G7"], cells_per_perturbation=9)
    adata = found.anndata
    assert list(adata.uns[PERTURBATIONS]) == ["G0+G7", "G1", "G7"]
    labels = adata.obs["perturbation"].to_numpy(str)
    measured = adata.obs["measured"].to_numpy(bool)
    control = adata.obs["is_control"].to_numpy(bool)
    assert set(labels[measured & ~control]) == {"G1"} and measured[control].all()
    assert [(labels == x).sum() for x in ("G0+G7", "G1", "G7")] == [9, 25, 9]
    assert list(adata.obs_names[labels == "G7"]) == [f"G7-{i}" for i in range(1, 10)]
    truth = adata.layers["truth"].toarray()
    assert not truth[~measured].any() and (truth[measured].sum(axis=1) > 0).all()
    cells = Cells.open(world / "cells")
    own = cells.rows(cells.obs.index.get_indexer(adata.obs_names[measured])).toarray()
    np.testing.assert_array_equal(truth[measured], own)
    table = pd.read_parquet(found.artifact.path / PERTURBATIONS_FILE).set_index("perturbation")
    assert table["cells"].to_dict() == {"G0+G7": 9, "G1": 25, "G7": 9}
    assert table["measured_cells"].to_dict() == {"G0+G7": 0, "G1": 25, "G7": 0}
    assert table["flagged"].all() and table["target_measured"].all()


def test_a_prediction_does_not_depend_on_what_else_is_asked_for(world: Path) -> None:
    many = ask(world, "many", ["G0", "G1", "G7", "G9"]).anndata
    one = ask(world, "one", ["G7", "G1"]).anndata
    np.testing.assert_array_equal(
        many[many.obs["perturbation"] == "G7"].to_df(), one[one.obs["perturbation"] == "G7"].to_df()
    )
    np.testing.assert_array_equal(many.varm[MEANS][:, 2], one.varm[MEANS][:, 1])


def test_where_nothing_was_measured_there_is_no_truth(world: Path) -> None:
    adata = ask(world, "nothing measured", ["G7", "G9"]).anndata
    assert "truth" not in adata.layers
    own = adata.obs["is_control"].to_numpy(bool)
    # As many cells as there are basal controls, all of the line's where nothing is compared.
    assert (adata.obs["perturbation"] == "G7").sum() == own.sum() == 40
    assert not adata.obs["measured"][~own].any()


def test_what_the_model_cannot_know_is_named_and_the_others_go_on(
    world: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = world / "names.csv"
    table.write_text("symbol,alias\nG7,OLD7\nG8,G77|OTHER\n")
    wanted = ["G9", "OLD7", "G99", "Y1+G9"]
    found = ask(world, "unknown", wanted, aliases=str(table))
    assert list(found.anndata.uns[PERTURBATIONS]) == ["G9"]
    assert found.artifact.summary["not_predicted"] == ["G9+Y1", "G99", "OLD7"]
    said = capfd.readouterr().err
    assert "'OLD7' (another name of G7)" in said and "'G99' (nearest: 'G9')" in said
    assert "'G9+Y1'" in said and "the others are predicted" in said
    with pytest.raises(InputError, match=r"'OLD7'.*name genes of the model's vocab\.json"):
        ask(world, "all unknown", ["OLD7"])
    assert not (world / "all unknown").exists()


def test_a_measured_perturbation_is_predicted_even_if_the_model_cannot_see_it(world: Path) -> None:
    found = ask(world, "measured unknown", [UNKNOWN, "G9"])
    assert list(found.anndata.uns[PERTURBATIONS]) == ["G9", UNKNOWN]


def with_beside(world: Path, name: str, trained: list[str], scale: float) -> None:
    """Copy the smoke model, with what its training lines measured and a factor."""
    rng = np.random.default_rng(0)
    effects = TrainingEffects(
        ["k562", "jurkat"],
        ["G0", "G1"],
        trained,
        rng.normal(size=(2, 2, len(trained))),
        np.array([[5, 4], [3, 0]]),
        rng.random((2, len(trained))),
    )
    with writing(world / f"model {name}", MODEL, parameters={}) as draft:
        for file in ("best_model.pt", "vocab.json"):
            shutil.copyfile(world / "model smoke rank" / file, draft.path / file)
        args = json.loads((world / "model smoke rank" / "args.json").read_text())
        args["scgpt_perturb"]["settings"]["scale_effects"] = True
        (draft.path / "args.json").write_text(json.dumps(args))
        effects.write(draft.path / TRAINING_EFFECTS_FILE)
        columns = ["known", "agreement", "lines", "cells", "carried", "strength"]
        nothing = pd.DataFrame(columns=columns, index=pd.Index([], name="label"))
        told = Confidence(scale, "as a test says", "too few lines", [], nothing, {}, {})
        told.write(draft.path / CONFIDENCE_FILE)


def test_genes_that_training_did_not_have_keep_the_controls_value_and_are_listed(
    world: Path,
) -> None:
    with_beside(world, "of some genes", [f"G{i}" for i in range(12)], 1.0)
    adata = ask(world, "some genes", ["G1", "G20"], "of some genes").anndata
    assert list(adata.uns["genes_not_predicted"]) == [f"G{i}" for i in range(12, 30)]
    cells = Cells.open(world / "cells")
    basal = cells.rows(Splits.open(world / "splits some genes", cells).basal("rpe1")).toarray()
    change = adata.varm[MEANS] - basal.mean(axis=0)[:, None]
    assert np.abs(change[12:]).max() < 1e-5 < 1e-2 < np.abs(change[:12]).max()
    table = pd.read_parquet(world / "some genes" / PERTURBATIONS_FILE).set_index("perturbation")
    assert table["training_lines"].to_dict() == {"G1": "k562", "G20": ""}
    assert table["training_cells"].to_dict() == {"G1": 4, "G20": 0}
    assert table["expected_pearson_delta"].isna().all()


def test_the_factor_scales_every_predicted_change(world: Path) -> None:
    every = [f"G{i}" for i in range(30)]
    for scale in (1.0, 0.5):
        with_beside(world, f"scaled {scale}", every, scale)
        ask(world, f"by {scale}", ["G1", "G7"], f"scaled {scale}")
    whole, half = (Predictions.open(world / f"by {scale}").anndata for scale in (1.0, 0.5))
    cells = Cells.open(world / "cells")
    basal = cells.rows(Splits.open(world / "splits by 1.0", cells).basal("rpe1")).toarray()
    control = basal.mean(axis=0)[:, None]
    changes = [adata.varm[MEANS] - control for adata in (whole, half)]
    free = (np.abs(changes[0]) > 0.05) & (whole.varm[MEANS] > 0.2) & (whole.varm[MEANS] < 14)
    assert free.sum() > 10
    np.testing.assert_allclose(changes[1][free], 0.5 * changes[0][free], rtol=1e-3)
    assert opening(world / "by 0.5", PREDICTIONS).summary["scale"] == 0.5


def test_a_mean_that_a_few_controls_give_is_nearly_that_of_all(world: Path) -> None:
    """What was not measured is predicted from some controls, as a change of the whole pool."""
    every = ask(world, "from all", ["G5", "G9"], "smoke denoised").anndata
    some = ask(world, "from some", ["G5", "G9"], "smoke rank").anndata
    assert some.n_obs == every.n_obs == 2 * 40 + 40
    cells = Cells.open(world / "cells")
    basal = cells.rows(Splits.open(world / "splits from all", cells).basal("rpe1")).toarray()
    control = basal.mean(axis=0)[:, None]
    changes = [(adata.varm[MEANS] - control).ravel() for adata in (every, some)]
    assert np.corrcoef(*changes)[0, 1] > 0.99
    assert np.abs(changes[0] - changes[1]).max() > 0


def test_a_checkpoint_that_was_never_fine_tuned_here_is_refused(world: Path) -> None:
    with writing(world / "model plain", MODEL, parameters={}) as draft:
        for file in ("best_model.pt", "vocab.json"):
            shutil.copyfile(world / "model smoke rank" / file, draft.path / file)
        (draft.path / "args.json").write_text(json.dumps(ARGS))
    with pytest.raises(InputError, match="never fine-tuned here"):
        ask(world, "plain", ["G1"], "plain")


@pytest.mark.parametrize("number", [-1])
def test_a_number_of_cells_below_zero_is_refused(world: Path, number: int) -> None:
    with pytest.raises(InputError, match="cells_per_perturbation=-1: expected 0 or"):
        ask(world, "below zero", ["G1"], cells_per_perturbation=number)


def test_cell_eval_prepares_the_file_as_it_stands(world: Path, tmp_path: Path) -> None:
    found = ask(world, "for prep", ["G1", "G7"])
    (tmp_path / "genes.csv").write_text("\n".join(found.anndata.var_names) + "\n")
    command = [Path(sys.executable).with_name("cell-eval"), "prep", "-i", found.file]
    command += ["-g", tmp_path / "genes.csv", "-p", "perturbation", "--expected-gene-dim", "-1"]
    done = subprocess.run(
        [*command, "-o", tmp_path / "out.vcc"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.vcc").stat().st_size > 0


def test_the_mean_of_many_controls_is_not_summed_in_32_bits():
    rng = np.random.default_rng(0)
    dense = rng.uniform(3, 5, (50_000, 4)).astype(np.float32)
    dense[:, 1] *= rng.random(50_000) < 0.1
    dense[:, 2] = 0
    exact = dense.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean_of_cells(csr_matrix(dense)), exact, rtol=2e-7)
    np.testing.assert_allclose(mean_of_cells(csr_matrix(dense[:1])), dense[0])


@pytest.mark.parametrize("matched", [True, False])
def test_a_cell_is_made_from_a_control_of_its_own_batch_if_the_model_matched_them(
    tmp_path: Path, matched: bool
) -> None:
    obs, X, genes = screen(cells_each=15, controls_each=40)  # noqa: N806
    obs["batch"] = np.tile(["one", "two", "three"], len(obs))[: len(obs)]
    # A gene that the model does not know keeps the control's value, which is each cell's own here.
    X[:, -1] = np.linspace(1, 3, len(obs), dtype=np.float32)
    cells_artifact(tmp_path / "cells", obs, X, genes)
    split(
        tmp_path / "cells",
        tmp_path / "splits",
        train_lines=["k562"],
        test_line="rpe1",
        perturbations=["G0", "G1", "G7"],
    )
    write_model(tmp_path / "model", "reference", predicted_cells=DENOISED, match_batches=matched)
    run(tmp_path, "model", "predictions")
    h5ad, predicted, labels = read(tmp_path, "predictions")
    cells = Cells.open(tmp_path / "cells")
    own = pd.Series(cells.obs["batch"].to_numpy(str), np.float32(X[:, -1]))
    made_from = own[predicted[:, -1]].to_numpy(str)
    measured = np.isin(labels, ["G0", "G1"])
    assert measured.sum() == 30
    assert (made_from == h5ad.obs["batch"].to_numpy(str))[measured].all() == matched
    assert set(made_from[labels == "G7"]) == {"one", "two", "three"}
    assert opening(tmp_path / "predictions", PREDICTIONS).summary["match_batches"] is matched


def test_what_is_known_of_a_perturbation_is_what_its_prediction_uses() -> None:
    labels = np.array(["A", "A+B", "C", "D"])
    known = {"A": MEASURED, "A+B": SUMMED, "C": NEAR_BY, "D": MEAN}
    columns = ["known", "agreement", "lines", "cells", "carried", "strength"]
    told = pd.DataFrame(columns=columns, index=pd.Index([], name="label"))
    told = told.astype(dict.fromkeys(columns[1:], float))
    training = TrainingEffects(
        ["k562"], ["A"], ["G0", "G1"], np.ones((1, 1, 2)), np.array([[5]]), np.ones((1, 2))
    )
    wanted = Wanted(labels, np.full(len(labels), -1))
    table = perturbation_table(
        wanted,
        ["G0", "G1"],
        np.array([1.0, 2.0]),
        flagged=lambda _: True,
        training=training,
        confidence=Confidence(1.0, "", "", [], told, {}, {}),
        origin=known.__getitem__,
    )
    assert table.set_index("perturbation")["known"].to_dict() == known
