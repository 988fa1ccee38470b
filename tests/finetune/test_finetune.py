"""Finetune and predict on a small generated screen whose effects are known."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest
import torch

from components.finetune import given, training
from components.finetune.curves import PANELS, curves_page
from components.finetune.deltas import line_deltas
from components.finetune.finetune import finetune
from components.finetune.model_files import CURVES_FILE
from components.finetune.selection import pearson
from components.finetune.start import start_model
from components.predict.predict import predict
from components.predict.predictor import clipped_keeping_mean
from components.shared.artifacts.artifact import MODEL, PREDICTIONS, opening
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import Predictions
from components.shared.artifacts.splits import TEST, Splits
from components.shared.model.checkpoint import read_checkpoint
from components.shared.model.rank_cells import draw_partners
from components.shared.parameters.recipe import load_recipe
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.finetune.screens import QUICK, VOCABULARY, small_world, train, write_prior
from tests.helpers import cells_artifact, screen


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        return train(world, world / "model")


@pytest.fixture(scope="module")
def predictions(world, model):
    predict(model, world / "cells", world / "splits", world / "predictions")
    return world / "predictions"


def test_a_model_artifact_has_all_files_and_says_what_was_done(model):
    artifact = opening(model, MODEL)
    stats = json.loads((model / "training_stats.json").read_text())
    assert {"best_model.pt", "args.json", "vocab.json", CURVES_FILE} <= set(
        artifact.provenance["files"]
    )
    assert stats["epochs_run"] == len(stats["history"]) == 2
    assert stats["cells_seen"] == 2 * stats["cells_per_epoch"]
    assert stats["random_init"]
    assert stats["unflagged"] == ["Y0"]
    assert stats["unmeasured_targets"] == 2
    for epoch in stats["history"]:
        assert np.isfinite(epoch["train_loss"])
        assert epoch["train_delta_loss"] > 0
    assert "<svg" in (model / CURVES_FILE).read_text()


def test_the_statistics_hold_every_score_of_the_best_epoch(model):
    stats = json.loads((model / "training_stats.json").read_text())
    best = stats["history"][stats["best_epoch"] - 1]
    scores = {name: value for name, value in best.items() if name.startswith("val_")}
    assert {name: stats[f"best_{name}"] for name in scores} == scores
    # The last, unless another leads it beyond the luck of a few sets.
    assert stats["best_epoch"] == 2
    assert stats["validation_perturbations_seen"] == stats["validation_perturbations"]
    assert stats["best_val_pearson_delta_unseen"] is None


def test_a_whole_line_can_be_held_out(world, tmp_path):
    lines = ["k562", "jurkat", "hepg2"]
    split(
        world / "cells", tmp_path / "splits", train_lines=lines, test_line="rpe1", val_fraction=1.0
    )
    prior = world / "none"
    finetune(
        world / "cells",
        tmp_path / "splits",
        prior,
        tmp_path / "model",
        pretrained=f"random://tiny?vocabulary={world / 'vocab.json'}",
        recipe="smoke",
        overrides=QUICK,
    )
    stats = json.loads((tmp_path / "model" / "training_stats.json").read_text())
    assert stats["validation_perturbations"] == stats["validation_perturbations_seen"] == 7
    assert stats["training_cells"] == 2 * 7 * 12
    assert np.isfinite(stats["best_val_pearson_delta"])
    assert 0 < stats["best_val_discrimination"] <= 1


def test_the_curves_show_seen_and_unseen_apart_and_leave_out_what_there_is_none_of():
    row = {name: 0.5 for _, _, curves in PANELS for name in curves}
    row |= {"epoch": 1, "cells_per_second": 9.0, "train_delta_loss": None}
    rows = [row, row | {"epoch": 2, "val_discrimination_seen": None}]
    page = curves_page("Fine-tune", rows, 2, {"prior": "none", "dataset": "<b>"})
    titles = ("Validation, pearson_delta", "Validation, discrimination")
    for words in (*titles, "seen in another line", "unseen"):
        assert f">{words}<" in page
    assert "Mean change of sets" not in page and "nan-mean" not in page
    assert '<meta name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert "<title>Fine-tune · none · &lt;b&gt;</title>" in page and "<b>" not in page


def test_curves_that_are_the_same_are_all_to_be_seen():
    row = {name: 0.5 for _, _, curves in PANELS for name in curves}
    row |= {"epoch": 1, "cells_per_second": 9.0}
    page = curves_page("Fine-tune", [row, row | {"epoch": 2}], 0, {})
    panel = page[page.index("<h3>Validation, pearson_delta") :]
    panel = panel[: panel.index("</figure>")]
    for colour in ("--model", "--other", "--quiet"):
        assert f"stroke: var({colour})" in panel
    assert panel.count("stroke-dasharray") >= 2  # what lies on top lets the one below through


def test_an_offline_wandb_run_is_kept_in_the_artifact(model):
    stats = json.loads((model / "training_stats.json").read_text())
    run = model / stats["wandb_run"]
    assert list(run.glob("*.wandb"))


def test_the_wandb_run_names_no_machine_path(model, world):
    files = [file for file in (model / "wandb").rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert sys.prefix.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("prior", ["none", "table"])
def test_one_seed_gives_the_same_weights_to_the_last_bit(world, tmp_path, prior):
    one = read_checkpoint(train(world, tmp_path / "one", prior=prior, seed=3)).state
    two = read_checkpoint(train(world, tmp_path / "two", prior=prior, seed=3)).state
    other = read_checkpoint(train(world, tmp_path / "other", prior=prior, seed=4)).state
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_changes_of_training_cells_are_measured_once(world, tmp_path, monkeypatch):
    measured = []

    def noted(data):
        measured.append(data)
        return line_deltas(data)

    for module in (given, training):
        monkeypatch.setattr(module, "line_deltas", noted)
    train(world, tmp_path / "model", epochs=1)
    assert len(measured) == 1


def test_the_reference_recipe_runs_with_its_flaws(world, tmp_path):
    folder = train(world, tmp_path / "model", recipe="reference")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.args["pert_pad_id"] == 2
    assert checkpoint.state["pert_encoder.weight"][0].ne(0).any()
    assert json.loads((folder / "training_stats.json").read_text())["unflagged"] == ["X0", "Y0"]


def test_a_finetuned_model_is_a_pretrained_one_for_the_next(world, tmp_path, model):
    folder = train(world, tmp_path / "again", pretrained=str(model))
    stats = json.loads((folder / "training_stats.json").read_text())
    assert not stats["random_init"]


def test_training_lowers_the_loss_and_finds_the_direction_of_known_effects(world, tmp_path):
    folder = train(
        world, tmp_path / "model", epochs=40, max_genes=0, learning_rate=3e-3, early_stop_after=40
    )
    history = json.loads((folder / "training_stats.json").read_text())["history"]
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    predict(folder, world / "cells", world / "splits", tmp_path / "predictions")
    adata = Predictions.open(tmp_path / "predictions").anndata
    predicted, truth = adata.X.toarray(), adata.layers["truth"].toarray()
    control = truth[adata.obs["is_control"]].mean(0)

    def delta(values, label):
        return values[(adata.obs["perturbation"] == label).to_numpy()].mean(0) - control

    matched = [pearson(delta(predicted, p), delta(truth, p)) for p in ("G0", "G1", "G2", "G3")]
    assert np.mean(matched) > 0.3


def test_a_prior_for_another_vocabulary_is_refused(world, tmp_path):
    shifted = {gene: (i + 1) % len(VOCABULARY) for gene, i in VOCABULARY.items()}
    write_prior(world / "shifted", torch.ones(len(VOCABULARY), 3), shifted)
    with pytest.raises(InputError, match="aligned to another vocabulary"):
        train(world, tmp_path / "model", prior="shifted")
    assert not (tmp_path / "model").exists()


def test_an_unknown_size_lists_the_known_ones(world, tmp_path):
    with pytest.raises(InputError, match="allowed: tiny, small, whole-human"):
        train(world, tmp_path / "model", pretrained="random://huge")


def test_a_diverging_fine_tune_names_the_step_and_leaves_nothing(world, tmp_path):
    with pytest.raises(InputError, match=r"loss is (nan|inf) at epoch 1, step 2 \(pert.*lower"):
        train(world, tmp_path / "model", learning_rate=1e30)
    assert list(tmp_path.iterdir()) == []


def test_splits_of_other_cells_are_refused(world, tmp_path):
    obs, X, genes = screen(seed=9)  # noqa: N806
    cells_artifact(tmp_path / "cells", obs, X, genes)
    with pytest.raises(InputError, match="made from other cells"):
        finetune(
            tmp_path / "cells",
            world / "splits",
            world / "none",
            tmp_path / "model",
            pretrained="random://tiny",
        )


def test_genes_outside_the_vocabulary_are_refused_when_there_are_no_others(world, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"ENSG1": 0, "<pad>": 1}))
    with pytest.raises(InputError, match="vocabulary"):
        train(
            world,
            tmp_path / "model",
            pretrained=f"random://tiny?vocabulary={tmp_path / 'vocab.json'}",
        )


def test_predictions_hold_every_test_cell_and_the_test_lines_reference_controls(world, predictions):
    cells = Cells.open(world / "cells")
    splits = Splits.open(world / "splits", cells)
    adata = anndata.read_h5ad(predictions / "scgpt_replogle_test.h5ad")
    controls = adata.obs["is_control"].to_numpy()
    assert set(adata.obs_names[~controls]) == set(cells.obs.index[splits.rows(TEST)])
    assert set(adata.obs_names[controls]) == set(cells.obs.index[splits.reference("rpe1")])
    assert set(adata.obs["cell_line"]) == {"rpe1"}
    truth = adata.layers["truth"].toarray()
    rows = [cells.obs.index.get_loc(name) for name in adata.obs_names]
    np.testing.assert_array_equal(truth, cells.rows(np.array(rows)).toarray())
    np.testing.assert_array_equal(adata.X[controls].toarray(), truth[controls])
    assert adata.X.min() >= 0
    assert adata.X.max() < 15
    assert adata.uns["control"] == CONTROL
    assert adata.uns["perturbation_column"] in adata.obs


def test_doubles_and_unmeasured_targets_are_counted_not_dropped(predictions):
    summary = opening(predictions, PREDICTIONS).summary
    assert summary["perturbations"] == 7
    assert summary["doubles"] == 1
    assert summary["unmeasured_targets"] == 2
    assert summary["unflagged"] == ["Y0"]


def test_clipping_keeps_the_mean_of_a_fall_in_a_sparse_gene():
    control = np.array([[0.0, 2.0], [0.0, 2.0], [3.0, 2.0], [1.0, 2.0]], np.float32)
    change = np.array([-0.5, 0.5], np.float32)
    kept = clipped_keeping_mean(control + change)
    np.testing.assert_allclose(kept.mean(0), control.mean(0) + change, rtol=1e-6)
    assert (kept >= 0).all()
    assert kept[0, 0] == 0
    assert (clipped_keeping_mean(control - 5) == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_trains_and_predicts_on_a_gpu(world, tmp_path, precision):
    folder = train(world, tmp_path / "model", prior="table", precision=precision)
    predict(folder, world / "cells", world / "splits", tmp_path / "predictions")
    assert np.isfinite(Predictions.open(tmp_path / "predictions").anndata.X.data).all()


@pytest.mark.parametrize("n_controls", [5, 12, 100])
def test_partners_of_a_perturbation_use_the_pool_evenly(n_controls):
    labels = np.array(["A"] * 12 + ["B"] * 3 + ["A"] * 5)
    partners = draw_partners(labels, n_controls, seed=0)
    for label in "AB":
        counts = np.bincount(partners[labels == label], minlength=n_controls)
        assert counts.max() - counts.min() <= 1


def test_predictions_repeat_with_the_seed(world, model, predictions, tmp_path):
    predict(model, world / "cells", world / "splits", tmp_path / "again")
    first = Predictions.open(predictions).anndata
    again = Predictions.open(tmp_path / "again").anndata
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())


@pytest.mark.parametrize(("name", "module"), [("ours", "components."), ("scgpt", "scgpt.")])
def test_the_recipe_says_whose_class_is_trained(name, module):
    made = start_model("random://tiny", load_recipe("smoke", {"implementation": name}))[0]
    classes = [base for base in type(made).__mro__ if base.__name__ == "TransformerGenerator"]
    assert classes[0].__module__.startswith(module)


def test_a_published_model_loads_strictly_into_scgpts_own_class(model):
    from components.shared.model.scgpt_package import transformer_generator

    args = json.loads((model / "args.json").read_text())
    vocabulary = json.loads((model / "vocab.json").read_text())
    theirs = transformer_generator()(
        ntoken=len(vocabulary),
        d_model=args["embsize"],
        nhead=args["nheads"],
        d_hid=args["d_hid"],
        nlayers=args["nlayers"],
        nlayers_cls=args["n_layers_cls"],
        n_cls=1,
        vocab=vocabulary,
        dropout=args["dropout"],
        pert_pad_id=args["pert_pad_id"],
        use_fast_transformer=False,
    )
    state = torch.load(model / "best_model.pt", weights_only=True)
    theirs.load_state_dict(state, strict=True)


def test_the_training_core_needs_only_torch_numpy_and_tqdm():
    code = """
import sys
for name in ("anndata", "h5py", "pandas", "kfp", "yaml", "scipy", "pyarrow", "wandb"):
    sys.modules[name] = None
import components.finetune.training, components.finetune.batches, components.shared.model.model
"""
    subprocess.run([sys.executable, "-c", code], check=True)
