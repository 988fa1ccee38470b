"""A bucket and its objects, whichever store they are in."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError


class Stored(NamedTuple):
    """An object that is in a bucket."""

    name: str
    version: str
    """Its version: the generation in Cloud Storage, the ETag in S3."""


class GoneError(InputError):
    """The requested version of an object is no longer there."""


class Source(Protocol):
    """One version of an object, to be downloaded in chunks."""

    uri: str
    size: int

    @property
    def version(self) -> Mapping[str, str]:
        """Fields other than `uri` that must be equal for chunks to belong together."""

    def fetch(self, file: BinaryIO, start: int, size: int) -> None:
        """Write so many bytes from ``start`` on where ``file`` stands."""

    def damage(self, path: Path) -> str:
        """Return in which digest a whole file differs from the object, or an empty string."""


class Bucket(Protocol):
    """A bucket; `errors` goes around every use of it."""

    uri: str
    """``<scheme>://<bucket>``"""

    def errors(self, where: str) -> AbstractContextManager[None]:
        """Turn what the client library raises into one line; ``where`` holds a bucket's URI."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every object whose name begins so; fails where there is no bucket."""

    def source(self, name: str) -> Source:
        """Return the object as it is now; InputError where there is none, naming the nearest."""

    def read(self, name: str, path: Path) -> None:
        """Download an object whose digest the caller knows; FileNotFoundError if there is none."""

    def upload(self, path: Path, name: str) -> Stored | None:
        """Upload a file as a new object, never replacing another, and check what arrived.

        None = the very same content was there already: what a transfer that was killed left behind.
        Other content is refused, and what arrived damaged is deleted.
        """

    def delete(self, stored: Stored) -> None:
        """Delete this very version of an object, if it is still there."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and object (or prefix) of a URI, or of a text that ends in one."""
    scheme, _, rest = uri.partition("://")
    bucket, _, name = rest.partition("/")
    if not bucket:
        raise InputError(
            f"{shown(uri)}: names no bucket; expected {scheme.split()[-1]}://bucket/object"
        )
    return bucket, name
