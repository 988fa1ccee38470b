"""How files come: symbols in a column, counts in a layer, one file a line, other forms."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from components.ingest import source_h5ad
from components.ingest.ingest import ingest
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.ingest.files import (
    GENES,
    per,
    read,
    refused,
    screen,
    ten_x,
    wanted,
    written,
)

# ---- symbols in a column ----


def test_symbols_come_from_a_column_of_var(tmp_path: Path) -> None:
    adata = screen()
    adata.var["gene_name"] = GENES
    adata.var_names = [f"ENSG{i:011d}.3" for i in range(40)]
    path = written(tmp_path, adata)
    assert "var column 'gene_name' may hold them: set the ingest option gene_column" in refused(
        tmp_path, path
    )
    ingest(path, tmp_path / "out", gene_column="gene_name")
    found, _ = read(tmp_path / "out")
    assert list(found.var_names) == GENES
    np.testing.assert_allclose(found.X.toarray(), wanted(adata), rtol=1e-5)


@pytest.mark.parametrize("kind", [object, "category"])
def test_a_symbol_that_is_missing_or_there_twice_is_mended_and_counted(
    tmp_path: Path, kind: Any
) -> None:
    adata = screen()
    names: list[Any] = [*GENES[:-2], GENES[5], np.nan]
    adata.var["gene_name"] = pd.Series(names, dtype=kind).to_numpy()
    adata.var["gene_name"] = adata.var["gene_name"].astype(kind)
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    ingest(written(tmp_path, adata), tmp_path / "out", gene_column="gene_name")
    found, summary = read(tmp_path / "out")
    assert list(found.var_names[-2:]) == [f"{GENES[5]}-1", "ENSG00000000039"]
    assert (summary["genes_numbered"], summary["genes_without_symbol"]) == (1, 1)


def test_texts_that_stand_for_no_symbol_are_none(tmp_path: Path) -> None:
    adata = screen()
    adata.var["gene_name"] = ["NA", "NA", "<NA>", "n/a", "None", " ", *GENES[6:]]
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    ingest(written(tmp_path, adata), tmp_path / "out", gene_column="gene_name")
    found, summary = read(tmp_path / "out")
    assert list(found.var_names) == [*adata.var_names[:6], *GENES[6:]]
    assert (summary["genes_numbered"], summary["genes_without_symbol"]) == (0, 6)


def test_an_absent_gene_column_is_told_with_the_nearest(tmp_path: Path) -> None:
    adata = screen()
    adata.var["gene_name"] = GENES
    message = refused(tmp_path, written(tmp_path, adata), gene_column="gene_names")
    assert "nearest: 'gene_name'" in message


def test_ids_without_a_known_column_are_told_with_the_columns(tmp_path: Path) -> None:
    adata = screen()
    adata.var["label"] = GENES
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    assert "(columns: 'label')" in refused(tmp_path, written(tmp_path, adata))


# ---- counts in a layer or in .raw ----


def scaled(adata: anndata.AnnData) -> np.ndarray:
    x = wanted(adata)
    return ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype(np.float32)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_matrix.toarray])
def test_a_layer_is_read_where_it_is_asked_for(tmp_path: Path, form: Any) -> None:
    adata = screen()
    raw = adata.copy()
    adata.layers["counts"] = form(adata.X)
    adata.X = scaled(raw)
    path = written(tmp_path, adata)
    message = refused(tmp_path, path)
    assert "negative" in message
    assert "layers 'counts': set the ingest option layer, as in layer: counts" in message
    ingest(path, tmp_path / "out", layer="counts")
    np.testing.assert_allclose(read(tmp_path / "out")[0].X.toarray(), wanted(raw), rtol=1e-5)


def test_raw_is_read_with_its_own_genes(tmp_path: Path) -> None:
    adata = screen()
    whole = adata.copy()
    adata.raw = adata.copy()
    adata.X = scaled(adata)
    adata = adata[:, :10].copy()
    path = written(tmp_path, adata)
    assert ".raw: set the ingest option layer, as in layer: raw" in refused(tmp_path, path)
    ingest(path, tmp_path / "out", layer="raw")
    found, _ = read(tmp_path / "out")
    assert list(found.var_names) == GENES
    np.testing.assert_allclose(found.X.toarray(), wanted(whole), rtol=1e-5)


@pytest.mark.parametrize("layer", ["count", "raw"])
def test_an_absent_layer_is_told_with_those_there_are(tmp_path: Path, layer: str) -> None:
    adata = screen()
    adata.layers["counts"] = adata.X
    message = refused(tmp_path, written(tmp_path, adata), layer=layer)
    assert f"no layer '{layer}'" in message
    assert "layers 'counts'" in message


# ---- several files ----


def two(folder: Path) -> tuple[anndata.AnnData, anndata.AnnData]:
    """One file a line as Replogle and others ship them: Ensembl index, no column of the line."""
    files = []
    for number, genes in enumerate((GENES, [*GENES[5:], "LAST1"])):
        adata = screen(48, genes, seed=number)
        del adata.obs["cell_line"]
        adata.obs["gem_group"] = [i % 3 + 1 for i in range(48)]
        adata.var["gene_name"] = genes
        adata.var_names = [f"ENSG{int(g.strip('GALST')):011d}" for g in genes]
        adata.write_h5ad(folder / f"{('k562', 'rpe1')[number]}.h5ad")
        files.append(adata)
    return files[0], files[1]


def listed(folder: Path) -> list[dict[str, str]]:
    return [
        {"file": str(folder / f"{line}.h5ad"), "cell_line_column": f"={line}"}
        for line in ("k562", "rpe1")
    ]


OPTIONS = {"gene_column": "gene_name", "batch_column": "gem_group"}


@pytest.mark.parametrize("as_json", [False, True])
def test_one_file_a_line_goes_through_ingest_and_split(tmp_path: Path, as_json: bool) -> None:
    one, other = two(tmp_path)
    dataset = listed(tmp_path)
    ingest(json.dumps(dataset) if as_json else dataset, tmp_path / "out", **OPTIONS)
    found, summary = read(tmp_path / "out")
    assert list(found.var_names) == GENES[5:]
    assert summary["lines"] == {"k562": 48, "rpe1": 48}
    assert (summary["genes_in_all_files"], summary["genes_in_any_file"]) == (35, 41)
    values = found.X.toarray()
    np.testing.assert_allclose(values[:48], wanted(one)[:, 5:], rtol=1e-5)
    np.testing.assert_allclose(values[48:], wanted(other)[:, :-1], rtol=1e-5)
    assert found.obs_names.is_unique
    assert set(found.obs["batch"]) == {f"{s}:{n}" for s in ("k562", "rpe1") for n in (1, 2, 3)}
    assert [Path(s["source"]).name for s in summary["sources"]] == ["k562.h5ad", "rpe1.h5ad"]
    split(
        tmp_path / "out",
        tmp_path / "splits",
        train_lines=["k562"],
        test_line="rpe1",
        val_fraction=0.34,
    )
    roles = pd.read_parquet(tmp_path / "splits" / "splits.parquet")
    assert set(roles.loc[roles["cell_line"] == "rpe1", "role"]) >= {"test"}


def test_the_union_has_zeros_where_a_file_lacks_a_gene(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    ingest(listed(tmp_path), tmp_path / "out", genes="union", **OPTIONS)
    found, summary = read(tmp_path / "out")
    assert list(found.var_names) == [*GENES, "LAST1"]
    values = found.X.toarray()
    np.testing.assert_allclose(values[:48, :-1], wanted(one), rtol=1e-5)
    np.testing.assert_allclose(values[48:, 5:], wanted(other), rtol=1e-5)
    assert not values[:48, -1].any()
    assert not values[48:, :5].any()
    assert summary["genes_kept"] == "union"


def test_each_file_has_columns_layer_and_scale_of_its_own(tmp_path: Path) -> None:
    one, other = screen(48, seed=1), screen(48, seed=2)
    raw = other.copy()
    other.obs = other.obs.rename(columns={"gene": "target"}).replace({"target": {CONTROL: "nt"}})
    other.obs["cell_line"] = "rpe1"
    other.obs_names = [f"other{i}" for i in range(48)]
    other.layers["cpm"] = sparse.csr_matrix(np.log1p(per(1e6, other.X.toarray())))
    dataset = [
        written(tmp_path, one, "one.h5ad"),
        {
            "file": written(tmp_path, other, "other.h5ad"),
            "perturbation_column": "target",
            "control_label": "nt",
            "layer": "cpm",
        },
    ]
    ingest(dataset, tmp_path / "out")
    found, summary = read(tmp_path / "out")
    np.testing.assert_allclose(found.X.toarray()[48:], wanted(raw), rtol=1e-3, atol=1e-4)
    assert set(found.obs["perturbation"]) == {CONTROL, "G1A", "G2A", "G3A"}
    assert "other.h5ad: log1p of counts per 1,000,000" in summary["scale_found"]
    assert list(found.obs_names[-1:]) == ["other47"]


def spelt_otherwise(folder: Path) -> list[Any]:
    """Two files of one line and another that spell lines, controls and doubles each its way."""
    one, other = screen(48, seed=1), screen(48, seed=2)
    one.obs["gene"] = [(CONTROL, "G1A+G2A", "G2A", "G3A")[i % 4] for i in range(48)]
    one.obs["cell_line"] = ["K562"] * 24 + ["rpe1"] * 24
    other.obs["gene"] = [
        ("NT-1", "NT-2", "G2A_G1A", "G3A ", None, "junk")[i % 6] for i in range(48)
    ]
    other.obs["cell_line"] = "k-562"
    other.obs_names = [f"other{i}" for i in range(48)]
    own = {"control_label": ["NT-1", "NT-2"], "label_separator": "_", "left_out": ["junk"]}
    return [
        written(folder, one, "one.h5ad"),
        {"file": written(folder, other, "other.h5ad"), **own},
    ]


def test_one_label_that_is_left_out_needs_no_list(tmp_path: Path) -> None:
    [_, other] = spelt_otherwise(tmp_path)
    alike = {"control": other["control_label"], "label_separator": "_"}
    ingest(other["file"], tmp_path / "out", left_out="junk", **alike)
    found, _ = read(tmp_path / "out")
    assert "JUNK" not in {label.upper() for label in found.obs["perturbation"]}


@pytest.mark.parametrize("as_json", [False, True])
def test_names_are_one_over_all_files(tmp_path: Path, as_json: bool, capsys: Any) -> None:
    dataset = spelt_otherwise(tmp_path)
    ingest(json.dumps(dataset) if as_json else dataset, tmp_path / "out")
    found, summary = read(tmp_path / "out")
    assert set(found.obs["perturbation"]) == {CONTROL, "G1A+G2A", "G2A", "G3A"}
    assert summary["lines"] == {"k-562": 56, "rpe1": 24}
    spellings = json.loads(found.uns["other_spellings"])
    assert spellings["cell_line"] == {"k-562": ["K562", "k-562"]}
    assert spellings["perturbation"] == {
        "G1A+G2A": ["G1A+G2A", "G2A_G1A"],
        "G3A": ["G3A", "G3A "],
        CONTROL: ["NT-1", "NT-2", CONTROL],
    }
    assert summary["other_spellings"] == {"perturbation": 3, "cell_line": 1}
    assert summary["control_labels"] == ["NT-1", "NT-2", CONTROL]
    assert summary["cells_without_label_by_text"] == {"junk": 8}
    assert summary["cells_without_label"] == 16
    assert "left out, as no perturbation or not wanted: 8 'junk'" in capsys.readouterr().err
    given = {"train_lines": ["K562"], "test_line": "rpe1", "val_fraction": 0.34}
    split(tmp_path / "out", tmp_path / "splits", **given)


def test_files_of_one_name_stay_apart_and_cells_without_a_batch_have_none(tmp_path: Path) -> None:
    files = []
    for name in ("a/cells.h5ad", "b/cells.h5ad", "cells-1.h5ad"):
        adata = screen()
        adata.obs["batch"] = pd.Series(["x", np.nan, "x"] * 20).to_numpy()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        files.append(written(tmp_path, adata, name))
    ingest(files, tmp_path / "out", batch_column="batch")
    found, _ = read(tmp_path / "out")
    assert found.obs_names.is_unique
    assert found.obs["batch"].value_counts().to_dict() == {
        "nan": 60,
        **dict.fromkeys(("cells-2:x", "cells-3:x", "cells-1:x"), 40),
    }


def test_a_name_with_that_of_a_file_at_its_end_is_still_one_cells_alone(tmp_path: Path) -> None:
    files = []
    for name, cell in (("a-b.h5ad", "x"), ("b.h5ad", "x-a")):
        adata = screen()
        adata.obs_names = [cell, *(f"same{i}" for i in range(59))]
        files.append(written(tmp_path, adata, name))
    ingest(files, tmp_path / "out")
    found, _ = read(tmp_path / "out")
    assert found.obs_names.is_unique and {"x-a-b", "same0-a-b"} <= set(found.obs_names)


def test_a_perturbation_is_spelt_as_the_file_that_measures_it(tmp_path: Path) -> None:
    other = screen(genes=[*GENES[2:], "more"])
    other.obs["gene"] = [(CONTROL, "g1a", "orfX", "G1A+G3A")[i % 4] for i in range(60)]
    files = [written(tmp_path, screen()), written(tmp_path, other, "other.h5ad")]
    ingest(files, tmp_path / "out")
    found, _ = read(tmp_path / "out")
    names = {CONTROL, "G1A", "G2A", "G3A", "orfX", "G1A+G3A"}
    assert set(found.obs["perturbation"]) == names
    spellings = json.loads(found.uns["other_spellings"])["perturbation"]
    assert spellings == {"G1A": ["G1A", "g1a"]}


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        ("[]", "the list is empty"),
        ("[1]", "names no file"),
        ('["a.h5ad"', "not JSON"),
        ('[{"file": "a.h5ad", "layers": "x"}]', "nearest: 'layer'"),
        ('[{"file": "a.h5ad", "layer": 1}]', "expected text"),
        ('[{"file": "a.h5ad", "left_out": "NT-1"}]', "expected a list of labels"),
        ('[{"file": "a.h5ad", "missing_is_control": "yes"}]', "expected true or false"),
        ('[{"file": "a.h5ad", "genes": "union"}]', "'genes' is not an option of a file"),
        ('[{"file": "a.h5ad", "scale": "cp"}]', "scale 'cp' is not allowed"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, dataset: str, why: str) -> None:
    assert why in refused(tmp_path, dataset)


def test_files_without_a_common_gene_are_refused_with_what_they_have(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, screen(genes=[f"{letter}{i}A" for i in range(40)]), f"{letter}.h5ad")
        for letter in "GH"
    ]
    message = refused(tmp_path, paths)
    assert "no gene is in all 2 files" in message
    assert "'H0A'" in message


# ---- other forms ----


def zipped_as(code: int, part: str, path: Path) -> None:
    """Store a dataset again as if the filter ``code`` compressed it."""
    with h5py.File(path, "r+") as file:
        data = file[part][:]
        attributes = dict(file[part].attrs)
        del file[part]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(data.shape)
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        group, _, name = part.rpartition("/")
        made = h5py.h5d.create(
            file[group].id,
            name.encode(),
            h5py.h5t.py_create(data.dtype),
            h5py.h5s.create_simple(data.shape),
            plist,
        )
        made.write_direct_chunk((0,) * data.ndim, zlib.compress(data.tobytes()))
        file[part].attrs.update(attributes)


@pytest.mark.parametrize("part", ["X/data", "X/indices", "obs/cell_line/codes"])
@pytest.mark.parametrize(("code", "said"), [(32015, "zstd"), (32001, "blosc")])
def test_a_filter_that_is_not_here_is_named(
    tmp_path: Path, part: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.shared.reading.file_kinds.has_plugin", lambda code: False)
    path = written(tmp_path, screen())
    zipped_as(code, part, Path(path))
    message = refused(tmp_path, path)
    assert f"{part} is compressed with {said} (HDF5 filter {code})" in message
    assert "the file is whole" in message
    assert "compression='gzip'" in message


def test_a_zarr_store_is_read(tmp_path: Path) -> None:
    adata = screen()
    adata.obs["cell_line"] = adata.obs["cell_line"].astype("category")
    adata.write_zarr(tmp_path / "in.zarr")
    ingest(str(tmp_path / "in.zarr"), tmp_path / "out")
    found, summary = read(tmp_path / "out")
    np.testing.assert_allclose(found.X.toarray(), wanted(adata), rtol=1e-5)
    assert list(found.obs["perturbation"]) == list(adata.obs["gene"])
    assert len(summary["source_sha256"]) == 64


@pytest.mark.parametrize("form", [sparse.csc_matrix, sparse.csr_matrix.toarray])
def test_a_zarr_store_of_another_form_is_read(tmp_path: Path, form: Any) -> None:
    adata = screen()
    raw = adata.copy()
    adata.X = form(adata.X)
    adata.write_zarr(tmp_path / "in.zarr")
    ingest(str(tmp_path / "in.zarr"), tmp_path / "out")
    np.testing.assert_allclose(read(tmp_path / "out")[0].X.toarray(), wanted(raw), rtol=1e-5)


def test_a_10x_matrix_of_controls_is_read_without_its_guides(tmp_path: Path) -> None:
    path, raw = ten_x(tmp_path)
    ingest(path, tmp_path / "out", perturbation_column=f"={CONTROL}", cell_line_column="=jurkat")
    found, _ = read(tmp_path / "out")
    assert list(found.var_names) == [*GENES[:-1], f"{GENES[0]}-1"]
    assert found.obs_names[3] == "BC3-1"
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(1e4, raw)), rtol=1e-5)


def test_a_10x_matrix_without_labels_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "obs has no column 'gene'" in refused(tmp_path, ten_x(tmp_path)[0])


def as_mudata(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("mod/rna")
        file.create_group("mod/adt")


def as_loom(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"] = [[1.0]]
        file.create_group("row_attrs")


def as_old_10x(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["GRCh38/barcodes"] = [b"A"]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 30600000000\n"


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        (
            "a.h5mu",
            as_mudata,
            "MuData file with modalities 'adt', 'rna'; .*mod\\['rna'\\].write_h5ad",
        ),
        ("a.loom", as_loom, "is a loom file; .*read_loom"),
        ("a.h5", as_old_10x, "Cell Ranger 2 .*read_10x_h5"),
        ("a.h5ad", POINTER, "Git LFS pointer for 30,600 MB, .*git lfs pull --include 'a.h5ad'"),
        ("a.h5ad.gz", gzip.compress(b"x", mtime=0), "gunzip -k a.h5ad.gz"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), "tar -xzf a.tar.gz"),
        ("a.zarr.zip", b"PK\x03\x04", "unzip a.zarr.zip"),
        ("a.h5ad", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.rds", b"RDX3", "zellkonverter"),
        ("a.csv", b"cell,gene", "a table as text"),
    ],
)
def test_a_file_of_another_form_is_called_by_its_name(
    tmp_path: Path, name: str, make: Any, said: str
) -> None:
    if isinstance(make, bytes):
        (tmp_path / name).write_bytes(make)
    else:
        make(tmp_path / name)
    with pytest.raises(InputError, match=said):
        ingest(str(tmp_path / name), tmp_path / "out")


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path, str(tmp_path / "folder"))


def test_a_folder_is_told_by_what_it_holds(tmp_path):
    (tmp_path / "ranger").mkdir()
    (tmp_path / "ranger" / "matrix.mtx.gz").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "rpe1.h5ad").touch()
    with pytest.raises(InputError, match=r"folder with a matrix market file; .*read_10x_mtx"):
        ingest(str(tmp_path / "ranger"), tmp_path / "out")
    with pytest.raises(InputError, match=r"is a folder; expected a file; it holds 'rpe1.h5ad'"):
        ingest(f"file://{tmp_path / 'runs'}", tmp_path / "out")


@pytest.mark.parametrize("indptr", [np.uint32, np.uint64])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_ends_without_a_sign_are_read(tmp_path: Path, form: Any, indptr: Any) -> None:
    adata = screen()
    expected = wanted(adata)
    adata.X = form(adata.X)
    path = written(tmp_path, adata)
    with h5py.File(path, "r+") as file:
        ends = file["X/indptr"][:].astype(indptr)
        del file["X/indptr"]
        file["X/indptr"] = ends
    ingest(path, tmp_path / "out")
    np.testing.assert_allclose(read(tmp_path / "out")[0].X.toarray(), expected, rtol=1e-5)
    with h5py.File(path, "r+") as file:
        file["X/indptr"][5] = ends[-1] + 1
    assert "indptr does not fit" in refused(tmp_path / "again", path)


def test_kept_cells_at_the_end_of_columns_are_sampled(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(source_h5ad, "COLUMN_RUN", 8)
    adata = screen(cells=400)
    adata.obs["part"] = ["first"] * 384 + ["last"] * 16
    expected = wanted(adata)[384:]
    adata.X = sparse.csc_matrix(adata.X)
    ingest(written(tmp_path, adata), tmp_path / "out", obs_filter={"part": "last"})
    found, summary = read(tmp_path / "out")
    assert summary["expression"] == "counts"
    np.testing.assert_allclose(found.X.toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"expression": "log1p"}, {"scale": "log1p_cpm"}])
def test_zeros_alone_are_refused_and_nothing_is_left(tmp_path: Path, options: Any) -> None:
    adata = screen()
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    said = refused(tmp_path, written(tmp_path, adata), **options)
    assert "value" in said and "in.h5ad" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]
