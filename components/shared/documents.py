"""JSON files that may be damaged, of another shape, or far larger than usual."""

import json
from pathlib import Path
from typing import Any

from components.shared.errors import InputError

LARGEST_JSON = 2**28
"""Bytes of a JSON file; a vocabulary has one or two million."""


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
