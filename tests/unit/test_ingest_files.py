"""How files come: symbols in a column, counts in a layer, one file a line, other forms."""

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from components.ingest.ingest import ingest
from components.shared.errors import InputError
from components.shared.perturbation import CONTROL
from components.split.split import split
from tests.unit.test_ingest_scale import counts, per

GENES = [f"G{i}A" for i in range(40)]


def screen(cells: int = 60, genes: list[str] = GENES, seed: int = 0) -> anndata.AnnData:
    labels = [(CONTROL, "G1A", "G2A", "G3A")[i % 4] for i in range(cells)]
    obs = pd.DataFrame({"gene": labels, "cell_line": "k562"})
    obs.index = [f"cell{i}" for i in range(cells)]
    x = sparse.csr_matrix(counts(cells, len(genes), seed).astype(np.float32))
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=genes))


def written(folder: Path, adata: anndata.AnnData, name: str = "in.h5ad") -> str:
    adata.write_h5ad(folder / name)
    return str(folder / name)


def read(folder: Path) -> tuple[anndata.AnnData, dict[str, Any]]:
    summary = json.loads((folder / "provenance.json").read_text())["summary"]
    return anndata.read_h5ad(folder / "cells.h5ad"), summary


def refused(folder: Path, source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        ingest(source, folder / "out", **options)
    assert not (folder / "out").exists()
    return str(error.value)


def wanted(adata: anndata.AnnData) -> np.ndarray:
    return np.log1p(per(1e4, adata.X.toarray()))


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


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        ("[]", "the list is empty"),
        ("[1]", "names no file"),
        ('["a.h5ad"', "not JSON"),
        ('[{"file": "a.h5ad", "layers": "x"}]', "nearest: 'layer'"),
        ('[{"file": "a.h5ad", "layer": 1}]', "expected text"),
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
