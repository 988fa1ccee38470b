"""An h5ad file as a source: checked when opened, X read in blocks of rows with h5py."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from components.ingest.csc import fill_buckets, read_buckets
from components.shared.reading.source import rows_per_block
from components.shared.reading.tables import Tables
from components.shared.storage.digests import sha256_of
from components.shared.storage.hdf5 import DAMAGE, DAMAGED, ends_fit
from components.shared.telling.errors import InputError, refusing

SAMPLE_RUNS = 32
SAMPLE_RUN_ROWS = 16
SAMPLE_COLUMNS = 64
COLUMN_RUN = 2**14
"""Entries of a column that are looked at; a column of all cells may have millions."""
LEAST_SAMPLED = 2**10
"""Values to be found in these runs, else whole columns are read."""


def dense_to_csr(block: NDArray) -> csr_matrix:
    """Return the non-zero entries of a dense block [rows, genes] as CSR float32."""
    flat = np.flatnonzero(block)
    indptr = np.r_[0, np.cumsum(np.count_nonzero(block, axis=1))]
    data = block.reshape(-1)[flat].astype(np.float32, copy=False)
    columns = (flat % block.shape[1]).astype(np.int32)
    return csr_matrix((data, columns, indptr), shape=block.shape)


@dataclass(frozen=True)
class H5adSource(Tables):
    """An opened h5ad file with X as dense, CSR or CSC of any real type."""

    path: Path
    scratch: Path
    """A folder on disk for the buckets of a CSC matrix."""

    @property
    def _x(self) -> Any:
        return self.file[self.matrix.x]

    @cached_property
    def kind(self) -> str:
        """How X is stored: dense, csr or csc."""
        x = self.file.get(self.matrix.x)
        if x is None or x.attrs.get("encoding-type") == "null":
            hint = f"; {self.hint}" if self.hint else ""
            raise InputError(f"{self.name}: the h5ad has no X; expected cells x genes in X{hint}")
        if hasattr(x, "shape"):
            return "dense"
        encoding = str(x.attrs.get("encoding-type", x.attrs.get("h5sparse_format", "none")))
        kind = encoding.removesuffix("_matrix")
        if kind not in ("csr", "csc") or not {"data", "indices", "indptr"} <= set(x):
            raise InputError(
                f"{self.name}: {self.matrix.said} is stored as '{encoding}'; expected a dense "
                "array, CSR or CSC"
            )
        return kind

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Cells and genes of X."""
        x = self._x
        found = (
            x.shape if self.kind == "dense" else x.attrs.get("shape", x.attrs.get("h5sparse_shape"))
        )
        return int(found[0]), int(found[1])

    def check(self) -> None:
        """Check that X, obs and var fit each other and hold numbers and symbols."""
        values = self._x if self.kind == "dense" else self._x["data"]
        said = self.matrix.said
        if values.dtype.kind not in "fiub":
            raise InputError(f"{self.name}: {said} holds {values.dtype}; expected real numbers")
        if self.shape != (len(self.cells), len(self.genes)):
            raise InputError(
                f"{self.name}: {said} is {self.shape[0]} x {self.shape[1]} but obs has "
                f"{len(self.cells)} cells and var {len(self.genes)} genes; the file is damaged"
            )
        if self.kind != "dense":
            self._check_indptr()

    def _check_indptr(self) -> None:
        if not ends_fit(self._x, self.shape[0 if self.kind == "csr" else 1]):
            raise InputError(
                f"{self.name}: {self.matrix.x}/indptr does not fit its data and obs; the file is "
                "damaged"
            )

    def sample(self, kept: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        """Return non-zero values of X: of runs of rows, of whole columns where X is CSC."""
        rng = np.random.default_rng(seed)
        with self._damage_told():
            if self.kind == "csc":
                return self._sample_columns(kept, rng)
            return self._sample_rows(kept, rng).data

    def cells_sample(self, kept: NDArray[np.bool_], seed: int) -> csr_matrix:
        """Return whole rows of X from all over the kept ones."""
        rng = np.random.default_rng(seed)
        with self._damage_told():
            if self.kind != "csc":
                return self._sample_rows(kept, rng)
            rows = np.flatnonzero(kept)
            few = np.zeros_like(kept)
            few[rng.choice(rows, min(SAMPLE_RUNS * SAMPLE_RUN_ROWS, len(rows)), replace=False)] = 1
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                fill_buckets(self._x, few, len(rows), Path(folder))
                return next(read_buckets(few, self.shape[1], len(rows), Path(folder)))[1]

    def _sample_rows(self, kept: NDArray[np.bool_], rng: np.random.Generator) -> csr_matrix:
        rows = np.flatnonzero(kept)
        edges = np.linspace(0, len(rows), min(SAMPLE_RUNS, len(rows)) + 1).astype(int)
        found = []
        for low, high in pairwise(edges):
            start = int(rows[rng.integers(low, max(low + 1, high - SAMPLE_RUN_ROWS))])
            run = kept[start : min(start + SAMPLE_RUN_ROWS, int(rows[high - 1]) + 1)]
            found.append(self._read(start, start + len(run))[np.flatnonzero(run)])
        return vstack(found, format="csr")

    def _sample_columns(
        self, kept: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        group = self._x
        indptr = group["indptr"][:].astype(np.int64)
        filled = np.flatnonzero(np.diff(indptr))
        chosen = rng.choice(filled, min(SAMPLE_COLUMNS, len(filled)), replace=False)

        def values_in(low: int, high: int) -> NDArray[np.float32]:
            values = group["data"][low:high].astype(np.float32)
            return values[kept[group["indices"][low:high]] & (values != 0)]

        none = np.empty(0, dtype=np.float32)
        found, parts = [none], False
        for low, high in zip(indptr[chosen].tolist(), indptr[chosen + 1].tolist(), strict=True):
            start = int(rng.integers(low, max(low, high - COLUMN_RUN) + 1))
            parts |= high - low > COLUMN_RUN
            found.append(values_in(start, min(start + COLUMN_RUN, high)))
        if not parts or sum(map(len, found)) >= LEAST_SAMPLED:
            return np.concatenate(found)
        found = [none]  # where few cells are kept, a run may have none of them
        for low, high in zip(indptr[chosen].tolist(), indptr[chosen + 1].tolist(), strict=True):
            found.append(values_in(low, high))
            if sum(map(len, found)) >= LEAST_SAMPLED:
                break
        return np.concatenate(found)

    def blocks(self, kept: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], csr_matrix]]:
        """Yield (row numbers, CSR float32 [rows, genes]) over the kept rows, in order.

        Raises:
            InputError: X cannot be read or points outside itself.
        """
        rows = self._block_rows()
        with self._damage_told():
            if self.kind == "csc":
                with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                    fill_buckets(self._x, kept, rows, Path(folder))
                    yield from read_buckets(kept, self.shape[1], rows, Path(folder))
                return
            for start in range(0, self.shape[0], rows):
                part = np.flatnonzero(kept[start : start + rows])
                if len(part) == 0:
                    continue
                # Read from the first to the last kept row: X/data of the others stays unread.
                low, high = start + int(part[0]), start + int(part[-1]) + 1
                block = self._read(low, high)
                yield start + part, block if len(part) == high - low else block[start + part - low]

    def _block_rows(self) -> int:
        rows = rows_per_block(self.shape[1])
        chunks = self._x.chunks if self.kind == "dense" else None
        # Blocks that end where chunks end, so that no chunk is unpacked twice.
        return rows // chunks[0] * chunks[0] if chunks and chunks[0] <= rows else rows

    def _read(self, low: int, high: int) -> csr_matrix:
        x = self._x
        if self.kind == "dense":
            return dense_to_csr(x[low:high])
        indptr = x["indptr"][low : high + 1].astype(np.int64)
        first, last = int(indptr[0]), int(indptr[-1])
        columns = x["indices"][first:last]
        if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= self.shape[1]):
            raise IndexError("column number out of range")
        block = csr_matrix(
            (x["data"][first:last].astype(np.float32), columns.astype(np.int32), indptr - first),
            shape=(high - low, self.shape[1]),
        )
        block.sum_duplicates()
        block.eliminate_zeros()
        return block

    def _damage_told(self) -> AbstractContextManager[None]:
        return refusing(DAMAGE, f"{self.name}: {self.matrix.said} cannot be read", DAMAGED)

    def stored(self) -> Iterator[Any]:
        """Yield the parts of the file that are read."""
        yield from (self.file.get(key) for key in (self.matrix.x, "obs", self.matrix.var))

    def sha256(self) -> str:
        """Return the sha256 of the file; of a folder, that of its files' names and digests."""
        if not self.path.is_dir():
            return sha256_of(self.path)
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        told = "".join(f"{path.relative_to(self.path)} {sha256_of(path)}\n" for path in files)
        return hashlib.sha256(told.encode()).hexdigest()
