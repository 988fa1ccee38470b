"""Files of cells in every form that ingest and the look know, damaged: one line, or they are taken.

More are tried with SCGPT_PERTURB_MALFORMED=<number of each>, all with 0.
"""

import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from components.check.look import look
from components.ingest.ingest import ingest
from components.prior.other_screens import write_effects
from components.shared.artifacts.perturbation import CONTROL
from tests.helpers import cells_artifact, screen
from tests.ingest import files
from tests.servers.malformed import (
    Damage,
    Held,
    bytes_damaged,
    damaged,
    h5_damaged,
    json_damaged,
    some,
)

Read = Callable[[str, Path], object]
"""What is called with a file and a folder to write."""


def ingested(source: str, target: Path) -> None:
    ingest(source, target)


def looked_at(source: str, target: Path) -> None:
    parameters = {"dataset": source, "train_lines": ["k562"], "test_line": "k562", "prior": "none"}
    look(parameters | {"pretrained": "random://tiny", "recipe": "smoke"})


def as_csc(folder: Path) -> str:
    adata = files.screen()
    adata.X = sparse.csc_matrix(adata.X)
    return files.written(folder, adata)


def as_dense(folder: Path) -> str:
    adata = files.screen()
    adata.X = adata.X.toarray()
    return files.written(folder, adata)


def with_categories(folder: Path) -> str:
    adata = files.screen()
    for column in adata.obs:
        adata.obs[column] = adata.obs[column].astype("category")
    return files.written(folder, adata)


def with_raw(folder: Path) -> str:
    adata = files.screen()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    adata.var["gene_name"] = adata.var_names
    return files.written(folder, adata)


def of_raw(source: str, target: Path) -> None:
    ingest(source, target, layer="raw")


def of_a_layer(source: str, target: Path) -> None:
    ingest(source, target, layer="counts", gene_column="gene_name")


def of_10x(source: str, target: Path) -> None:
    ingest(source, target, perturbation_column=f"={CONTROL}", cell_line_column="=jurkat")


def as_10x(folder: Path) -> str:
    return files.ten_x(folder)[0]


def as_mudata(folder: Path) -> str:
    with h5py.File(folder / "a.h5mu", "w") as file:
        for name in ("rna", "adt"):
            file[f"mod/{name}/X"] = np.eye(3)
        file["obs/_index"] = [b"a", b"b", b"c"]
    return str(folder / "a.h5mu")


def as_loom(folder: Path) -> str:
    with h5py.File(folder / "a.loom", "w") as file:
        file["matrix"] = np.eye(3)
        file["row_attrs/Gene"] = [b"A", b"B", b"C"]
        file["col_attrs/CellID"] = [b"a", b"b", b"c"]
    return str(folder / "a.loom")


def as_old_10x(folder: Path) -> str:
    with h5py.File(folder / "old.h5", "w") as file:
        for name in ("barcodes", "genes", "gene_names"):
            file[f"GRCh38/{name}"] = [b"a", b"b", b"c"]
        file["GRCh38/data"] = np.ones(3)
    return str(folder / "old.h5")


FORMS: list[tuple[Callable[[Path], str], Read, tuple[str, ...]]] = [
    (as_csc, ingested, ("X",)),
    (as_dense, ingested, ("X",)),
    (with_categories, ingested, ("obs",)),
    (with_categories, looked_at, ("obs", "var")),
    (with_raw, of_raw, ("raw",)),
    (with_raw, of_a_layer, ("layers", "var")),
    (as_10x, of_10x, ("matrix",)),
    (as_mudata, ingested, ("mod", "obs")),
    (as_loom, ingested, ("matrix", "row_attrs", "col_attrs")),
    (as_old_10x, ingested, ("GRCh38",)),
]


def held_to(read: Read, source: str, folder: Path, ways: list[Damage], good: bytes) -> Held:
    held, path, target = Held(), Path(source), folder / "out"
    for what, do in ways:
        restored(path, good)
        do(path)
        held.read(what, lambda: read(source, target), path.name)
        assert not list(folder.glob(".out*")), what
        shutil.rmtree(target, ignore_errors=True)
    return held


def restored(path: Path, good: bytes) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(good)


@pytest.mark.parametrize(
    ("make", "read", "tops"),
    FORMS,
    ids=[f"{make.__name__}-{read.__name__}" for make, read, _ in FORMS],
)
def test_a_file_of_cells(
    tmp_path: Path, make: Callable[[Path], str], read: Read, tops: tuple[str, ...]
) -> None:
    source = make(tmp_path)
    good = Path(source).read_bytes()
    ways: list[Damage] = [*bytes_damaged(good), *h5_damaged(good, tops)]
    held = held_to(
        read, source, tmp_path, some(iter(ways), f"{make.__name__} {read.__name__}"), good
    )
    held.ends(refused=0)


