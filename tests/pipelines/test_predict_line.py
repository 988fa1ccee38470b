"""A line with controls alone, and a finished model on other cells, as a newcomer runs them."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from components.ingest.generator import write_raw
from components.shared.artifacts.artifact import PUBLISHED, opening
from components.shared.artifacts.perturbation_names import canonical_name
from components.shared.artifacts.predictions import MEANS, PERTURBATIONS
from components.shared.telling.errors import InputError
from pipelines.predict_line import TABLE, predict_line
from tests.pipelines.runs import path_after, run

SCREEN = "sim://screen?cells=800&genes=60&perturbations=8&lines=4&seed=3"
SMALL = ["recipe=smoke", "overrides={epochs: 1}", "prior=concat(effects, random:8)"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a run on a screen published, and one on a line with controls alone."""
    folder = tmp_path_factory.mktemp("line")
    for name, dataset in (("scored", SCREEN), ("bare", f"{SCREEN}&controls_only=rpe1")):
        target = f"publish_to={folder / name}"
        done = run(folder / "runs", "demo", f"dataset={dataset}", *SMALL, target)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / f"{name}.log").write_text(done.stdout)
    write_raw(SCREEN, folder / "screen.h5ad")
    screen = anndata.read_h5ad(folder / "screen.h5ad")
    screen[screen.obs["cell_line"] == "rpe1"].copy().write_h5ad(folder / "rpe1.h5ad")
    return folder


def predictions_of(published: Path) -> anndata.AnnData:
    return anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")


def test_a_line_with_controls_alone_is_predicted_published_and_not_scored(world: Path) -> None:
    published = world / "bare"
    adata = predictions_of(published)
    assert "truth" not in adata.layers
    scored = set(predictions_of(world / "scored").uns[PERTURBATIONS])
    assert set(adata.uns[PERTURBATIONS]) >= scored
    said = "no perturbed cell of rpe1 was measured"
    assert said in (published / "README.md").read_text()
    assert said in (world / "bare.log").read_text()
    assert not json.loads((published / "eval" / "metrics.json").read_text())["scored"]
    assert not (published / "eval" / "results.csv").exists()
    effects = pd.read_parquet(published / "predictions" / "effects.parquet")
    assert set(effects["perturbation"]) == set(adata.uns[PERTURBATIONS])
    assert {"change_k562", "change_jurkat", "change_hepg2"} <= set(effects.columns)
    assert np.isfinite(effects["predicted_change"]).all()


def test_the_published_folder_gives_the_very_predictions_of_its_run(world: Path) -> None:
    own = predictions_of(world / "scored")
    again = predict_line(world / "scored", world / "rpe1.h5ad", list(own.uns[PERTURBATIONS]))
    assert list(again.uns[PERTURBATIONS]) == list(own.uns[PERTURBATIONS])
    np.testing.assert_array_equal(again.varm[MEANS], own.varm[MEANS])
    there = again.obs_names.get_indexer(own.obs_names)
    np.testing.assert_array_equal(again.X.toarray()[there], own.X.toarray())


def test_a_finished_model_is_applied_to_other_controls_and_genes_by_the_pipeline(
    world: Path, tmp_path: Path
) -> None:
    rpe1 = anndata.read_h5ad(world / "rpe1.h5ad")
    model_genes = set(predictions_of(world / "scored").var_names)
    controls = rpe1[rpe1.obs["gene"] == "non-targeting"].copy()
    kept = controls[:, 5:].copy()
    kept.var_names = ["NEW1", "NEW2", *kept.var_names[2:]]
    del kept.obs["gene"]
    kept.write_h5ad(tmp_path / "controls.h5ad")
    known = sorted(model_genes & set(kept.var_names))
    wanted = [known[0], known[-1], f"{known[3]}+{known[1]}", "NOSUCHGENE"]
    (tmp_path / "genes.txt").write_text("\n".join(wanted))
    done = run(
        world / "runs",
        "predict-line",
        f"model={world / 'scored'}",
        f"dataset={tmp_path / 'controls.h5ad'}",
        f"perturbations={tmp_path / 'genes.txt'}",
        "perturbation_column==non-targeting",
        "cells_per_perturbation=12",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'NOSUCHGENE'" in done.stdout + done.stderr
    published = path_after("published", done.stdout)
    opening(published, PUBLISHED)
    adata = predictions_of(published)
    assert set(adata.uns[PERTURBATIONS]) == set(map(canonical_name, wanted[:3]))
    assert {"NEW1", "NEW2"} <= set(adata.uns["genes_not_predicted"])
    rows = adata.obs["perturbation"].value_counts()
    assert rows[known[0]] == 12 and rows["non-targeting"] == len(kept)
    assert path_after("explorer", done.stdout).is_file()
    # ... and the same by one call from a notebook.
    called = predict_line(
        world / "scored",
        kept,
        wanted,
        perturbation_column="=non-targeting",
        cells_per_perturbation=12,
    )
    np.testing.assert_array_equal(called.varm[MEANS], adata.varm[MEANS])
    np.testing.assert_array_equal(called.X.toarray(), adata.X.toarray())
    table = called.uns[TABLE].set_index("perturbation")
    assert (table["expected_low"] <= table["expected_pearson_delta"]).all()


def test_without_a_list_all_that_the_model_was_trained_on_is_predicted(world: Path) -> None:
    rpe1 = anndata.read_h5ad(world / "rpe1.h5ad")
    controls = rpe1[rpe1.obs["gene"] == "non-targeting"].copy()
    adata = predict_line(world / "scored", controls)
    trained = pd.read_csv(world / "scored" / "predictions" / "perturbations.csv")
    assert len(adata.uns[PERTURBATIONS]) >= len(trained)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("provenance.json", "expected the folder that publish wrote"),
        ("args.json", "args.json: no such file"),
        ("effects.safetensors", "effects.safetensors: no such file"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_in_one_line(
    world: Path, tmp_path: Path, lost: str, says: str
) -> None:
    shutil.copytree(world / "scored", tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    with pytest.raises(InputError, match=says):
        predict_line(tmp_path / "model", world / "rpe1.h5ad")


def test_every_published_file_may_be_read_by_others(world: Path) -> None:
    for path in (world / "bare").rglob("*"):
        assert path.stat().st_mode & 0o444 == 0o444, path
