"""Names that belong to the tensors of a safetensors file, and what a damaged one raises."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError

NAMES = "names"
"""Key of a file's metadata."""
FAULTS = (
    SafetensorError,
    RecursionError,
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)
"""Errors that reading a table of another shape raises."""


def as_metadata(names: Mapping[str, Any]) -> dict[str, str]:
    """Return names as the metadata of a safetensors file.

    Under one key: safetensors writes several in an order that differs from process to process.
    """
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