def nested(good: Path) -> Iterator[Damage]:
    """Yield files whose parts are of no kind that a table can hold."""

    def frame(path: Path, column: Any) -> None:
        with h5py.File(path, "r+") as file:
            del file["obs/gene"]
            column(file["obs"])

    def table_of_tables(obs: h5py.Group) -> None:
        obs.copy(obs.file["var"], "gene")

    def itself(obs: h5py.Group) -> None:
        obs["gene"] = obs.file["obs"]

    def nested_categories(obs: h5py.Group) -> None:
        gene = obs.create_group("gene")
        gene.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
        gene.attrs["ordered"] = False
        gene["codes"] = np.zeros(60, np.int8)
        inner = gene.create_group("categories")
        inner.attrs.update(gene.attrs)
        inner["codes"], inner["categories"] = np.zeros(1, np.int8), [b"G1A"]

    def of_records(obs: h5py.Group) -> None:
        obs["gene"] = np.zeros(60, [("a", "i4"), ("b", "S3")])

    def of_references(obs: h5py.Group) -> None:
        obs["gene"] = np.array([obs.ref] * 60, dtype=h5py.ref_dtype)

    def of_arrays(obs: h5py.Group) -> None:
        obs["gene"] = np.zeros((60, 3))

    def of_an_enum(obs: h5py.Group) -> None:
        obs.create_dataset("gene", data=np.zeros(60, np.int8), dtype=h5py.enum_dtype({"x": 0}))

    def of_lists(obs: h5py.Group) -> None:
        lists = obs.create_dataset("gene", (60,), dtype=h5py.vlen_dtype(np.int32))
        lists[0] = [1, 2]

    def without_space(obs: h5py.Group) -> None:
        obs["gene"] = h5py.Empty("f4")

    for column in (
        table_of_tables,
        itself,
        nested_categories,
        of_records,
        of_references,
        of_arrays,
        of_an_enum,
        of_lists,
        without_space,
    ):
        yield column.__name__, lambda path, column=column: frame(path, column)


@pytest.mark.parametrize("read", [ingested, looked_at])
def test_columns_of_no_kind_that_a_table_holds(tmp_path: Path, read: Read) -> None:
    source = files.written(tmp_path, files.screen())
    good = Path(source).read_bytes()
    held_to(read, source, tmp_path, list(nested(Path(source))), good).ends(refused=8)


def test_a_zarr_store(tmp_path: Path) -> None:
    adata = files.screen()
    adata.obs["cell_line"] = adata.obs["cell_line"].astype("category")
    adata.write_zarr(tmp_path / "good.zarr")
    inside = sorted(p for p in (tmp_path / "good.zarr").rglob("*") if p.is_file())
    ways = [
        (f"{path.relative_to(tmp_path / 'good.zarr')} {what}", path, do)
        for path in inside
        for what, do in _damages_in_a_store(path)
    ]
    held, store = Held(), tmp_path / "in.zarr"
    for what, path, do in some(iter(ways), "zarr"):  # type: ignore[arg-type]
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(tmp_path / "good.zarr", store)
        do(store / path.relative_to(tmp_path / "good.zarr"))
        held.read(what, lambda: ingest(str(store), tmp_path / "out"), "in.zarr")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    held.ends(refused=0)


def _damages_in_a_store(path: Path) -> Iterator[Damage]:
    yield from bytes_damaged(path.read_bytes())
    if path.name == "zarr.json" or path.name.startswith(".z"):
        yield from json_damaged(path.read_bytes(), 1)


def test_what_is_compressed_as_a_whole_is_refused_however_it_is_damaged(tmp_path: Path) -> None:
    source = files.written(tmp_path, files.screen())
    packed = gzip.compress(Path(source).read_bytes(), mtime=0)
    for read in (ingested, looked_at):
        path = str(tmp_path / "in.h5ad.gz")
        held_to(read, path, tmp_path, list(bytes_damaged(packed)), packed).ends(refused=15)


def test_two_files_of_a_list_one_of_them_damaged(tmp_path: Path) -> None:
    source = files.written(tmp_path, files.screen(), "a.h5ad")
    second = files.screen(seed=1)
    second.obs["cell_line"] = "rpe1"
    other = files.written(tmp_path, second, "b.h5ad")
    good = Path(other).read_bytes()
    ways: list[Damage] = [*bytes_damaged(good), *h5_damaged(good)]

    def both(_: str, target: Path) -> None:
        ingest([source, other], target)

    held_to(both, other, tmp_path, some(iter(ways), "two"), good).ends(refused=0)


@pytest.mark.parametrize("form", [".h5ad", ".parquet"])
def test_another_screens_effects(tmp_path: Path, form: str) -> None:
    """What `effects:<file>` names: cells as ingest writes them, or a table of deltas."""
    cells = cells_artifact(tmp_path / "cells", *screen())
    if form == ".h5ad":
        path = tmp_path / "other.h5ad"
        shutil.copyfile(cells / "cells.h5ad", path)
    else:
        path = tmp_path / "other.parquet"
        table = {"perturbation": ["A", "B"], "cell_line": ["k", "k"], "cells": [3, 4]}
        pd.DataFrame(table | {"A": [0.5, 0.1], "B": [-1.0, 0.0]}).to_parquet(path)
    (tmp_path / "written").mkdir()
    good = path.read_bytes()
    ways = some(damaged(path, tmp_path / "scratch"), f"effects {form}")
    held = Held()
    for what, do in ways:
        restored(path, good)
        do(path)
        held.read(what, lambda: write_effects(str(path), tmp_path / "written"), path.name)
    held.ends(refused=0)
