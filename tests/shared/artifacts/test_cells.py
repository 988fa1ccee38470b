import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.reading.tables import read_part
from components.shared.storage.hdf5 import read_frame
from components.shared.telling.errors import InputError
from tests.helpers import cells_artifact, screen


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    obs, X, genes = screen()  # noqa: N806
    folder = cells_artifact(tmp_path_factory.mktemp("cells") / "cells", obs, X, genes)
    return Cells.open(folder), obs, X.astype(np.float32), genes


def test_obs_and_genes_come_back_as_written(small):
    cells, obs, _, genes = small
    assert cells.genes == genes
    assert list(cells.obs.index) == list(obs.index)
    assert list(cells.obs["perturbation"]) == list(obs["perturbation"])


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_blocks_cover_every_row_once_whatever_their_size(small, size):
    cells, _, X, _ = small  # noqa: N806
    blocks = list(cells.blocks(size))
    assert [start for start, _ in blocks] == list(range(0, len(X), size))
    np.testing.assert_array_equal(np.vstack([block.toarray() for _, block in blocks]), X)


def test_of_blocks_that_hold_none_of_the_wanted_rows_none_is_read(small):
    cells, _, X, _ = small  # noqa: N806
    blocks = list(cells.blocks(10, holding=np.array([9, 30, 38, len(X) - 1])))
    assert [start for start, _ in blocks] == [0, 30, (len(X) - 1) // 10 * 10]
    np.testing.assert_array_equal(blocks[1][1].toarray(), X[30:40])
    assert list(cells.blocks(10, holding=np.array([], np.int64))) == []


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, 223), max_size=40))
@example(rows=[3, 3, 5])  # as many as lie between the first and the last
@example(rows=[4, 5, 6, 9, 10, 2, 3, 4])
def test_rows_come_in_the_order_asked_with_repeats(small, rows):
    cells, _, X, _ = small  # noqa: N806
    rows = np.array(rows, dtype=np.int64)
    np.testing.assert_array_equal(cells.rows(rows).toarray(), X[rows])


def test_rows_take_hardly_more_memory_than_their_result(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((3000, 200)) < 0.5, rng.random((3000, 200)), 0)  # noqa: N806
    names = [f"c{i}" for i in range(len(X))]
    obs = pd.DataFrame(
        {"perturbation": CONTROL, "cell_line": "one", "is_control": True}, index=names
    )
    genes = [f"G{i}" for i in range(X.shape[1])]
    cells = Cells.open(cells_artifact(tmp_path / "cells", obs, X, genes))
    monkeypatch.setattr("components.shared.artifacts.cells.BLOCK_ROWS", 100)
    rows = rng.permutation(len(X))
    cells.rows(rows[:5])  # what is read once
    tracemalloc.start()
    found = cells.rows(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found.toarray(), X[rows].astype(np.float32))
    assert peak < 1.3 * (found.data.nbytes + found.indices.nbytes)


def test_group_means_are_numpys_and_nan_where_a_group_is_empty(small):
    cells, obs, X, _ = small  # noqa: N806
    groups = np.where(obs["perturbation"] == CONTROL, -1, np.arange(len(obs)) % 3)
    means = cells.group_means(groups, 4)
    for group in range(3):
        np.testing.assert_allclose(means[group], X[groups == group].mean(0), rtol=1e-5)
    assert np.isnan(means[3]).all()


def test_group_means_want_one_group_a_cell(small):
    with pytest.raises(InputError, match="group numbers"):
        small[0].group_means(np.zeros(3, int), 1)


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        (CONTROL, ()),
        ("KLF1", ("KLF1",)),
        ("KLF1+MAP2K6", ("KLF1", "MAP2K6")),
        ("KLF1+ctrl", ("KLF1",)),
    ],
)
def test_a_label_names_its_genes(label, genes):
    assert genes_of(label) == genes


def test_an_index_that_holds_no_names_is_refused(tmp_path):
    frame = pd.DataFrame({"line": ["a"] * 8}, index=[f"c{i}" for i in range(8)])
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_elem(file, "obs", frame)
        assert read_frame(file, "obs", "t", "mend it", ["line"]).equals(frame)
        del file["obs/_index"]
        file["obs/_index"] = np.arange(8)
        file["obs/_index"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        with pytest.raises(InputError, match=r"t: the index of obs does not hold names; mend it$"):
            read_frame(file, "obs", "t", "mend it", ["line"])


def test_a_column_of_lists_is_no_column_of_names(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("lists", 8, h5py.vlen_dtype(np.int32))
        with pytest.raises(ValueError, match=r"^its entries are lists$"):
            read_part(file["lists"])
