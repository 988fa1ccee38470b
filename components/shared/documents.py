"""JSON files and parquet tables that may be damaged, of another shape, or far larger than usual."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import InputError

LARGEST_JSON = 2**28
"""Bytes of a JSON file; a vocabulary has one or two million."""
MOST_ROWS = 20_000_000
"""Rows of a parquet table of strangers: a column of one value takes next to no room in a file."""
MOST_FIELDS = 2**31
"""Fields of one."""
PARQUET_FAULTS = (pa.ArrowException, OSError, ValueError)
"""What a damaged parquet file makes pyarrow raise."""


def read_json(path: Path, name: str, hint: str) -> dict[str, Any]:
    """Return the object in a JSON file; messages call it ``name``.

    Args:
        path: the file.
        name: for messages.
        hint: for messages, what was expected, or what to do.

    Raises:
        InputError: missing, too large, not JSON, nested without end, or no object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{name}: is larger than {LARGEST_JSON / 2**20:.0f} MiB; {hint}")
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; {hint}") from None
    return json_object(text, name, hint)


def json_object(text: bytes | str, name: str, hint: str) -> dict[str, Any]:
    """Return the object that a JSON text holds; messages call the text ``name``.

    Raises:
        InputError: not JSON, nested without end, or no object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not JSON ({error}); {hint}") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: is no JSON object; {hint}")
    return found


def opened_parquet(path: Path, name: str, kind: str = "parquet") -> pq.ParquetFile:
    """Return an opened parquet table; messages call it ``name`` and its form ``kind``.

    Raises:
        InputError: damaged, or larger than any table that is of use here.
    """
    try:
        file = pq.ParquetFile(path)
    except PARQUET_FAULTS as error:
        raise InputError(f"{name}: not readable as {kind} ({said(error)})") from None
    rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if rows > MOST_ROWS or rows * columns > MOST_FIELDS:
        raise InputError(
            f"{name}: says it has {rows:,} rows of {columns:,} columns; expected at most "
            f"{MOST_ROWS:,} rows and {MOST_FIELDS:,} fields, give a smaller table"
        )
    return file


def read_parquet(path: Path, columns: tuple[str, ...], name: str, hint: str) -> Any:
    """Return a parquet table of a task's as a data frame; messages call it ``name``.

    Raises:
        InputError: missing, damaged, too large, or without one of ``columns``.
    """
    try:
        table = opened_parquet(path, name).read().to_pandas()
    except PARQUET_FAULTS as error:
        raise InputError(f"{name}: not readable as parquet ({said(error)}); {hint}") from None
    for column in columns:
        if column not in table:
            raise InputError(f"{name}: has no column '{column}'; {hint}")
    return table


def check_names(names: dict[str, Any], *lists: str) -> None:
    """Check that some entries of a document are lists of texts.

    Raises:
        ValueError: one is not.
    """
    for key in lists:
        found = names.get(key)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ValueError(f"'{key}' is no list of names")


def said(error: BaseException) -> str:
    """Return the first line of what a library says, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
