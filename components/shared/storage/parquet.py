"""Parquet tables that may be damaged, of another shape, or far larger than usual."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.storage.documents import said
from components.shared.storage.text_columns import is_text
from components.shared.telling.errors import InputError, refusing

MOST_ROWS = 20_000_000
"""Rows of a parquet table of strangers: a column of one value takes next to no room in a file."""
MOST_FIELDS = 2**31
"""Fields of one."""
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


def whole_parquet(path: Path, name: str, hint: str) -> pa.Table:
    """Return all of a parquet table, as `opened_parquet`."""
    with refusing(PARQUET_FAULTS, f"{name}: not readable as parquet", f"; {hint}", said):
        return opened_parquet(path, name, hint=hint).read()


def read_parquet(path: Path, columns: tuple[str, ...], name: str, hint: str) -> Any:
    """Return a parquet table of a task's as a data frame, in which ``columns`` hold text.

    Raises:
        InputError: missing, damaged, too large, or without one of ``columns``, which are of text.
    """
    with refusing(PARQUET_FAULTS, f"{name}: not readable as parquet", f"; {hint}", said):
        table = whole_parquet(path, name, hint).to_pandas()
    for column in columns:
        if column not in table:
            raise InputError(f"{name}: has no column '{column}'; {hint}")
        if not is_text(table[column]):
            raise InputError(f"{name}: column '{column}' is not text in every row; {hint}")
    return table
