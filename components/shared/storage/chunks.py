"""Downloads of objects in chunks, several at a time; one that was cut off resumes.

The client libraries' own parallel downloads cannot: they empty their file first and keep no record
of the chunks that came.
"""

import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from components.shared.storage.buckets import open_bucket
from components.shared.storage.downloads import check_space, local_name, part_of, watching
from components.shared.storage.objects import Bucket, GoneError, Source, split_uri
from components.shared.telling.errors import InputError

CHUNK = 8 * 2**20
"""Bytes of one request; WORKERS times as many are held in memory."""
WORKERS = 8
"""Chunks on their way at a time; the clients' connection pools hold ten."""


def download(uri: str, folder: Path) -> Path:
    """Download one object into ``folder`` under the last part of its name.

    A part that an earlier call left there is resumed if it is of the same version; a file that has
    the size and the digest of the object stays. A digest that does not match is refused.
    """
    target = folder / local_name(split_uri(uri)[1], uri)
    bucket = open_bucket(uri)
    with bucket.errors(uri):
        source = bucket.source(split_uri(uri)[1])
        if target.is_file() and target.stat().st_size == source.size and not source.damage(target):
            return target  # an earlier call downloaded this very content
    part = _Part(source, target)
    check_space(folder, source.size - part.size, uri)
    part.begin()
    try:
        _fetch_missing(bucket, source, part)
    except GoneError:
        part.remove()  # what came of a version that is no longer there is of no use
        raise
    except InputError as error:
        if not part.size:
            part.remove()
            raise
        raise InputError(
            f"{error}; {part.size} of {source.size} bytes are kept; run it again to resume"
        ) from None
    with bucket.errors(uri):
        damage = source.damage(part.path)
    if damage:
        part.remove()
        raise InputError(f"{uri}: {damage}; the transfer was damaged, run it again")
    part.finish(target)
    return target


class _Part:
    """The chunks of one version of an object that are here.

    The notes beside the part (JSON lines) say of which version it is, then where each chunk that
    came begins. They are only added to, so that a kill at any time leaves them usable.
    """

    def __init__(self, source: Source, target: Path) -> None:
        self.path, self.notes = part_of(target)
        self.total = source.size
        self.head = json.dumps({"of": source.uri, **source.version, "chunk": CHUNK})
        self.done = self._noted()
        if not self.done:
            self.remove()

    def _noted(self) -> set[int]:
        try:
            if self.path.stat().st_size != self.total:
                return set()
            head, *starts, torn = self.notes.read_text().split("\n")
            return {int(start) for start in starts} if head == self.head and not torn else set()
        except (OSError, ValueError):
            return set()

    def begin(self) -> None:
        """Make the file at its full size, if there is none to resume."""
        if not self.done:
            with self.path.open("wb") as file:
                file.truncate(self.total)
            self.notes.write_text(self.head + "\n")

    def chunk(self, start: int) -> int:
        """Return the bytes of the chunk that begins at ``start``."""
        return min(CHUNK, self.total - start)

    @property
    def missing(self) -> list[int]:
        """Where each chunk that is not here begins."""
        return [start for start in range(0, self.total, CHUNK) if start not in self.done]

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return sum(self.chunk(start) for start in self.done)

    def note(self, start: int) -> None:
        """Note that a chunk is here; each line is one write, so several threads may."""
        with self.notes.open("a") as file:
            file.write(f"{start}\n")
        self.done.add(start)

    def remove(self) -> None:
        """Throw away what is here."""
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.done.clear()

    def finish(self, target: Path) -> None:
        """Give the whole file its name."""
        self.path.replace(target)
        self.notes.unlink()


def _fetch_missing(bucket: Bucket, source: Source, part: _Part) -> None:
    what = f"downloading {source.uri.rpartition('/')[2]}"
    with (
        bucket.errors(source.uri),
        watching(part.total, what, part.size) as moved,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        chunks = {pool.submit(_fetch_chunk, source, part, start): start for start in part.missing}
        try:
            for chunk in as_completed(chunks):
                chunk.result()
                moved(part.chunk(chunks[chunk]))
        finally:
            # After a failure only the chunks that are on their way come to their end.
            pool.shutdown(cancel_futures=True)


def _fetch_chunk(source: Source, part: _Part, start: int) -> None:
    with part.path.open("r+b") as file:
        file.seek(start)
        source.fetch(file, start, part.chunk(start))
    part.note(start)
