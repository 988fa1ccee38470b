"""What several test modules build: small artifacts from arrays."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from components.shared.artifacts.artifact import CELLS, writing
from components.shared.artifacts.cells import CELLS_FILE
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError


def cells_artifact(folder: Path, obs: pd.DataFrame, X: np.ndarray, genes: list[str]) -> Path:  # noqa: N803
    """Write a cells/v1 artifact; ``obs`` needs perturbation and cell_line, index = cell names."""
    obs = obs.copy()
    obs["is_control"] = (obs["perturbation"] == CONTROL).to_numpy()
    for column in ("perturbation", "cell_line"):
        obs[column] = obs[column].astype("category")
    adata = anndata.AnnData(
        csr_matrix(np.asarray(X, dtype=np.float32)), obs=obs, var=pd.DataFrame(index=genes)
    )
    with writing(folder, CELLS, parameters={}) as draft:
        adata.write_h5ad(draft.path / CELLS_FILE)
        draft.summary |= {"cells": len(obs), "genes": len(genes)}
    return folder


def screen(
    *,
    lines: tuple[str, ...] = ("k562", "jurkat", "hepg2", "rpe1"),
    perturbations: tuple[str, ...] = ("G0", "G1", "G2", "G3", "X0", "G1+G2"),
    genes: int = 30,
    cells_each: int = 6,
    controls_each: int = 20,
    sparse: bool = False,
    seed: int = 0,
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Return obs, X (log1p) and gene names of a tiny screen with real effects.

    Where it is sparse, expression runs from a count in 50 cells to 30 in each, as in real cells.
    """
    rng = np.random.default_rng(seed)
    labels = [(line, CONTROL) for line in lines for _ in range(controls_each)]
    labels += [(line, p) for line in lines for p in perturbations for _ in range(cells_each)]
    obs = pd.DataFrame(labels, columns=["cell_line", "perturbation"])
    obs.index = [f"cell{i}-{line}" for i, line in enumerate(obs["cell_line"])]
    effect = {p: rng.normal(0, 0.6, genes) for p in perturbations} | {CONTROL: np.zeros(genes)}
    base = {line: rng.gamma(2.0, 0.8, genes) for line in lines}
    if sparse:
        base = {line: rng.permutation(np.geomspace(0.02, 30, genes)) for line in lines}
    rate = np.array([base[line] * np.exp(effect[p]) for line, p in labels])
    counts = rng.poisson(rate)
    scaled = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4
    return obs, np.log1p(scaled), [f"G{i}" for i in range(genes)]


def bare_names(page: str) -> list[str]:
    """Return the words with an underscore inside that stand outside of code in a Markdown page."""
    outside = re.sub(r"^\s*```.*?^\s*```", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\w*[^\W_]_+[^\W_]\w*", re.sub(r"`[^`\n]+`", "", outside))


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
