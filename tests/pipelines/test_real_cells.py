"""Real, very sparse counts through ingest and split (Datlinger 2021, Jurkat knockouts)."""

import anndata
import numpy as np
import pytest

from components.ingest.ingest import ingest
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.splits import CONTROL_BOTH, TEST, TRAIN, VAL, Splits
from components.split.split import split


@pytest.fixture(scope="module")
def datlinger(shared_data, tmp_path_factory):
    """Cells and splits with the two stimulation contexts taken for two cell lines."""
    folder = tmp_path_factory.mktemp("datlinger")
    source = shared_data / "datlinger2021_jurkat_raw.h5ad"
    ingest(
        str(source),
        folder / "cells",
        perturbation_column="target_gene",
        cell_line_column="perturbation_2",
        control="control",
    )
    split(
        folder / "cells",
        folder / "splits",
        train_lines=["stimulated"],
        test_line="unstimulated",
        val_fraction=0.1,
    )
    cells = Cells.open(folder / "cells")
    return anndata.read_h5ad(source), cells, Splits.open(folder / "splits", cells)


def test_every_cell_gets_one_role_and_the_counts_are_the_files(datlinger):
    source, _, splits = datlinger
    table = splits.table
    assert len(table) == source.n_obs == 7500
    stimulated = (source.obs["perturbation_2"] == "stimulated").to_numpy()
    control = (source.obs["target_gene"] == "control").to_numpy()
    roles = table["role"].to_numpy(str)
    assert np.isin(roles, [TRAIN, VAL]).sum() == (stimulated & ~control).sum()
    assert (roles == TEST).sum() == (~stimulated & ~control).sum()
    assert (roles == CONTROL_BOTH).sum() == control.sum() == 200
    assert splits.artifact.summary["validation_perturbations"] == 3  # 15 % of twenty


def test_counts_became_log1p_of_counts_per_ten_thousand(datlinger):
    source, cells, _ = datlinger
    rows = np.arange(0, 7500, 500)
    counts = source.X[rows].toarray()
    wanted = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(cells.rows(rows).toarray(), wanted, rtol=1e-5)
