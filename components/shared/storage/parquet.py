"""Parquet tables that may be damaged, of another shape, or far larger than usual."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.shared.storage.documents import said
from components.shared.storage.text_columns import is_text
from components.shared.telling.errors import InputError, refusing

MOST_ROWS = 20_000_000
"""Rows of a parquet table of strangers: a column of one value takes next to no room in a file."""
MOST_FIELDS = 2**31
"""Fields of one."""
BLOCK_COLUMNS = 256
PARQUET_FAULTS = (pa.ArrowException, OSError, ValueError)
"""Errors that pyarrow raises for a damaged parquet file."""


def opened_parquet(
    path: Path, name: str, kind: str = "parquet", hint: str = "download or write it again"
) -> pq.ParquetFile:
    """Return an opened parquet table; messages call it ``name`` and its form ``kind``.

    Raises:
        InputError: damaged, or larger than any table that is of use here.
    """
    with refusing(PARQUET_FAULTS, f"{name}: not readable as {kind}", f"; {hint}", said):
        file = pq.ParquetFile(path)
    rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if rows > MOST_ROWS or rows * columns > MOST_FIELDS:
        raise InputError(
            f"{name}: says it has {rows:,} rows of {columns:,} columns; expected at most "
            f"{MOST_ROWS:,} rows and {MOST_FIELDS:,} fields, give a smaller table"
        )
    return file


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text, be it of categories."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_number_columns(schema: pa.Schema, columns: Collection[str], name: str, of: str) -> None:
    """Check that no column comes twice and that there are ``columns``, all of numbers.

    What pandas numbers itself may come twice. Messages say that numbers are expected ``of`` what
    they are.
    """
    named = Counter(name for name in schema.names if not name.startswith("__index_level_"))
    if twice := [column for column, n in named.items() if n > 1]:
        raise InputError(
            f"{name}: column '{twice[0]}' comes more than once; give each its own name"
        )
    for column in columns:
        kind = schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InputError(f"{name}: column '{column}' is {kind}; expected {of}")
    if not columns:
        raise InputError(f"{name}: has no column of numbers; expected {of}")


def read_numbers(file: pq.ParquetFile, columns: Sequence[str]) -> NDArray[np.float32]:
    """Read columns of numbers, [rows, columns]; a missing one is NaN."""
    rows = np.empty((file.metadata.num_rows, len(columns)), dtype=np.float32)
    # Some columns at a time: Arrow's buffers for thousands take several times the table.
    for start in range(0, len(columns), BLOCK_COLUMNS):
        part = columns[start : start + BLOCK_COLUMNS]
        read = file.read(part)
        for i, column in enumerate(part, start):
            with np.errstate(over="ignore"):
                rows[:, i] = read.column(column).to_numpy()
    return rows


def read_parquet(path: Path, columns: tuple[str, ...], name: str, hint: str) -> Any:
    """Return a parquet table of a task's as a data frame, in which ``columns`` hold text.

    Raises:
        InputError: missing, damaged, too large, or without one of ``columns``, which are of text.
    """
    with refusing(PARQUET_FAULTS, f"{name}: not readable as parquet", f"; {hint}", said):
        table = opened_parquet(path, name, hint=hint).read().to_pandas()
    for column in columns:
        if column not in table:
            raise InputError(f"{name}: has no column '{column}'; {hint}")
        if not is_text(table[column]):
            raise InputError(f"{name}: column '{column}' is not text in every row; {hint}")
    return table
