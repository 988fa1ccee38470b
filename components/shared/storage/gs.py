"""Objects of Google Cloud Storage, each checked by its CRC32C.

Uploads are resumable uploads, not the parallel ones of `upload_chunks_concurrently` (XML
multipart), which take no precondition and so replace whatever object is there.
"""

import base64
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import google.auth
import google_crc32c
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from components.shared.storage.downloads import reason, shown
from components.shared.storage.objects import GoneError, Stored, split_uri
from components.shared.telling.errors import InputError, nearest, say

UPLOAD_CHUNK = 32 * 2**20
"""Bytes of one request of an upload, a multiple of 256 KiB."""
RETRY = DEFAULT_RETRY.with_timeout(120.0)
"""Each request is tried again by itself, with growing waits: 408, 429, 5xx, a lost connection."""
UPLOAD_ID = "upload-id"
"""Metadata of an object that says which upload made it."""
FORM = "expected gs://bucket/object"
DAMAGED = "CRC32C does not match after the transfer; run it again"


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
        say("gs://: note: no credentials found, trying without")
        return storage.Client.create_anonymous_client()
    return storage.Client(project=project, credentials=credentials)


class Bucket:
    """A bucket of Cloud Storage; see `objects.Bucket`."""

    def __init__(self, name: str) -> None:
        self.uri = f"gs://{name}"
        self._bucket = client().bucket(name)

    def errors(self, where: str) -> AbstractContextManager[None]:
        """See `objects.Bucket`."""
        return errors(where)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `objects.Bucket`."""
        for blob in self._bucket.list_blobs(prefix=prefix, retry=RETRY):
            yield _stored(blob)

    def source(self, name: str) -> "_Generation":
        """See `objects.Bucket`."""
        uri = f"{self.uri}/{name}"
        blob = self._bucket.get_blob(name, retry=RETRY)
        if blob is None:
            raise InputError(f"{uri}: no such object{self._nearest(name)}; {FORM}")
        if blob.content_encoding not in (None, "", "identity"):
            raise InputError(f"{uri}: is stored as {blob.content_encoding}; store it uncompressed")
        return _Generation(blob)

    def _nearest(self, name: str) -> str:
        """Return the name in the same folder most like ``name``; a missing bucket raises."""
        folder = name[: name.rfind("/") + 1]
        others = self._bucket.list_blobs(
            prefix=folder, delimiter="/", max_results=1000, retry=RETRY
        )
        return nearest(name, [other.name for other in others])

    def read(self, name: str, path: Path) -> None:
        """See `objects.Bucket`."""
        try:
            self._bucket.blob(name).download_to_filename(
                str(path), raw_download=True, checksum=None, retry=RETRY
            )
        except api.NotFound:
            raise FileNotFoundError(name) from None

    def upload(self, path: Path, name: str) -> Stored | None:
        """See `objects.Bucket`; the digest is the CRC32C."""
        blob = self._bucket.blob(name, chunk_size=UPLOAD_CHUNK)
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
                raise InputError(
                    f"{self.uri}/{name}: exists already; give another prefix or remove it"
                ) from None
        if damage := _Generation(blob).damage(path):
            self.delete(_stored(blob))
            raise InputError(f"{self.uri}/{name}: {damage}; the transfer was damaged, run it again")
        return _stored(blob)

    def delete(self, stored: Stored) -> None:
        """See `objects.Bucket`."""
        blob = self._bucket.blob(stored.name, generation=int(stored.version))
        # It is gone where another was put in its place, or where the answer to a delete was lost.
        with suppress(api.NotFound):
            blob.delete(if_generation_match=blob.generation, retry=RETRY)


class _Generation:
    """One generation of an object; see `objects.Source`."""

    def __init__(self, blob: storage.Blob) -> None:
        self.uri = f"gs://{blob.bucket.name}/{blob.name}"
        self.size = blob.size
        self.version = {"generation": str(blob.generation)}
        self._blob = blob

    def fetch(self, file: BinaryIO, start: int, size: int) -> None:
        """See `objects.Source`."""
        # Another Blob, since each answer overwrites what a Blob says of its object.
        storage.Blob(self._blob.name, self._blob.bucket).download_to_file(
            file,
            start=start,
            end=start + size - 1,
            raw_download=True,
            # The generation pins one version; the whole is checked at the end, so no chunk is.
            if_generation_match=self._blob.generation,
            checksum=None,
            # A body read at once lets the other threads go on; in small bits they take turns.
            single_shot_download=True,
            retry=RETRY,
        )

    def damage(self, path: Path) -> str:
        """See `objects.Source`."""
        found, kept = crc32c_of(path), self._blob.crc32c
        return "" if found == kept else f"CRC32C of {path.name} is {found}, the bucket says {kept}"


def _stored(blob: storage.Blob) -> Stored:
    return Stored(blob.name, str(blob.generation))


def crc32c_of(path: Path) -> str:
    """Return a file's CRC32C as Cloud Storage writes it: base64, big-endian."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


@contextmanager
def errors(uri: str) -> Iterator[None]:
    """Turn what the client library raises into one line."""
    bucket = split_uri(uri)[0]
    try:
        yield
    except api.NotFound:
        raise GoneError(f"{shown(uri)}: no bucket '{bucket}', or no such object; {FORM}") from None
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
        raise GoneError(f"{shown(uri)}: was replaced during the transfer; run it again") from None
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
