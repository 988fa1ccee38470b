"""Objects of Google Cloud Storage, each checked by its CRC32C.

Big objects come in chunks, several at a time, and a download that was cut goes on where it stopped.
The library's own `transfer_manager.download_chunks_concurrently` cannot: it empties its file first
and keeps no record of the chunks that came. Uploads are resumable uploads, not the parallel ones of
`upload_chunks_concurrently` (XML multipart), which take no precondition and so replace whatever
object is there.
"""

import base64
import json
import os
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

import google.auth
import google_crc32c
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from components.shared.downloads import check_space, local_name, part_of, reason, shown, watching
from components.shared.errors import InputError, nearest

DOWNLOAD_CHUNK = 8 * 2**20
"""Bytes of one request of a download; WORKERS times as many are held in memory."""
UPLOAD_CHUNK = 32 * 2**20
"""Bytes of one request of an upload, a multiple of 256 KiB."""
WORKERS = 8
"""Chunks on their way at a time; the client's connection pool holds ten."""
RETRY = DEFAULT_RETRY.with_timeout(120.0)
"""Each request is tried again by itself, with growing waits: 408, 429, 5xx, a lost connection."""
UPLOAD_ID = "upload-id"
"""Metadata of an object that says which upload made it."""
FORM = "expected gs://bucket/object"
DAMAGED = "CRC32C does not match after the transfer; run it again"


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and object (or prefix) of a ``gs://`` URI.

    Raises:
        InputError: no bucket in it.
    """
    bucket, _, name = uri.split("://", 1)[1].partition("/")
    if not bucket:
        raise InputError(f"{uri}: names no bucket; {FORM}")
    return bucket, name


def client() -> storage.Client:
    """Return a client: of an emulator, with the credentials found, or else without any.

    `STORAGE_EMULATOR_HOST` names an emulator. Public buckets can be read without credentials.
    """
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client.create_anonymous_client()
    try:
        credentials, project = google.auth.default(
            scopes=["https://www.googleapis.com/auth/devstorage.read_write"]
        )
    except auth.DefaultCredentialsError:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise
        print("gs://: no credentials found, trying without", file=sys.stderr, flush=True)
        return storage.Client.create_anonymous_client()
    return storage.Client(project=project, credentials=credentials)


def download(uri: str, folder: Path) -> Path:
    """Download one object into ``folder`` under the last part of its name.

    A part that an earlier call left there is gone on with if it is of the same generation; a file
    that has the size and CRC32C of the object stays.

    Raises:
        InputError: no such bucket or object, no access, or a CRC32C that does not match.
    """
    bucket_name, name = split_uri(uri)
    target = folder / local_name(name, uri)
    with errors(uri):
        bucket = client().bucket(bucket_name)
        blob = bucket.get_blob(name, retry=RETRY)
        if blob is None:
            raise InputError(f"{uri}: no such object{_nearest(bucket, name)}; {FORM}")
        if blob.content_encoding not in (None, "", "identity"):
            raise InputError(f"{uri}: is stored as {blob.content_encoding}; store it uncompressed")
    if _is_at(target, blob):
        return target
    part = _Part(blob, target)
    check_space(folder, blob.size - part.size, uri)
    part.begin()
    try:
        with errors(uri):
            _fetch_missing(blob, part)
    except InputError as error:
        if not part.size:
            part.remove()
            raise
        raise InputError(
            f"{error}; {part.size} of {blob.size} bytes are kept, run it again to go on"
        ) from None
    try:
        check_crc32c(part.path, blob, uri)
    except InputError:
        part.remove()
        raise
    part.finish(target)
    return target


def _is_at(target: Path, blob: storage.Blob) -> bool:
    """Return whether an earlier call downloaded the very content of an object."""
    if not target.is_file() or target.stat().st_size != blob.size:
        return False
    return crc32c_of(target) == blob.crc32c


class _Part:
    """The chunks of one generation of an object that are here.

    The notes beside the part (JSON lines) say of which generation it is, then where each chunk
    that came begins. They are only added to, so that a kill at any time leaves them usable.
    """

    def __init__(self, blob: storage.Blob, target: Path) -> None:
        self.path, self.notes = part_of(target)
        self.total = blob.size
        self.head = json.dumps(
            {
                "of": f"gs://{blob.bucket.name}/{blob.name}",
                "generation": blob.generation,
                "chunk": DOWNLOAD_CHUNK,
            }
        )
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
        """Make the file at its full size, if there is none to go on with."""
        if not self.done:
            with self.path.open("wb") as file:
                file.truncate(self.total)
            self.notes.write_text(self.head + "\n")

    def chunk(self, start: int) -> int:
        """Return the bytes of the chunk that begins at ``start``."""
        return min(DOWNLOAD_CHUNK, self.total - start)

    @property
    def missing(self) -> list[int]:
        """Where each chunk that is not here begins."""
        return [start for start in range(0, self.total, DOWNLOAD_CHUNK) if start not in self.done]

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


def _fetch_missing(blob: storage.Blob, part: _Part) -> None:
    try:
        _fetch_chunks(blob, part)
    except (api.PreconditionFailed, api.NotFound):
        # The generation is no longer there, so what came of it is of no use.
        part.remove()
        raise


def _fetch_chunks(blob: storage.Blob, part: _Part) -> None:
    what = f"downloading {blob.name}"
    with watching(blob.size, what, part.size) as moved, ThreadPoolExecutor(WORKERS) as pool:
        chunks = {pool.submit(_fetch_chunk, blob, part, start): start for start in part.missing}
        try:
            for chunk in as_completed(chunks):
                chunk.result()
                moved(part.chunk(chunks[chunk]))
        finally:
            # After a failure only the chunks that are on their way come to their end.
            pool.shutdown(cancel_futures=True)


def _fetch_chunk(blob: storage.Blob, part: _Part, start: int) -> None:
    # Another Blob, since each answer overwrites what a Blob says of its object.
    source = storage.Blob(blob.name, blob.bucket)
    with part.path.open("r+b") as file:
        file.seek(start)
        source.download_to_file(
            file,
            start=start,
            end=start + part.chunk(start) - 1,
            raw_download=True,
            # The generation pins one version; the whole is checked at the end, so no chunk is.
            if_generation_match=blob.generation,
            checksum=None,
            # A body read at once lets the other threads go on; in small bits they take turns.
            single_shot_download=True,
            retry=RETRY,
        )
    part.note(start)


def _nearest(bucket: storage.Bucket, name: str) -> str:
    """Return the name in the same folder that is most like ``name``; a missing bucket raises."""
    folder = name.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    others = bucket.list_blobs(prefix=prefix, delimiter="/", max_results=1000, retry=RETRY)
    return nearest(name, [other.name for other in others])


def crc32c_of(path: Path) -> str:
    """Return a file's CRC32C as Cloud Storage writes it: base64, big-endian."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def check_crc32c(path: Path, blob: storage.Blob, uri: str) -> None:
    """Compare a file with the CRC32C that the bucket keeps.

    Raises:
        InputError: they differ.
    """
    found = crc32c_of(path)
    if found != blob.crc32c:
        raise InputError(
            f"{uri}: CRC32C of {path.name} is {found}, the bucket says {blob.crc32c}; "
            "the transfer was damaged, run it again"
        )


