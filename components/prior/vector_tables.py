"""Tables of gene vectors in the file formats they come in, read in blocks of genes.

Nothing in a file is executed: a `.pt` is read with `weights_only=True`, an `.npz` without pickles.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from components.shared.storage.documents import kind_and_said
from components.shared.storage.parquet import (
    PARQUET_FAULTS,
    check_number_columns,
    is_text_type,
    opened_parquet,
    read_numbers,
)
from components.shared.telling.errors import InputError, refusing

Block = NDArray[np.generic]
"""Vectors of the next genes, [genes, width]."""

BLOCK_GENES = 1024

# What the readers raise on damaged files, tried with thousands of them.
NPZ_FAULTS = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Table:
    """An opened table: its genes, their vectors in the same order, and the licence it names."""

    genes: list[str]
    blocks: Iterable[Block]
    licence: str = ""


def _vector(gene: str, values: Any, name: str) -> NDArray[np.generic]:
    """Return the vector of one gene as a block [1, width], width > 0."""
    array = _numbers(values, f"{name}: gene '{gene}'")
    if array.ndim != 1 or not array.size:
        raise InputError(
            f"{name}: gene '{gene}' has shape {list(array.shape)}; expected one vector per gene"
        )
    return array[None]


def _numbers(values: Any, where: str) -> NDArray[np.generic]:
    """Return a tensor or array as real numbers numpy knows (bfloat16 becomes float32)."""
    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.layout != torch.strided or values.device.type == "meta":
            raise InputError(f"{where} is a {values.dtype} tensor; expected plain real numbers")
        values = values.detach()
        with refusing((RuntimeError, TypeError), f"{where} cannot be read as numbers"):
            # Quantised and other kinds have no numbers.
            values = (values.float() if values.is_floating_point() else values).numpy()
    if values.dtype.kind not in "fiub":
        raise InputError(f"{where} is of type {values.dtype}; expected numbers")
    return values


def _matrix(genes: list[str], shape: tuple[int, ...], name: str, where: str) -> None:
    """Check the shape of a matrix against its gene names."""
    if len(shape) != 2 or not shape[1] or shape[0] != len(genes):
        raise InputError(
            f"{name}: {where} has shape {list(shape)} for {len(genes)} gene names; expected "
            "[genes, width]"
        )


def _blocks(genes: list[str], rows: Any, name: str) -> Iterator[Block]:
    """Cut a matrix [genes, width], in memory or in a safetensors file, into blocks of rows."""
    for start in range(0, len(genes), BLOCK_GENES):
        stop = start + BLOCK_GENES
        yield _numbers(rows[start:stop], f"{name}: the table")


def _safetensors(path: Path, name: str) -> Table:
    with refusing((SafetensorError, OSError), f"{name}: not readable as safetensors"):
        file = safe_open(str(path), framework="pt")
    metadata = file.metadata() or {}
    licence = metadata.get("license", metadata.get("licence", ""))
    keys = list(file.keys())
    if "genes" not in metadata:
        vectors = (_vector(key, file.get_tensor(key), name) for key in keys)
        return Table(keys, vectors, licence)
    genes = _gene_list(metadata["genes"], name)
    if len(keys) != 1:
        raise InputError(
            f"{name}: names genes in its metadata but has {len(keys)} tensors; expected one "
            "[genes, width]"
        )
    rows = file.get_slice(keys[0])
    _matrix(genes, tuple(rows.get_shape()), name, f"tensor '{keys[0]}'")
    return Table(genes, _blocks(genes, rows, name), licence)


def _gene_list(text: str, name: str) -> list[str]:
    try:
        genes = json.loads(text)
    except (ValueError, RecursionError):
        genes = None
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise InputError(f"{name}: metadata key 'genes' is not a JSON list of gene symbols")
    return genes


def _npz(path: Path, name: str) -> Table:
    with refusing(NPZ_FAULTS, f"{name}: not readable as npz"):
        file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise InputError(f"{name}: is a single array; expected an npz with genes and embeddings")
    if {"genes", "embeddings"} <= set(file.files):
        genes = _array(file, "genes", name)
        if genes.dtype.kind != "U" or genes.ndim != 1:
            raise InputError(
                f"{name}: array 'genes' is {genes.dtype} {list(genes.shape)}; expected symbols [n]"
            )
        rows = _numbers(_array(file, "embeddings", name), f"{name}: array 'embeddings'")
        symbols = [str(gene) for gene in genes]
        _matrix(symbols, rows.shape, name, "array 'embeddings'")
        return Table(symbols, _blocks(symbols, rows, name))
    vectors = (_vector(key, _array(file, key, name), name) for key in file.files)
    return Table(list(file.files), vectors)


def _array(file: Any, key: str, name: str) -> NDArray[np.generic]:
    with refusing(NPZ_FAULTS, f"{name}: array '{key}' cannot be read"):
        return np.asarray(file[key])


def _parquet(path: Path, name: str) -> Table:
    file = opened_parquet(path, name)
    schema = file.schema_arrow
    metadata = schema.metadata or {}
    licence = metadata.get(b"license", metadata.get(b"licence", b"")).decode("utf-8", "replace")
    index = _index_columns(metadata)
    text = [field.name for field in schema if is_text_type(field.type)]
    symbols = next((column for column in [*index, *schema.names] if column in text), None)
    if symbols is None:
        raise InputError(f"{name}: has no column of gene symbols; expected one column of strings")
    columns = [column for column in schema.names if column != symbols and column not in index]
    of = f"numbers in every column but '{symbols}', the gene symbols"
    check_number_columns(schema, columns, name, of)
    with refusing(PARQUET_FAULTS, f"{name}: damaged parquet"):
        genes: list[str] = file.read([symbols]).column(symbols).to_pylist()
    if None in genes:
        raise InputError(f"{name}: column '{symbols}' has an empty gene symbol")
    return Table(genes, _parquet_blocks(file, genes, columns, name), licence)


def _index_columns(metadata: dict[bytes, bytes]) -> list[str]:
    """Return the columns that pandas wrote as index; they are never part of a vector."""
    try:
        columns = json.loads(metadata.get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError, RecursionError):
        return []
    return [c for c in columns if isinstance(c, str)] if isinstance(columns, list) else []


def _parquet_blocks(
    file: pq.ParquetFile, genes: list[str], columns: list[str], name: str
) -> Iterator[Block]:
    with refusing(PARQUET_FAULTS, f"{name}: damaged parquet"):
        rows = read_numbers(file, columns)
    yield from _blocks(genes, rows, name)


def _pt(path: Path, name: str) -> Table:
    hint = "; expected a dict of gene symbol to tensor"
    refused = f"{name}: refused by torch.load(weights_only=True), nothing in it was executed"
    # Whatever a damaged or hostile file makes the loader stumble on.
    with refusing(Exception, refused, hint, kind_and_said):
        # Mapped, so that vectors are read from the file as they are copied into the result.
        table = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    if not isinstance(table, dict):
        raise InputError(f"{name}: holds a {type(table).__name__}{hint}")
    for gene, vector in table.items():
        if not isinstance(gene, str) or not isinstance(vector, torch.Tensor):
            raise InputError(
                f"{name}: entry {gene!r:.60} is a {type(vector).__name__}; expected gene symbol to "
                "tensor"
            )
    vectors = (_vector(gene, vector, name) for gene, vector in table.items())
    return Table(list(table), vectors)


READERS: dict[str, Callable[[Path, str], Table]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".parquet": _parquet,
    ".pt": _pt,
}
"""Reader by file ending: opens the table at a path, which messages call by a name. Its blocks may
be refused later."""
