"""Files of strangers: nothing outside them is read, and they take no more room than they hold."""

import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest.ingest import ingest
from components.prior.other_screens import read_deltas
from components.prior.vector_tables import READERS
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.predictions import PREDICTIONS_FILE, Predictions
from components.shared.parameters.aliases import read_aliases
from components.shared.storage.hdf5 import ends_fit, opened_hdf5
from components.shared.storage.parquet import opened_parquet
from components.shared.telling.errors import InputError
from tests.ingest.files import refused, screen, written

Change = Callable[[h5py.File, Path], None]
ROWS = 2**40


def _outside(folder: Path) -> Path:
    return Path(written(folder, screen(seed=1), "outside.h5ad"))


def external_link(file: h5py.File, folder: Path) -> None:
    _outside(folder)
    del file["X"]
    file["X"] = h5py.ExternalLink(str(folder / "outside.h5ad"), "/X")


def external_link_below(file: h5py.File, folder: Path) -> None:
    _outside(folder)
    del file["obs/gene"]
    file["obs/gene"] = h5py.ExternalLink("outside.h5ad", "/obs/gene")


def soft_link_out(file: h5py.File, folder: Path) -> None:
    _outside(folder)
    file["uns/elsewhere"] = h5py.ExternalLink("outside.h5ad", "/")
    del file["X"]
    file["X"] = h5py.SoftLink("/uns/elsewhere/X")


