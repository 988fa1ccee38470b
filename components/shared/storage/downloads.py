"""Helpers of all storage backends: safe names, text without secrets, progress."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from components.shared.storage.digests import sha256_of
from components.shared.telling.addresses import shown as shown
from components.shared.telling.addresses import without_secrets
from components.shared.telling.errors import InputError
from components.shared.telling.progress import bar

BIG = 32 * 2**20
"""Bytes from which on a transfer shows its progress."""


def local_name(path: str, uri: str) -> str:
    """Return the last part of a remote path as a local name, one that does not lead elsewhere.

    Raises:
        InputError: the path has no last part, or one that would lead elsewhere.
    """
    name = unquote(PurePosixPath(path).name) if not path.endswith("/") else ""
    if name in ("", ".", "..") or any(bad in name for bad in "/\\\0"):
        raise InputError(f"{shown(uri)}: names no file; expected a URI that ends in a file name")
    return name


def check_remote_path(path: str, uri: str) -> None:
    """Check that no part of a remote path is empty or leads upwards."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(
            f"{shown(uri)}: its path has an empty part, '.' or '..'; give a plain path"
        )


def reason(error: BaseException) -> str:
    """Say why a library failed without its own text, which may hold a URL with its secrets."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and isinstance(seen.strerror, str) and seen.strerror:
            return seen.strerror.lower()
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        wrapped = getattr(inner, "reason", None) or inner
        cause = seen.__cause__ or seen.__context__
        seen = wrapped if isinstance(wrapped, BaseException) else cause
    return type(error).__name__


def part_of(target: Path) -> tuple[Path, Path]:
    """Return where a download to ``target`` grows, and where the notes about it are."""
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def discard(target: Path) -> None:
    """Remove a download, finished or not, and the notes about it."""
    for path in (target, *part_of(target)):
        path.unlink(missing_ok=True)


def check_space(folder: Path, needed: int, uri: str) -> None:
    """Check that ``needed`` bytes fit into ``folder`` before they are downloaded."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{shown(uri)}: needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; "
            "make room there, or set TMPDIR to a folder that has it"
        )


def check_writable(folder: Path, what: str, hint: str = "") -> None:
    """Make a folder and check that it can be written to, else say ``what`` it is not, and why."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{what} ({error.strerror}){hint}") from None


@contextmanager
def watching(total: int | None, what: str, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with each number of bytes moved; big transfers show a bar."""
    if total is None or total < BIG:
        yield lambda size: None
        return
    with bar(total=total, what=without_secrets(what), unit="B") as progress:
        progress.initial = progress.n = done
        yield progress.update


def check_sha256(path: Path, expected: str, uri: str) -> None:
    """Check the sha256 of a file."""
    found = sha256_of(path)
    if found != expected:
        raise InputError(
            f"{shown(uri)}: sha256 is {found}, expected {expected}; the file is another version "
            "or damaged"
        )
