"""Parquet tables of tasks that may be damaged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.shared.storage.parquet import read_parquet
from components.shared.telling.errors import InputError


def test_a_text_that_is_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    parts = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"cell": pa.Array.from_buffers(pa.string(), 1, parts)}), path)
    with pytest.raises(InputError, match=r"^splits: not readable as parquet .*; split again$"):
        read_parquet(path, ("cell",), "splits", "split again")
