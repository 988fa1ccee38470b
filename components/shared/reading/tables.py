"""The tables of a file of cells as anndata writes it: obs and var, and which matrix is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from components.shared.reading.names import is_missing
from components.shared.storage.documents import said
from components.shared.storage.hdf5 import DAMAGE, DAMAGED
from components.shared.telling.errors import InputError, nearest, refusing, shortlist

RAW = "raw"
"""Value of `layer` that stands for adata.raw, unless a layer has that name."""
SYMBOLS = (
    "gene_name",
    "gene_symbol",
    "symbol",
    "gene_names",
    "gene_symbols",
    "symbols",
    "feature_name",
    "gene_short_name",
    "hgnc_symbol",
    "gene",
)
"""Usual names of a column of gene symbols."""


@dataclass(frozen=True)
class Matrix:
    """Where a matrix of cells x genes is in a file, and the table of its genes."""

    x: str
    var: str = "var"
    said: str = "X"
    """Its name in messages."""


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
        """Where the matrix is that is read.

        Raises:
            InputError: the file has no such matrix; says which it has.
        """
        layers = list(self.file.get("layers", ()))
        if not self.layer:
            return Matrix("X")
        if self.layer in layers:
            return Matrix(f"layers/{self.layer}", said=f"layer '{self.layer}'")
        if self.layer == RAW and "raw/X" in self.file:
            return Matrix("raw/X", "raw/var", said=".raw")
        raise InputError(
            f"{self.name}: there is no layer '{self.layer}'{nearest(self.layer, [*layers, RAW])}; "
            f"{self.hint or 'the file has X alone, leave layer empty'}"
        )

    @cached_property
    def hint(self) -> str:
        """Other matrices that could be read, for messages; empty if there are none."""
        layers = [name for name in self.file.get("layers", ()) if name != self.layer]
        parts = [f"layers {shortlist(layers)}"] if layers else []
        if "raw/X" in self.file and self.layer != RAW:
            parts.append(".raw")
        if not parts:
            return ""
        first = layers[0] if layers else RAW
        return (
            f"the file also has {' and '.join(parts)}: set the ingest option layer, as in "
            f"layer: {first}"
        )

    def _frame(self, key: str) -> Any:
        frame = self.file.get(key)
        if frame is None or hasattr(frame, "shape") or "_index" not in frame.attrs:
            raise InputError(
                f"{self.name}: '{key}' is not a table as anndata 0.7 or later writes it; "
                f"open it with anndata.read_h5ad and write it again"
            )
        return frame

    def _index(self, key: str) -> "pd.Index[str]":
        """Return the index of a table, as text.

        Raises:
            ValueError: it is no list of names; see `read_part` too.
        """
        frame = self._frame(key)
        values = np.asarray(plain(read_part(frame[frame.attrs["_index"]])))
        if values.ndim != 1:
            raise ValueError(f"the index has the shape {values.shape}")
        return pd.Index(values.astype(str), dtype=object)

    def _columns(self, key: str) -> list[str]:
        order = self._frame(key).attrs.get("column-order", ())
        return [str(column) for column in np.atleast_1d(order)]

    @cached_property
    def _symbols(self) -> tuple["pd.Index[str]", dict[str, int]]:
        """The gene symbols, and of a column of them, each once, how many were mended.

        A gene without a symbol keeps its name in the index; one that bears the symbol of a gene
        before it gets a number, as anndata's `var_names_make_unique` gives it.
        """
        var, column = self.matrix.var, self.gene_column
        if not column:
            return self._index(var), {}
        columns = self._columns(var)
        if column not in columns:
            raise InputError(
                f"{self.name}: var has no column '{column}'{nearest(column, columns)} "
                f"(columns: {shortlist(columns, 12) or 'none'}); set gene_column"
            )
        found = pd.Series(plain(read_part(self._frame(var)[column])), dtype=object)
        said = found.astype(str).str.strip()
        missing = (found.isna() | said.map(is_missing)).to_numpy(bool)
        symbols = pd.Index(np.where(missing, self._index(var), said), dtype=object)
        facts = {
            "genes_without_symbol": int(missing.sum()),
            "genes_numbered": int(symbols.duplicated().sum()),
        }
        return (make_index_unique(symbols) if facts["genes_numbered"] else symbols), facts

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
        columns = self._columns(self.matrix.var)
        usual = [
            name for name in columns if name.casefold() in SYMBOLS and name != self.gene_column
        ]
        if found := sorted(usual, key=lambda name: SYMBOLS.index(name.casefold())):
            return (
                f"var column {shortlist(found)} may hold them: set the ingest option gene_column, "
                f"as in gene_column: {found[0]}"
            )
        there = shortlist(columns, 12) or "none"
        return f"set the ingest option gene_column to the var column of them (columns: {there})"

    @cached_property
    def cells(self) -> "pd.Index[str]":
        """Cell names: the index of obs."""
        return self._index("obs")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns of obs."""
        return self._columns("obs")

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


def plain(values: Any) -> Any:
    """Return an array of zarr's own text as one of objects, which pandas takes; others as is."""
    return values.astype(object) if getattr(values.dtype, "kind", "") == "T" else values


def read_part(part: Any) -> Any:
    """Return a column as anndata reads it.

    Raises:
        ValueError: it holds lists; h5py and anndata raise others of `DAMAGE`.
    """
    lists = isinstance(part, h5py.Dataset) and h5py.check_vlen_dtype(part.dtype) is not None
    if lists and h5py.check_string_dtype(part.dtype) is None:
        raise ValueError("its entries are lists")
    return anndata.io.read_elem(part)


def common_genes(files: Sequence[tuple[str, Sequence[str]]]) -> "pd.Index[str]":
    """Return the genes that are in all files, in the order of the first.

    Args:
        files: name and genes of each, two or more.

    Raises:
        InputError: there is none.
    """
    each = [pd.Index(np.array(genes, dtype=object)) for _, genes in files]
    common = each[0][np.logical_and.reduce([each[0].isin(index) for index in each])]
    if not len(common):
        (one, first), (other, second) = files[:2]
        raise InputError(
            f"dataset: no gene is in all {len(files)} files ({one} has {shortlist(first[:3])}, "
            f"{other} {shortlist(second[:3])}); expected gene symbols in each, set gene_column of "
            "the files that have them in a column"
        )
    return common
