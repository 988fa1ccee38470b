"""The cells artifact: `cells.h5ad`, read in row blocks so that memory does not follow its size.

X is CSR float32, log1p of counts per 10,000; `obs` has `perturbation`, `cell_line`, `is_control`
and, where the source has one, `batch`; the `var` index holds gene symbols. Controls are labelled
`non-targeting` whatever the source called them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, get_index_dtype

from components.shared.artifact import CELLS, Artifact, opening
from components.shared.errors import InputError
from components.shared.hdf5 import opened_hdf5

CELLS_FILE = "cells.h5ad"
BLOCK_ROWS = 4096

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Cells:
    """An opened cells artifact; `obs` is in memory, X stays on disk."""

    artifact: Artifact

    @classmethod
    def open(cls, path: Path | str) -> "Cells":
        """Check the artifact folder at ``path`` and return it.

        Raises:
            InputError: not a cells artifact, or damaged.
        """
        return cls(opening(path, CELLS))

    @property
    def file(self) -> Path:
        """The h5ad file."""
        return self.artifact.path / CELLS_FILE

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell, index = cell names; perturbation and cell_line as plain strings."""
        with opened_hdf5(self.file, str(self.file)) as file:
            obs = anndata.io.read_elem(file["obs"])
        for column in ("perturbation", "cell_line"):
            obs[column] = obs[column].astype(str)
        return obs

    @cached_property
    def genes(self) -> list[str]:
        """Gene symbols, in column order."""
        with opened_hdf5(self.file, str(self.file)) as file:
            return [str(gene) for gene in anndata.io.read_elem(file["var"]).index]

    def blocks(self, rows_per_block: int = BLOCK_ROWS) -> Iterator[tuple[int, csr_matrix]]:
        """Yield (first row, block) over all cells; a block is CSR float32 [rows, genes]."""
        with opened_hdf5(self.file, str(self.file)) as file:
            indptr = file["X/indptr"][:]
            for start in range(0, len(indptr) - 1, rows_per_block):
                stop = min(start + rows_per_block, len(indptr) - 1)
                yield start, self._read(file["X"], indptr, start, stop)

    def _read(self, group: h5py.Group, indptr: Ints, start: int, stop: int) -> csr_matrix:
        """Return the cells from ``start`` to before ``stop``."""
        low, high = int(indptr[start]), int(indptr[stop])
        parts = group["data"][low:high], group["indices"][low:high], indptr[start : stop + 1] - low
        return csr_matrix(parts, shape=(stop - start, len(self.genes)))

    def rows(self, rows: Ints) -> csr_matrix:
        """Return the expression of the cells at ``rows``, in that order, CSR [len(rows), genes].

        What is found is written where it stays: beside it there is a block of the file in memory.
        """
        rows = np.asarray(rows, np.int64)
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        with opened_hdf5(self.file, str(self.file)) as file:
            indptr = file["X/indptr"][:]
            ends = np.concatenate([[0], np.cumsum(np.diff(indptr)[rows])])
            values = np.empty(ends[-1], np.float32)
            # 32 bits where scipy itself would take them, half of what 64 take.
            columns = np.empty(ends[-1], get_index_dtype(maxval=max(ends[-1], len(self.genes))))
            for first in range(0, len(indptr) - 1, BLOCK_ROWS):
                low, high = np.searchsorted(wanted, [first, first + BLOCK_ROWS])
                if low == high:
                    continue
                start = int(wanted[low])
                block = self._read(file["X"], indptr, start, int(wanted[high - 1]) + 1)
                for place, row in zip(order[low:high], wanted[low:high] - start, strict=True):
                    there = slice(ends[place], ends[place + 1])
                    found = slice(block.indptr[row], block.indptr[row + 1])
                    values[there], columns[there] = block.data[found], block.indices[found]
        parts = values, columns, ends.astype(columns.dtype)
        return csr_matrix(parts, shape=(len(rows), len(self.genes)))

    def group_means(self, groups: Ints, n_groups: int) -> NDArray[np.float64]:
        """Return mean expression (pseudobulk) of each group of cells in one pass over the file.

        Args:
            groups: group number of every cell, shape [cells]; negative = in no group.
            n_groups: how many groups there are.

        Returns:
            Means, shape [n_groups, genes]; NaN for a group without cells.

        Raises:
            InputError: ``groups`` does not have one entry a cell.
        """
        if len(groups) != len(self.obs):
            raise InputError(f"{self.file}: {len(self.obs)} cells but {len(groups)} group numbers")
        sums = np.zeros((n_groups, len(self.genes)))
        counts = np.bincount(groups[groups >= 0], minlength=n_groups)
        for start, block in self.blocks():
            part = groups[start : start + block.shape[0]]
            kept = np.flatnonzero(part >= 0)
            assign = csr_matrix(
                (np.ones(len(kept)), (part[kept], kept)), shape=(n_groups, block.shape[0])
            )
            sums += (assign @ block.astype(np.float64)).toarray()
        with np.errstate(invalid="ignore"):
            sums /= counts[:, None]
        return sums
