"""Files of cells for ingest, and what it makes of them."""

import json
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from components.ingest.ingest import ingest
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError


def counts(cells: int = 60, genes: int = 80, seed: int = 0) -> np.ndarray:
    """Counts from a molecule in ten cells to a hundred in each, as in real cells."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(0.1, 100, genes) * rng.lognormal(0, 0.4, (cells, 1))
    return rng.poisson(mean).astype(np.float64)


def per(total: float, raw: np.ndarray) -> np.ndarray:
    return raw / raw.sum(axis=1, keepdims=True) * total


def file_of(folder: Path, x: Any, name: str = "in.h5ad") -> Path:
    n, genes = x.shape
    obs = pd.DataFrame(
        {"gene": [CONTROL, "KLF1"] * (n // 2), "cell_line": "k562"},
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"G{i}A" for i in range(genes)])
    anndata.AnnData(x, obs=obs, var=var).write_h5ad(folder / name)
    return folder / name


def ingested(folder: Path, x: Any, **options: Any) -> tuple[anndata.AnnData, dict[str, Any]]:
    ingest(str(file_of(folder, x)), folder / "out", **options)
    summary = json.loads((folder / "out" / "provenance.json").read_text())["summary"]
    return anndata.read_h5ad(folder / "out" / "cells.h5ad"), summary


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


def ten_x(folder: Path) -> tuple[str, np.ndarray]:
    """A matrix of Cell Ranger with two guides among its features, and a symbol that is twice."""
    raw = counts(30, 40).astype(np.int32)
    x = sparse.csr_matrix(np.c_[raw, np.full((30, 2), 500)])
    path = folder / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["data"], matrix["indices"] = x.data, x.indices.astype(np.int64)
        matrix["indptr"], matrix["shape"] = x.indptr.astype(np.int64), np.array([42, 30])
        matrix["barcodes"] = np.array([f"BC{i}-1" for i in range(30)], dtype="S")
        names = [*GENES[:-1], GENES[0], "guide1", "guide2"]
        kinds = ["Gene Expression"] * 40 + ["CRISPR Guide Capture"] * 2
        features = matrix.create_group("features")
        features["name"] = np.array(names, dtype="S")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(42)], dtype="S")
        features["feature_type"] = np.array(kinds, dtype="S")
    return str(path), raw
