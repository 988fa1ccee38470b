"""The h5ad of predictions, written perturbation by perturbation."""

from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.predict.wanted import Wanted
from components.shared.artifacts import predictions
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import CELLS_KIND
from components.shared.model.rank_cells import RANK
from components.shared.model.tokens import Ints
from components.shared.storage.csr_writer import CsrWriter

Floats = NDArray[np.float32]


def shell_of(cells: Cells, obs: pd.DataFrame, wanted: Wanted, reference: Ints) -> AnnData:
    """Return all of the h5ad but the predictions; without a truth where nothing was measured."""
    layers = {}
    if (wanted.rows >= 0).any():
        rows = np.concatenate([wanted.rows, reference])
        there = rows >= 0
        # A predicted cell without a measurement is a row without a value: nothing is copied.
        found = cells.rows(rows[there])
        sizes = np.zeros(1 + len(rows), found.indptr.dtype)
        sizes[1:][there] = np.diff(found.indptr)
        parts = found.data, found.indices, np.cumsum(sizes, dtype=sizes.dtype)
        layers[predictions.TRUTH] = csr_matrix(parts, shape=(len(rows), found.shape[1]))
    uns = {"perturbation_column": "perturbation", "control": CONTROL}
    for column in ("perturbation", "cell_line"):
        obs[column] = obs[column].astype("category")
    return AnnData(obs=obs, var=pd.DataFrame(index=cells.genes), layers=layers, uns=uns)


def write_predictions(
    file: Path,
    shell: AnnData,
    blocks: Iterator[tuple[Floats, Floats]],
    controls: csr_matrix,
    known: Floats | None,
) -> None:
    """Write the h5ad, predictions block by block: mapped cells sparse, denoised ones dense.

    The measured ``controls`` end the file; ``known`` are the means by known effects alone.
    """
    shell.write_h5ad(file)
    shell.layers.clear()  # as large as what is predicted, and on disk now
    means = []
    with h5py.File(file, "r+") as h5:
        h5.pop("X", None)
        rows = CsrWriter(h5, shell.n_vars) if shell.uns[CELLS_KIND] == RANK else _Dense(h5, shell)
        for cells, mean in blocks:
            rows.append(csr_matrix(cells))
            means.append(mean)
        rows.append(controls)
        stored = {predictions.MEANS: np.stack(means, axis=1)}
        if known is not None:
            stored[predictions.KNOWN_MEANS] = np.ascontiguousarray(known.T)
        anndata.io.write_elem(h5, "varm", stored)


class _Dense:
    """`X` of an h5ad file as a dense matrix that is filled from the top."""

    def __init__(self, file: h5py.File, shell: AnnData) -> None:
        self.written = file.create_dataset("X", shape=shell.shape, dtype=np.float32)
        self.written.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self.rows = 0

    def append(self, block: csr_matrix) -> None:
        """Write the next rows."""
        self.written[self.rows : self.rows + block.shape[0]] = block.toarray()
        self.rows += block.shape[0]
