"""JSON and text files; those that are read may be damaged, of another shape, or far too large."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.telling.errors import InputError, refusing

LARGEST_JSON = 2**28
"""Bytes of a JSON file; a vocabulary has one or two million."""
LARGEST_TEXT = 2**26
"""Bytes of a text that people write; a list of all pairs that screens have tried has a million."""

Shape = Any
"""What a part of a document has to be: a type; several, of which None is null; ``[shape]``, a list
of such; ``{str: shape}``, an object of such; or an object of names and shapes, of which one may be
missing whose name ends in ``?``. What an object has beside those is not looked at."""
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    None: "null",
    object: "anything",
}


def read_text(path: Path, name: str, hint: str) -> str:
    """Return a text that people write, as UTF-8; ``name`` and ``hint`` are for messages.

    One that is too large, as a file of cells that was given in its place, is refused.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise InputError(f"{name}: is larger than {LARGEST_TEXT / 2**20:.0f} MiB; {hint}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not text; {hint}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8 whatever this machine's own encoding is."""
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file.

    Raises:
        ValueError: a number that is not finite, which JSON does not have.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, name: str, hint: str, shape: Shape = None) -> dict[str, Any]:
    """Return the object in a JSON file; ``name`` and ``hint`` are for messages.

    One that is too large, nested without end or not of the ``shape`` (None = any) is refused.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{name}: is larger than {LARGEST_JSON / 2**20:.0f} MiB; {hint}")
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; {hint}") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; {hint}") from None
    found = json_object(text, name, hint)
    if shape is not None:
        check_shape(found, shape, name, hint)
    return found


def json_object(text: bytes | str, name: str, hint: str) -> dict[str, Any]:
    """Return the object that a JSON text holds; messages call the text ``name``.

    Raises:
        InputError: not JSON, nested without end, or no object.
    """
    with refusing((ValueError, RecursionError), f"{name}: not JSON", f"; {hint}"):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise InputError(f"{name}: is not a JSON object; {hint}")
    return found


def check_shape(found: Any, shape: Shape, name: str, hint: str) -> None:
    """Check that a document is of the shape that its reader needs."""
    if odd := _odd(found, shape, ""):
        at, wanted, part = odd
        said = "is missing" if part is _MISSING else f"is {json.dumps(part):.60}"
        raise InputError(f"{name}: {at[:120] or 'it'} {said}; expected {wanted}, {hint}")


_MISSING = object()


def _odd(found: Any, shape: Shape, at: str) -> tuple[str, str, Any] | None:
    """Return the first part that is not of its shape: where it is, what was expected, the part."""
    if isinstance(shape, list):
        if not isinstance(found, list):
            return at, "a list", found
        parts = ((each, shape[0], f"{at}[{number}]") for number, each in enumerate(found))
        return next(filter(None, (_odd(*part) for part in parts)), None)
    if isinstance(shape, dict):
        if not isinstance(found, dict):
            return at, "an object", found
        parts = (
            (each, inner, f"{at}.{key}".lstrip(".")) for key, each, inner in _entries(found, shape)
        )
        return next(filter(None, (_odd(*part) for part in parts)), None)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if object in kinds and found is not _MISSING:
        return None
    # To Python true is a whole number; a whole number is a number.
    kind = None if found is None else type(found)
    if kind in kinds or (kind is int and float in kinds):
        return None
    return at, " or ".join(WORDS[kind] for kind in kinds), found


def _entries(found: dict[str, Any], shape: dict[Any, Shape]) -> Iterator[tuple[str, Any, Shape]]:
    for key, inner in shape.items():
        if key is str:
            yield from ((name, each, inner) for name, each in found.items())
        elif not key.endswith("?"):
            yield key, found.get(key, _MISSING), inner
        elif key[:-1] in found:
            yield key[:-1], found[key[:-1]], inner


def said(error: BaseException) -> str:
    """Return the first line of what a library says, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def kind_and_said(error: BaseException) -> str:
    """Return the kind of an error too, of a library that stumbles on a damaged file anywhere."""
    return f"{type(error).__name__}: {said(error)}"
