"""The predict stage with a model of random weights: means and cells, and what they are made of."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import issparse
from scipy.stats import rankdata

from components.finetune.recipe import load_recipe
from components.predict.predict import predict
from components.shared import model as scgpt_model
from components.shared.artifact import MODEL, PREDICTIONS, opening, writing
from components.shared.cells import Cells
from components.shared.predictions import CELLS_KIND, MEANS, PERTURBATIONS, Predictions
from components.shared.rank_cells import DENOISED, PREDICTED_CELLS, RANK
from components.shared.splits import Splits
from components.split.split import split
from tests.helpers import cells_artifact, screen
from tests.unit.publish_run import ARGS

VOCABULARY = {f"G{i}": i for i in range(28)} | {"X0": 28, "<pad>": 29}
UNKNOWN = "Y0"
"""A target that is not in the vocabulary, so that the model cannot be told of it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, splits and predictions of both kinds under two recipes."""
    folder = tmp_path_factory.mktemp("world")
    perturbations = ("G0", "G1", "X0", UNKNOWN, "G1+G2")
    cells = screen(perturbations=perturbations, cells_each=25, controls_each=40)
    cells_artifact(folder / "cells", *cells)
    lines = {"train_lines": ["k562", "jurkat", "hepg2"], "test_line": "rpe1"}
    split(folder / "cells", folder / "splits", **lines, val_fraction=0.2)
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
