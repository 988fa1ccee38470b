"""Which matrix of a file is read, and how its genes are named: X, a layer or .raw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata._io.specs.registry import IORegistryError
from anndata.utils import make_index_unique

from components.shared.reading.names import is_missing
from components.shared.telling.errors import InputError, nearest, shortlist

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


def matrix_of(file: Mapping[str, Any], layer: str, name: str) -> Matrix:
    """Return where the matrix is that ``layer`` names: empty = X, a layer's name, or raw.

    Raises:
        InputError: the file has no such matrix; says which it has.
    """
    layers = list(file.get("layers", ()))
    if not layer:
        return Matrix("X")
    if layer in layers:
        return Matrix(f"layers/{layer}", said=f"layer '{layer}'")
    if layer == RAW and "raw/X" in file:
        return Matrix("raw/X", "raw/var", said=".raw")
    raise InputError(
        f"{name}: there is no layer '{layer}'{nearest(layer, [*layers, RAW])}; "
        f"{other_matrices(file, '') or 'the file has X alone, leave layer empty'}"
    )


def other_matrices(file: Mapping[str, Any], layer: str) -> str:
    """Say which matrices a file has beside the one that is read; empty if it has no other."""
    layers = [name for name in file.get("layers", ()) if name != layer]
    parts = [f"layers {shortlist(layers)}"] if layers else []
    if "raw/X" in file and layer != RAW:
        parts.append(".raw")
    if not parts:
        return ""
    first = layers[0] if layers else RAW
    return (
        f"the file also has {' and '.join(parts)}: set the ingest option layer, as in "
        f"layer: {first}"
    )


def columns_of(var: Any) -> list[str]:
    """Return the names of the columns of a table as anndata writes it."""
    return [str(column) for column in np.atleast_1d(var.attrs.get("column-order", ()))]


def symbol_columns(var: Any) -> list[str]:
    """Return the columns of a table of genes whose name says that they hold gene symbols."""
    columns = columns_of(var)
    return sorted(
        (name for name in columns if name.casefold() in SYMBOLS),
        key=lambda name: SYMBOLS.index(name.casefold()),
    )


def plain(values: Any) -> Any:
    """Return an array of zarr's own text as one of objects, which pandas takes; others as is."""
    return values.astype(object) if getattr(values.dtype, "kind", "") == "T" else values


def read_part(part: Any) -> Any:
    """Return a column as anndata reads it.

    Raises:
        ValueError: it is not stored as it says; h5py and anndata raise others of `DAMAGE`.
    """
    lists = isinstance(part, h5py.Dataset) and h5py.check_vlen_dtype(part.dtype) is not None
    if lists and h5py.check_string_dtype(part.dtype) is None:
        raise ValueError("its entries are lists")
    try:
        return anndata.io.read_elem(part)
    except IORegistryError as error:
        raise ValueError(str(error)) from None


def names_in(table: Any) -> "pd.Index[str]":
    """Return the index of a table as anndata writes it, as text.

    Raises:
        ValueError: it is no list of names; see `read_part` too.
    """
    values = np.asarray(plain(read_part(table[table.attrs["_index"]])))
    if values.ndim != 1:
        raise ValueError(f"the index has the shape {values.shape}")
    return pd.Index(values.astype(str), dtype=object)


def symbols_in(var: Any, column: str, name: str) -> tuple["pd.Index[str]", dict[str, int]]:
    """Return the gene symbols in a column of ``var``, each once, and how many were mended.

    A gene without a symbol keeps its name in the index; one that bears the symbol of a gene before
    it gets a number, as anndata's `var_names_make_unique` gives it.
    """
    columns = columns_of(var)
    if column not in columns:
        raise InputError(
            f"{name}: var has no column '{column}'{nearest(column, columns)} "
            f"(columns: {shortlist(columns, 12) or 'none'}); set gene_column"
        )
    index = names_in(var)
    found = pd.Series(plain(read_part(var[column])), dtype=object)
    said = found.astype(str).str.strip()
    missing = (found.isna() | said.map(is_missing)).to_numpy(bool)
    symbols = pd.Index(np.where(missing, index, said), dtype=object)
    facts = {
        "genes_without_symbol": int(missing.sum()),
        "genes_numbered": int(symbols.duplicated().sum()),
    }
    return (make_index_unique(symbols) if facts["genes_numbered"] else symbols), facts


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
