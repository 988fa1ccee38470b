"""Names that belong to the tensors of a safetensors file, and what a damaged one raises.

safetensors writes several metadata keys in an order that differs from process to process. A file of
ours has one key (`as_metadata`), or is put in order (`order_metadata`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

NAMES = "names"
"""Key of a file's metadata."""
FAULTS = (SafetensorError, RecursionError, OSError, KeyError, ValueError, TypeError, AttributeError)
"""Errors that reading a table of another shape raises."""


def as_metadata(names: Mapping[str, Any]) -> dict[str, str]:
    """Return names as the metadata of a safetensors file, under one key."""
    return {NAMES: json.dumps(names)}


def of_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the names that a safetensors file's metadata holds, in the older form too.

    Raises:
        ValueError: they are not JSON.
    """
    if NAMES in metadata:
        found = json.loads(metadata[NAMES])
        if not isinstance(found, dict):
            raise ValueError("the names are not a JSON object")
        return found
    return {key: json.loads(value) for key, value in metadata.items()}


def read_named(path: Path, *lists: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the names and the tensors of a file, of which ``lists`` are to be lists of texts.

    Raises:
        ValueError: one of them is not; a damaged file raises others of `FAULTS`.
    """
    with safe_open(str(path), framework="numpy") as file:
        names = of_metadata(file.metadata())
        for key in lists:
            found = names.get(key)
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise ValueError(f"'{key}' is not a list of names")
        return names, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def order_metadata(path: Path) -> None:
    """Sort the metadata keys of a safetensors file, so that equal tables are equal bytes.

    Only the order in the header changes, not its size, so the tensors stay where they are.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        file.seek(8)
        file.write(text.ljust(size))
