"""Screens with failed knock-downs, batches and pathways; without them the bytes stay."""

import hashlib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from components.ingest.generator import Screen, Spec, design, write_raw
from components.ingest.ingest import ingest
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError

URI = "sim://screen?cells=4000&genes=200&perturbations=12&lines=2&seed=5"


def counts_of(uri: str) -> np.ndarray:
    screen = Screen.from_uri(uri)
    every = np.ones(screen.spec.cells, bool)
    return np.concatenate([block.toarray() for _, block in screen.blocks(every)])


def test_without_them_a_screen_is_what_it_was() -> None:
    assert Spec.from_uri(f"{URI}&escape=0&batches=0&pathways=0") == Spec.from_uri(URI)
    assert "escape" not in Screen.from_uri(URI).name
    digest = hashlib.sha256(counts_of(URI).astype(np.int32).tobytes()).hexdigest()
    assert digest == "44493c9acf5a41717267816ac1860f168a1fc329c670f8978474f12393f2b91a"


def test_they_are_in_the_full_uri() -> None:
    uri = f"{URI}&escape=20&batches=3&pathways=10&controls_only=k562"
    spec = Spec.from_uri(uri)
    assert (spec.escape, spec.batches, spec.pathways) == (20, 3, 10)
    assert Spec.from_uri(spec.uri) == spec


@pytest.mark.parametrize("asked", ["escape=101", "batches=x", "pathways=-1", "escaped=1"])
def test_what_cannot_be_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match="sim://"):
        Spec.from_uri(f"{URI}&{asked}")


def test_escaped_cells_look_like_controls_and_the_others_stay(tmp_path: Path) -> None:
    before, after = counts_of(URI), counts_of(f"{URI}&escape=30")
    screen = Screen.from_uri(f"{URI}&escape=30")
    screen.write_truth(tmp_path / "truth.npz")
    escaped = np.load(tmp_path / "truth.npz")["escaped"]
    perturbed = (screen.column("gene") != CONTROL).to_numpy()
    assert not escaped[~perturbed].any()
    assert 0.27 < escaped[perturbed].mean() < 0.33
    line = screen.column("cell_line").to_numpy()
    labels = screen.column("gene").to_numpy()
    for target in screen.genes:
        if target in screen.plan.targets:
            column = screen.genes.index(target)
            own = (labels == target) & (line == "k562")
            control = (labels == CONTROL) & (line == "k562")
            usual = after[control, column].mean()
            if usual > 3 and own.any():
                assert after[own & ~escaped, column].mean() < 0.4 * usual
                assert after[own & escaped, column].mean() > 0.6 * usual
    assert before[:, 0].sum() != after[:, 0].sum()


def test_the_knock_down_filter_finds_escaped_cells(tmp_path: Path) -> None:
    uri = f"{URI}&escape=30"
    ingest(uri, tmp_path / "all")
    ingest(uri, tmp_path / "some", least_knock_down=0.5)
    whole, some = (anndata.read_h5ad(tmp_path / x / "cells.h5ad") for x in ("all", "some"))
    escaped = pd.Series(np.load(tmp_path / "all" / "truth.npz")["escaped"], whole.obs_names)
    measured = whole.obs["perturbation"].isin(whole.var_names).to_numpy()
    kept = whole.obs_names.isin(some.obs_names)
    assert not kept[measured & escaped].all()
    assert escaped[measured & kept].mean() < 0.6 * escaped[measured].mean()


def test_batches_differ_within_a_line_and_hold_perturbations_unevenly(tmp_path: Path) -> None:
    uri = f"{URI}&batches=3"
    ingest(uri, tmp_path / "cells", batch_column="batch")
    adata = anndata.read_h5ad(tmp_path / "cells" / "cells.h5ad")
    obs = adata.obs
    assert set(obs["batch"]) == {f"{x}-{i}" for x in ("k562", "jurkat") for i in (1, 2, 3)}
    counted = obs.groupby(["cell_line", "perturbation", "batch"], observed=True).size()
    shares = counted / counted.groupby(["cell_line", "perturbation"], observed=True).transform(
        "sum"
    )
    controls = shares.xs(CONTROL, level="perturbation")
    others = shares.drop(CONTROL, level="perturbation")
    assert controls.max() < 0.45 < others.max()
    shift = np.load(tmp_path / "cells" / "truth.npz")["batch_shift"]
    assert shift.shape == (2, 3, 200)
    control = (obs["perturbation"] == CONTROL).to_numpy()
    one, two = (
        np.asarray(adata.X[control & (obs["batch"] == f"k562-{i}").to_numpy()].mean(0))[0]
        for i in (1, 2)
    )
    expressed = one > 0.7
    found = np.corrcoef((one - two)[expressed], (shift[0, 0] - shift[0, 1])[expressed])[0, 1]
    assert found > 0.6


def test_batches_are_a_column_of_the_file_too(tmp_path: Path) -> None:
    write_raw(f"{URI}&batches=2", tmp_path / "raw.h5ad")
    obs = anndata.read_h5ad(tmp_path / "raw.h5ad").obs
    assert list(obs.columns) == ["gene", "cell_line", "batch"]


def test_pathways_are_dense_and_most_perturbations_weak() -> None:
    plan = design(Spec.from_uri("sim://screen?cells=9000&genes=200&perturbations=100&pathways=10"))
    assert plan.programmes.shape == (4, 11, 200) and (plan.programmes != 0).all()
    strength = np.linalg.norm(plan.loadings[:, :-1], axis=1)
    assert (strength == 0).sum() == 20 and ((plan.module < 0) == (strength == 0)).all()
    pushing = strength[strength > 0]
    assert (plan.loadings[strength > 0] != 0).all()
    assert np.percentile(pushing, 90) > 2.5 * np.median(pushing)
    change = plan.loadings @ plan.programmes[0]
    assert (np.linalg.svd(change)[1] > 1e-6).sum() == 11