def upload(path: Path, bucket: storage.Bucket, name: str) -> storage.Blob | None:
    """Upload a file as a new object and return it, checked by its CRC32C.

    Returns:
        The object, or None if the very same content was there already: what a transfer that was
        killed left behind.

    Raises:
        InputError: an object of other content exists there, or its CRC32C does not match what was
            sent (it is deleted then).
    """
    uri = f"gs://{bucket.name}/{name}"
    blob = bucket.blob(name, chunk_size=UPLOAD_CHUNK)
    upload_id = uuid.uuid4().hex
    blob.metadata = {UPLOAD_ID: upload_id}
    try:
        blob.upload_from_filename(
            str(path), if_generation_match=0, checksum="crc32c", retry=RETRY, timeout=60
        )
    except api.PreconditionFailed:
        blob.reload(retry=RETRY)
        # The request was repeated since its answer was lost: the object is this upload's.
        if (blob.metadata or {}).get(UPLOAD_ID) != upload_id:
            if blob.crc32c == crc32c_of(path):
                return None
            raise InputError(f"{uri}: exists already; give another prefix or remove it") from None
    try:
        check_crc32c(path, blob, uri)
    except InputError:
        delete(blob)
        raise
    return blob


def delete(blob: storage.Blob) -> None:
    """Delete the very version of an object that was uploaded, if it is still there."""
    # It is gone where another was put in its place, or where the answer to a delete was lost.
    with suppress(api.NotFound):
        blob.delete(if_generation_match=blob.generation, retry=RETRY)


@contextmanager
def errors(uri: str) -> Iterator[None]:
    """Turn what the client library raises into one line.

    Raises:
        InputError: see the message.
    """
    bucket = split_uri(uri)[0]
    try:
        yield
    except api.NotFound:
        raise InputError(f"{shown(uri)}: no bucket '{bucket}', or no such object; {FORM}") from None
    except (api.Forbidden, api.Unauthorized, auth.InvalidOperation):
        # Anonymous credentials cannot be refreshed, which is tried after a 401.
        raise InputError(
            f"{shown(uri)}: access denied; check the credentials "
            "(GOOGLE_APPLICATION_CREDENTIALS or the service account) and the bucket's permissions"
        ) from None
    except auth.GoogleAuthError as error:
        raise InputError(
            f"{shown(uri)}: credentials cannot be used ({type(error).__name__}); check "
            "GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except api.PreconditionFailed:
        raise InputError(f"{shown(uri)}: was replaced during the transfer; run it again") from None
    except DataCorruption:
        raise InputError(f"{shown(uri)}: {DAMAGED}") from None
    except (api.GoogleAPICallError, api.RetryError) as error:
        raise InputError(f"{shown(uri)}: {_said(error)}") from None
    except (requests.RequestException, ConnectionError) as error:
        raise InputError(f"{shown(uri)}: cannot be reached ({reason(error)})") from None


def _said(error: api.GoogleAPICallError | api.RetryError) -> str:
    if isinstance(error, api.RetryError):
        cause = error.cause
        answer = cause.response if isinstance(cause, InvalidResponse) else None
        status = answer.status_code if answer is not None else getattr(cause, "code", None)
        why = f"HTTP {status}" if status else f"cannot be reached ({reason(cause or error)})"
        return f"{why}, gave up after {RETRY.timeout:g} s"
    if isinstance(error, api.BadRequest) and "crc32c" in error.message.lower():
        return DAMAGED
    return f"HTTP {error.code}, {type(error).__name__}"
