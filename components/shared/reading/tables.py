"""The tables of a file of cells as anndata writes it: obs and var, without the matrix."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from components.shared.reading.matrices import (
    Matrix,
    columns_of,
    matrix_of,
    names_in,
    other_matrices,
    plain,
    read_part,
    symbol_columns,
    symbols_in,
)
from components.shared.storage.documents import said
from components.shared.storage.hdf5 import DAMAGE, DAMAGED
from components.shared.telling.errors import InputError, refusing, shortlist


@dataclass(frozen=True)
class Tables:
    """The labels of cells and the names of genes in an opened file."""

    file: Any
    """Of h5py or of zarr, which are used alike."""
    name: str
    layer: str
    """Which matrix is read: empty = X, the name of a layer, or raw."""
    gene_column: str
    """Column of var with the gene symbols; empty = the index."""

    @cached_property
    def matrix(self) -> Matrix:
        """Where the matrix is that is read."""
        return matrix_of(self.file, self.layer, self.name)

    @cached_property
    def hint(self) -> str:
        """Other matrices that could be read, for messages; empty if there are none."""
        return other_matrices(self.file, self.layer)

    def _frame(self, key: str) -> Any:
        frame = self.file.get(key)
        if frame is None or hasattr(frame, "shape") or "_index" not in frame.attrs:
            raise InputError(
                f"{self.name}: '{key}' is not a table as anndata 0.7 or later writes it; "
                f"open it with anndata.read_h5ad and write it again"
            )
        return frame

    def _index(self, key: str) -> "pd.Index[str]":
        return names_in(self._frame(key))

    @cached_property
    def _symbols(self) -> tuple["pd.Index[str]", dict[str, int]]:
        if not self.gene_column:
            return self._index(self.matrix.var), {}
        return symbols_in(self._frame(self.matrix.var), self.gene_column, self.name)

    @property
    def genes(self) -> list[str]:
        """Gene symbols: the index of var, or the requested column."""
        return [str(gene) for gene in self._symbols[0]]

    @property
    def gene_facts(self) -> dict[str, int]:
        """How many symbols of a column were mended."""
        return self._symbols[1]

    @cached_property
    def genes_said(self) -> str:
        """Where the names of the genes come from, for messages."""
        return f"var column '{self.gene_column}'" if self.gene_column else "the var index"

    def symbols_hint(self) -> str:
        """Say where gene symbols may be."""
        var = self._frame(self.matrix.var)
        if found := [name for name in symbol_columns(var) if name != self.gene_column]:
            return (
                f"var column {shortlist(found)} may hold them: set the ingest option gene_column, "
                f"as in gene_column: {found[0]}"
            )
        columns = shortlist(columns_of(var), 12) or "none"
        return f"set the ingest option gene_column to the var column of them (columns: {columns})"

    @cached_property
    def cells(self) -> "pd.Index[str]":
        """Cell names: the index of obs."""
        return self._index("obs")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns of obs."""
        return columns_of(self._frame("obs"))

    def column(self, name: str) -> "pd.Series[Any]":
        """Return one column of obs, an entry a cell; categories stay categories.

        Raises:
            InputError: it cannot be read, or does not have an entry a cell.
        """
        with refusing(DAMAGE, f"{self.name}: obs/{name} cannot be read", DAMAGED, said):
            found = self._column(name)
        if len(found) != len(self.cells):
            raise InputError(
                f"{self.name}: obs/{name} has {len(found)} entries for {len(self.cells)} cells; "
                "the file is damaged, fetch it again"
            )
        return found

    def _column(self, name: str) -> "pd.Series[Any]":
        frame = self._frame("obs")
        old_categories = frame.get("__categories")
        if old_categories is not None and name in old_categories:
            labels = read_part(old_categories[name])
            return pd.Series(pd.Categorical.from_codes(frame[name][:], labels))
        return pd.Series(plain(read_part(frame[name])))