def soft_link_to_nothing(file: h5py.File, folder: Path) -> None:
    del file["X"]
    file["X"] = h5py.SoftLink("/nowhere")


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "outside.h5", "w") as other:
        other["X"] = np.ones((60, 40), np.float32)
    layout = h5py.VirtualLayout((60, 40), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "outside.h5"), "X", (60, 40))
    del file["X"]
    file.create_virtual_dataset("X", layout)


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "raw.bin").write_bytes(bytes(60 * 40 * 4))
    del file["X"]
    place = [(str(folder / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("X", (60, 40), np.float32, external=place)


def unwritten(file: h5py.File, folder: Path) -> None:
    del file["X/data"]
    file.create_dataset("X/data", (ROWS,), np.float32, chunks=(1024,))


def unwritten_index(file: h5py.File, folder: Path) -> None:
    index = file["obs"].attrs["_index"]
    del file[f"obs/{index}"]
    file.create_dataset(f"obs/{index}", (ROWS,), "S20", chunks=(1024,))


def unwritten_column(file: h5py.File, folder: Path) -> None:
    del file["obs/gene"]
    file.create_dataset("obs/gene", (ROWS,), np.int64, chunks=(1024,))


def one_chunk(file: h5py.File, folder: Path) -> None:
    del file["X/data"]
    file.create_dataset("X/data", (10,), np.float32, chunks=(2**29,), maxshape=(None,))


def deep(file: h5py.File, folder: Path) -> None:
    file.create_group("layers" + "/a" * 200)


def many(file: h5py.File, folder: Path) -> None:
    group = file.create_group("layers/many")
    for number in range(10):
        inner = group.create_group(str(number))
        for other in range(11_000):
            inner[str(other)] = file["X"]


REFUSED = {
    external_link: "X is a link out of the file, to",
    external_link_below: "obs/gene is a link out of the file, to",
    soft_link_out: "X is a link out of the file, to",
    soft_link_to_nothing: "X is a link out of the file, to",
    virtual: "X is a virtual dataset",
    external_storage: "X keeps its values in another file",
    unwritten: "X/data has the shape (1099511627776,)",
    unwritten_index: "has the shape (1099511627776,)",
    unwritten_column: "obs/gene has the shape (1099511627776,)",
    one_chunk: "X/data is stored in chunks of 2.0 GiB",
    deep: "more than 32 deep",
    many: "more than 20,000 parts",
}


def hostile(folder: Path, change: Change) -> Path:
    path = Path(written(folder, screen()))
    with h5py.File(path, "r+") as file:
        change(file, folder)
    return path


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_a_file_that_reaches_out_or_swells_is_refused_at_once(
    tmp_path: Path, change: Change
) -> None:
    path = hostile(tmp_path, change)
    start = time.monotonic()
    said = refused(tmp_path, str(path))
    assert time.monotonic() - start < 5
    assert said.startswith(f"{path}: ") and REFUSED[change] in said and "\n" not in said


@pytest.mark.parametrize("change", [external_link, virtual, unwritten])
def test_so_it_is_as_an_artifact(tmp_path: Path, change: Change) -> None:
    path = hostile(tmp_path, change)
    artifact = type("A", (), {"path": tmp_path})()
    path.rename(tmp_path / PREDICTIONS_FILE)
    for read in (lambda p: p.on_disk, lambda p: p.anndata):
        with pytest.raises(InputError, match=r"X.* (is a|has the shape)"):
            read(Predictions(artifact))
    (tmp_path / PREDICTIONS_FILE).rename(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"X.* (is a|has the shape)"):
        next(Cells(artifact).blocks())


def test_links_within_the_file_and_groups_in_a_circle_are_read(tmp_path: Path) -> None:
    def change(file: h5py.File, folder: Path) -> None:
        file["obs/again"] = h5py.SoftLink("/obs/gene")
        file["layers/x"] = file["X"]
        file["layers/circle"] = file["layers"]

    path = hostile(tmp_path, change)
    ingest(str(path), tmp_path / "out")
    with opened_hdf5(tmp_path / "out/cells.h5ad", "cells") as file:
        assert file["X/data"].size


def test_a_store_with_a_link_or_with_an_array_that_it_does_not_hold_is_refused(
    tmp_path: Path,
) -> None:
    zarr = pytest.importorskip("zarr")
    store = tmp_path / "in.zarr"
    screen().write_zarr(store)
    (store / "elsewhere").symlink_to("/etc")
    assert "elsewhere is a link" in refused(tmp_path, str(store))
    (store / "elsewhere").unlink()
    group = zarr.open_group(str(store), mode="r+")
    group.create_array("layers/big", shape=(2**40,), chunks=(1024,), dtype="f4")
    zarr.consolidate_metadata(store)
    assert "layers/big has the shape (1099511627776,)" in refused(tmp_path, str(store))


def many_rows(path: Path, columns: tuple[str, ...], rows: int = 40_000_000) -> Path:
    """Write a parquet table of one value, over and over."""
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000_000, np.int8)), pa.array(["MYC"]))
    table = pa.table(dict.fromkeys(columns, one))
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(rows // 10_000_000):
            writer.write_table(table)
    return path


def test_a_parquet_of_more_rows_than_any_table_has_is_refused_at_once(tmp_path: Path) -> None:
    path = many_rows(tmp_path / "t.parquet", ("perturbation", "symbol", "alias"))
    assert path.stat().st_size < 2**23
    readers: list[Callable[[Path, str], object]] = [read_aliases, read_deltas, opened_parquet]
    readers.append(READERS[".parquet"])
    for read in readers:
        start = time.monotonic()
        with pytest.raises(InputError, match=r"^the table: says it has 40,000,000 rows"):
            read(path, "the table")
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("ends", "fit"),
    [
        ([0, 2, 2, 8], True),
        ([0, 2, 3, 9], False),
        ([0, 3, 2, 8], False),
        ([1, 2, 3, 8], False),
        ([0, 2, 8], False),
        ([0, 2, 2**63 - 1, 2**63], False),
        ([0, 2**63 - 1, 2**63, 8], False),
        ([0, 2, 2**64 - 1, 8], False),
    ],
)
def test_ends_of_rows_are_compared_as_they_are_stored(tmp_path, ends, fit):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"], file["indices"] = np.zeros(8), np.zeros(8, int)
        file["indptr"] = np.array(ends, np.uint64)
        assert ends_fit(file, 3) == fit
