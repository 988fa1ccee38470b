"""An h5ad whose X grows block by block: CSR float32, readable by anndata."""

from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

CHUNK = 2**16
"""Entries per HDF5 chunk: 256 KiB of values."""
COMPRESSION = "lzf"
"""Less than half the size of none (80 for 172 MB at 20,000 x 2,000) for 0.6 s more to write and
0.4 s more to read; gzip takes another second for half of that again."""


class CsrWriter:
    """Appends blocks of rows to `X` of an h5ad file that has none; ``finish`` adds the tables."""

    def __init__(self, file: h5py.File, n_genes: int) -> None:
        """Start `X` with ``n_genes`` columns and no row."""
        self.file = file
        self.n_genes = n_genes
        self.rows = 0
        self.entries = 0
        self.group = file.create_group("X")
        self.group.attrs["encoding-type"] = "csr_matrix"
        self.group.attrs["encoding-version"] = "0.1.0"
        self.group.attrs["shape"] = np.array([0, n_genes], dtype=np.int64)
        for name, dtype, size in (("data", "<f4", 0), ("indices", "<i4", 0), ("indptr", "<i8", 1)):
            self.group.create_dataset(
                name,
                shape=(size,),
                maxshape=(None,),
                dtype=dtype,
                chunks=(CHUNK,),
                compression=COMPRESSION,
            )

    def append(self, block: csr_matrix) -> None:
        """Add rows; ``block`` is CSR float32 [rows, genes] with sorted indices."""
        rows, entries = block.shape[0], len(block.data)
        for name, values in (("data", block.data), ("indices", block.indices)):
            self.group[name].resize((self.entries + entries,))
            self.group[name][self.entries :] = values
        self.group["indptr"].resize((self.rows + rows + 1,))
        self.group["indptr"][self.rows + 1 :] = block.indptr[1:].astype(np.int64) + self.entries
        self.rows += rows
        self.entries += entries
        self.group.attrs["shape"] = np.array([self.rows, self.n_genes], dtype=np.int64)

    def finish(self, obs: pd.DataFrame, genes: list[str], uns: dict[str, Any]) -> None:
        """Write the marks anndata looks for, obs, var (index = ``genes``) and uns."""
        self.file.attrs["encoding-type"] = "anndata"
        self.file.attrs["encoding-version"] = "0.1.0"
        anndata.io.write_elem(self.file, "obs", obs)
        anndata.io.write_elem(self.file, "var", pd.DataFrame(index=pd.Index(genes, dtype=object)))
        anndata.io.write_elem(self.file, "uns", uns)
