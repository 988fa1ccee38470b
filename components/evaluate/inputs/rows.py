"""Rows of an expression matrix, in memory or on disk."""

import hashlib
from functools import cached_property
from typing import Any, TypeAlias

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from components.shared.artifacts.predictions import AGAIN
from components.shared.storage.hdf5 import check_columns

Matrix: TypeAlias = Any
"""CSR or dense floats, shape [cells, genes]: what an array of rows takes from it is in memory."""

BLOCK = 1024
"""Rows that are looked at together where all are looked at."""
GAP = 32
"""Rows that are read although not requested, rather than reading twice around them."""


class OnDisk:
    """A matrix of an open HDF5 file; ``matrix[rows]`` reads rows in any order, as CSR or dense."""

    def __init__(self, stored: CSRDataset | h5py.Dataset) -> None:
        self.stored = stored
        self.shape: tuple[int, int] = stored.shape
        self.dtype: np.dtype = stored.dtype

    def __getitem__(self, rows: "NDArray[np.integer] | slice") -> Matrix:
        """Read rows; neighbours in the file are read together, whatever order they come in."""
        if isinstance(rows, slice):
            return self._sound(self.stored[rows])
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        wanted = np.unique(rows)
        spans = np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1) if len(wanted) else []
        parts = [self._read(span) for span in spans]
        if not parts:
            return self.stored[:0]
        read = parts[0]
        if len(parts) > 1:
            read = vstack(parts, format="csr") if issparse(read) else np.concatenate(parts)
        return read if np.array_equal(rows, wanted) else read[np.searchsorted(wanted, rows)]

    def _read(self, span: NDArray[np.integer]) -> Matrix:
        """Read ascending rows, and those between them, which are dropped."""
        block = self._sound(self.stored[span[0] : span[-1] + 1])
        return block if len(span) == block.shape[0] else block[span - span[0]]

    def _sound(self, block: Matrix) -> Matrix:
        """Return what was read, once it is known to lie within the matrix."""
        if issparse(block):
            stored = self.stored.group
            check_columns(block, f"{stored.file.filename}: {stored.name}", AGAIN)
        return block

    @cached_property
    def digest(self) -> str:
        """sha256, see `digest_of`."""
        return _digest(self)


class Chosen:
    """Rows of another matrix, each read from it on request."""

    def __init__(self, matrix: Matrix, rows: NDArray[np.integer]) -> None:
        self.matrix = matrix
        self.rows = rows
        self.shape: tuple[int, int] = (len(rows), matrix.shape[1])
        self.dtype: np.dtype = matrix.dtype

    def __getitem__(self, rows: "NDArray[np.integer] | slice") -> Matrix:
        """Take rows by their place among the chosen."""
        return self.matrix[self.rows[rows]]

    @cached_property
    def digest(self) -> str:
        """sha256, see `digest_of`."""
        chosen = np.ascontiguousarray(self.rows, dtype=np.int64)
        return hashlib.sha256(digest_of(self.matrix).encode() + chosen.tobytes()).hexdigest()


def matrix_of(found: Any) -> Matrix:
    """Return what AnnData holds as something that rows can be taken from."""
    if isinstance(found, CSRDataset | h5py.Dataset):
        return OnDisk(found)
    found = found.to_memory() if isinstance(found, CSCDataset) else found
    return csr_matrix(found) if issparse(found) else np.asarray(found)


def dense(rows: Matrix) -> NDArray[Any]:
    """Return rows in memory as an array, in their own precision."""
    return np.asarray(rows.toarray() if issparse(rows) else rows)


def digest_of(matrix: Matrix) -> str:
    """Return a sha256 of all values, of their precision and of whether they are sparse."""
    if isinstance(matrix, OnDisk | Chosen):
        return matrix.digest
    return _digest(matrix)


def _digest(matrix: Matrix) -> str:
    found = hashlib.sha256(f"{matrix.shape} {matrix.dtype}".encode())
    for start in range(0, matrix.shape[0], BLOCK):
        block = matrix[start : start + BLOCK]
        parts = (block.data, block.indices, block.indptr) if issparse(block) else (block,)
        for part in parts:
            found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()
