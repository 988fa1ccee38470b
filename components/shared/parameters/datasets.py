"""The parameter `dataset`: one file of cells, or a list of them, each with options of its own.

A list is JSON, since the parameter is text: ``["a.h5ad", {"file": "b.h5ad", "layer": "counts"}]``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.shared.telling.errors import InputError, refusing

FILE = "file"
EXPECTED = (
    'expected one path or URI, or a list, as in ["a.h5ad", {"file": "b.h5ad", '
    '"cell_line_column": "=rpe1"}]'
)


def is_list(dataset: str) -> bool:
    """Return whether a `dataset` is a list of files."""
    return dataset.lstrip().startswith("[")


def entries(dataset: str | Sequence[Any]) -> list[dict[str, Any]]:
    """Return one dict per file: its path or URI under ``file``, and its own options."""
    if isinstance(dataset, str):
        if not is_list(dataset):
            return [{FILE: dataset}]
        with refusing((ValueError, RecursionError), "dataset: not JSON", f"; {EXPECTED}"):
            dataset = json.loads(dataset)
    if not dataset:
        raise InputError(f"dataset: the list is empty; {EXPECTED}")
    return [_entry(entry) for entry in dataset]


def _entry(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {FILE: entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get(FILE), str):
        raise InputError(f"dataset: {str(entry)[:60]!r} in the list names no file; {EXPECTED}")
    return dict(entry)


def files(dataset: str | Sequence[Any]) -> list[str]:
    """Return the paths and URIs of a `dataset`."""
    return [entry[FILE] for entry in entries(dataset)]


def with_files(dataset: str, change: Callable[[str], str]) -> str:
    """Return a `dataset` whose paths and URIs are ``change``d."""
    if not is_list(dataset):
        return change(dataset)
    return as_text([{**entry, FILE: change(entry[FILE])} for entry in entries(dataset)])


def as_text(dataset: str | Sequence[Any]) -> str:
    """Return a `dataset` as the text of the parameter."""
    if isinstance(dataset, str):
        return dataset
    short = [entry[FILE] if len(entry) == 1 else entry for entry in entries(dataset)]
    return json.dumps(short)
