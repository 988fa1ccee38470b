"""The cells artifact: `cells.h5ad`, read in row blocks so that memory does not follow its size.

X is CSR float32, log1p of counts per 10,000, or per what `target_sum` in `uns` says; `obs` has
`perturbation`, `cell_line`, `is_control` and, where the source has one, `batch`; the `var` index
holds gene symbols. Controls are labelled `non-targeting` whatever the source called them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, get_index_dtype

from components.shared.artifacts.artifact import CELLS, Artifact, opening
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL
from components.shared.artifacts.perturbation import CONTROL
from components.shared.storage.hdf5 import (
    check_columns,
    check_csr,
    opened_hdf5,
    read_frame,
    read_part,
)
from components.shared.telling.errors import InputError

CELLS_FILE = "cells.h5ad"
BLOCK_ROWS = 4096
LABELS = ("perturbation", "cell_line")
AGAIN = "run the ingest task again"

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Cells:
    """An opened cells artifact; `obs` is in memory, X stays on disk."""

    artifact: Artifact
    name: str = ""
    """What messages call the file; none = its path."""
    hint: str = AGAIN
    """What messages say is to be done about a damaged one."""

    @classmethod
    def open(cls, path: Path | str) -> "Cells":
        """Check the artifact folder at ``path`` and return it."""
        return cls(opening(path, CELLS))

    @property
    def file(self) -> Path:
        """The h5ad file."""
        return self.artifact.path / CELLS_FILE

    @property
    def called(self) -> str:
        """What messages call the file."""
        return self.name or str(self.file)

    @property
    def target_sum(self) -> int:
        """Total that each cell's counts were scaled to before log1p."""
        with opened_hdf5(self.file, self.called) as file:
            if f"uns/{TARGET_SUM}" not in file:
                return USUAL
            found = read_part(file, f"uns/{TARGET_SUM}", self.called, self.hint)
        if not isinstance(found, int | float | np.number) or not found >= 1:
            raise InputError(f"{self.called}: uns/{TARGET_SUM} is no whole number; {self.hint}")
        return int(found)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell, index = cell names; perturbation and cell_line as plain strings."""
        with opened_hdf5(self.file, self.called) as file:
            obs = read_frame(file, "obs", self.called, self.hint, LABELS)
        for column in LABELS:
            obs[column] = obs[column].astype(str)
        return self._checked(obs)

    def _checked(self, obs: pd.DataFrame) -> pd.DataFrame:
        if not len(obs) or not obs.index.is_unique:
            raise InputError(f"{self.called}: obs has no cells, or two of a name; {self.hint}")
        if "is_control" not in obs:
            raise InputError(f"{self.called}: obs has no column 'is_control'; {self.hint}")
        if obs["is_control"].dtype != bool:
            raise InputError(f"{self.called}: obs/is_control is not true or false; {self.hint}")
        if "batch" in obs and obs["batch"].isna().any():
            raise InputError(f"{self.called}: obs/batch has an empty entry; {self.hint}")
        wrong = np.flatnonzero(obs["is_control"] != (obs["perturbation"] == CONTROL))
        if len(wrong):
            raise InputError(
                f"{self.called}: of cell '{obs.index[wrong[0]]}' obs/is_control and the "
                f"perturbation disagree; {self.hint}"
            )
        return obs

    @cached_property
    def genes(self) -> list[str]:
        """Gene symbols, in column order."""
        with opened_hdf5(self.file, self.called) as file:
            genes = read_frame(file, "var", self.called, self.hint).index
        if not len(genes) or not genes.is_unique:
            raise InputError(f"{self.called}: var has no genes, or two of a name; {self.hint}")
        return genes.to_list()

    def blocks(
        self, rows_per_block: int = BLOCK_ROWS, *, holding: Ints | None = None
    ) -> Iterator[tuple[int, csr_matrix]]:
        """Yield (first row, block) over all cells; a block is CSR float32 [rows, genes].

        With ``holding``, ascending rows, only the blocks that have some of them are read.

        Raises:
            InputError: X is no CSR matrix of these cells and genes.
        """
        with opened_hdf5(self.file, self.called) as file:
            group, indptr = self._matrix(file)
            for start in range(0, len(indptr) - 1, rows_per_block):
                stop = min(start + rows_per_block, len(indptr) - 1)
                if holding is not None and len(set(np.searchsorted(holding, [start, stop]))) == 1:
                    continue
                yield start, self._read(group, indptr, start, stop)

    def _matrix(self, file: h5py.File) -> tuple[h5py.Group, Ints]:
        """Return X, checked to be a CSR matrix of these cells and genes, and its row ends."""
        group = file.get("X")
        check_csr(group, (len(self.obs), len(self.genes)), f"{self.called}: X", self.hint)
        return group, group["indptr"][:]

    def _read(self, group: h5py.Group, indptr: Ints, start: int, stop: int) -> csr_matrix:
        """Return the cells from ``start`` to before ``stop``."""
        low, high = int(indptr[start]), int(indptr[stop])
        parts = group["data"][low:high], group["indices"][low:high], indptr[start : stop + 1] - low
        block = csr_matrix(parts, shape=(stop - start, len(self.genes)))
        return check_columns(block, f"{self.called}: X", self.hint)

    def rows(self, rows: Ints) -> csr_matrix:
        """Return the expression of the cells at ``rows``, in that order, CSR [len(rows), genes].

        What is found is written where it stays: beside it there is a block of the file in memory.

        Raises:
            InputError: X is no CSR matrix of these cells and genes.
        """
        rows = np.asarray(rows, np.int64)
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        with opened_hdf5(self.file, self.called) as file:
            group, indptr = self._matrix(file)
            ends = np.concatenate([[0], np.cumsum(np.diff(indptr)[rows])])
            values = np.empty(ends[-1], np.float32)
            # 32 bits where scipy itself would take them, half of what 64 take.
            columns = np.empty(ends[-1], get_index_dtype(maxval=max(ends[-1], len(self.genes))))
            for first in range(0, len(indptr) - 1, BLOCK_ROWS):
                low, high = np.searchsorted(wanted, [first, first + BLOCK_ROWS])
                if low == high:
                    continue
                start = int(wanted[low])
                block = self._read(group, indptr, start, int(wanted[high - 1]) + 1)
                block, places = block[wanted[low:high] - start], order[low:high]
                # Cells that follow one another in the result are copied together.
                breaks = np.flatnonzero(np.diff(places) != 1) + 1
                for run, end in pairwise([0, *breaks.tolist(), len(places)]):
                    there = slice(ends[places[run]], ends[places[end - 1] + 1])
                    found = slice(block.indptr[run], block.indptr[end])
                    values[there], columns[there] = block.data[found], block.indices[found]
        parts = values, columns, ends.astype(columns.dtype)
        return csr_matrix(parts, shape=(len(rows), len(self.genes)))

    def group_means(self, groups: Ints, n_groups: int) -> NDArray[np.float64]:
        """Return mean expression (pseudobulk) of each group of cells in one pass over the file.

        ``groups`` has the group number of every cell, [cells]; negative = in no group. Means are
        [n_groups, genes]; NaN for a group without cells.

        Raises:
            InputError: ``groups`` does not have one entry a cell.
        """
        if len(groups) != len(self.obs):
            raise InputError(
                f"{self.called}: {len(self.obs)} cells but {len(groups)} group numbers"
            )
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
