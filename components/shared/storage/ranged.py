"""Files of a store read in part: what h5py asks for of a remote file, and no more.

HDF5 reads a few bytes here and there; they are fetched in blocks, the last ones kept.
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fsspec.spec import AbstractBufferedFile

from components.shared.storage import buckets
from components.shared.storage.downloads import shown
from components.shared.storage.files import SHA256, local_path
from components.shared.storage.objects import split_uri
from components.shared.telling.addresses import LOCAL, scheme_of
from components.shared.telling.errors import InputError

BLOCK = 2**20
"""Bytes of one request: tables lie scattered over a file."""
BLOCKS = 64
"""Blocks that are kept, 64 MiB."""
SECONDS = 60.0
"""How long a file is read in part; what takes longer is not worth it beside a download."""

Fetch = Callable[[int, int], bytes]
"""Bytes of a file from a start up to an end."""


class UnreadError(Exception):
    """A file cannot be read in part; its text says why."""


class Ranged(AbstractBufferedFile):  # type: ignore[misc]
    """A remote file opened for reading, as h5py takes it."""

    def __init__(self, size: int, fetch: Fetch, seconds: float = SECONDS) -> None:
        self._fetch, self._seconds, self._ends = fetch, seconds, time.monotonic() + seconds
        kept = {"maxblocks": BLOCKS}
        super().__init__(
            None, "", block_size=BLOCK, cache_type="blockcache", cache_options=kept, size=size
        )
        self.fault = ""
        """Why a piece did not come, which HDF5 only calls a damaged file; empty = all came."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            if time.monotonic() > self._ends:
                raise UnreadError(f"it takes longer than {self._seconds:g} s")
            piece = self._fetch(start, end)
            if len(piece) != end - start:
                raise UnreadError("a piece of it was cut short")
        except (UnreadError, InputError, OSError) as error:
            self.fault = self.fault or str(error)
            raise OSError(self.fault) from None
        return piece


@contextmanager
def opened_in_part(uri: str) -> Iterator[Path | Ranged]:
    """Yield the path of a local file, or a remote one that is fetched where it is read.

    It is an `UnreadError` that a store does not give parts of it, or cannot be reached.
    """
    bare, scheme = uri.partition(SHA256)[0], scheme_of(uri)
    if scheme in LOCAL:
        yield local_path(bare)
        return
    try:
        size, fetch = _remote(scheme, bare)
    except (InputError, OSError) as error:
        raise UnreadError(str(error)) from None
    with Ranged(size, fetch) as file:
        yield file


def _remote(scheme: str, uri: str) -> tuple[int, Fetch]:
    if scheme in buckets.SCHEMES:
        return _of_bucket(uri)
    # The client libraries take seconds to import; only the one that is needed is.
    if scheme == "hf":
        from components.shared.storage import hf as storage_hf

        return storage_hf.in_part(uri)
    if scheme in ("http", "https"):
        from components.shared.storage import http as storage_http

        return storage_http.in_part(uri)
    raise UnreadError(f"{shown(uri)}: a file of this kind is not read in part")


def _of_bucket(uri: str) -> tuple[int, Fetch]:
    bucket = buckets.open_bucket(uri)
    with bucket.errors(uri):
        source = bucket.source(split_uri(uri)[1])

    def fetch(start: int, end: int) -> bytes:
        piece = io.BytesIO()
        with bucket.errors(uri):
            source.fetch(cast(BinaryIO, piece), start, end - start)
        return piece.getvalue()

    return source.size, fetch
