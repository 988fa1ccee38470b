"""Objects of Google Cloud Storage, each checked by its CRC32C."""

import base64
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google.auth
import google_crc32c
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from components.shared.downloads import check_space, local_name, reason, shown, watching
from components.shared.errors import InputError, nearest

PIECE = 32 * 2**20
"""Bytes of one request; each is tried again by itself."""
RETRY = DEFAULT_RETRY.with_timeout(30.0)
FORM = "expected gs://bucket/object"


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

    Raises:
        InputError: no such bucket or object, no access, or a CRC32C that does not match.
    """
    bucket_name, name = split_uri(uri)
    target = folder / local_name(name, uri)
    part = target.with_name(target.name + ".part")
    with errors(uri):
        bucket = client().bucket(bucket_name)
        blob = bucket.get_blob(name, retry=RETRY)
        if blob is None:
            raise InputError(f"{uri}: no such object{_nearest(bucket, name)}; {FORM}")
        if blob.content_encoding not in (None, "", "identity"):
            raise InputError(f"{uri}: is stored as {blob.content_encoding}; store it uncompressed")
        check_space(folder, blob.size, uri)
        try:
            _write(blob, part)
            check_crc32c(part, blob, uri)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target


def _write(blob: storage.Blob, part: Path) -> None:
    with part.open("wb") as file, watching(blob.size, f"downloading {blob.name}") as moved:
        for start in range(0, blob.size, PIECE):
            # The generation pins one version; the whole is checked below, so no piece is.
            piece = blob.download_as_bytes(
                start=start,
                end=min(start + PIECE, blob.size) - 1,
                raw_download=True,
                if_generation_match=blob.generation,
                checksum=None,
                retry=RETRY,
            )
            file.write(piece)
            moved(len(piece))


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
        The object, or None if the very same content is there already: what a transfer that was
        killed left behind, or a request that was repeated since its answer was lost.

    Raises:
        InputError: an object of other content exists there, or its CRC32C does not match what was
            sent (it is deleted then).
    """
    uri = f"gs://{bucket.name}/{name}"
    blob = bucket.blob(name, chunk_size=PIECE)
    try:
        blob.upload_from_filename(
            str(path), if_generation_match=0, checksum="crc32c", retry=RETRY, timeout=60
        )
    except api.PreconditionFailed:
        blob.reload(retry=RETRY)
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
    """Delete the very version of an object that was uploaded."""
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
    except (api.Forbidden, api.Unauthorized):
        raise InputError(
            f"{shown(uri)}: access denied; check the credentials "
            "(GOOGLE_APPLICATION_CREDENTIALS or the service account) and the bucket's permissions"
        ) from None
    except auth.GoogleAuthError as error:
        raise InputError(
            f"{shown(uri)}: credentials cannot be used ({type(error).__name__}); check "
            "GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except DataCorruption:
        raise InputError(
            f"{shown(uri)}: CRC32C does not match after the transfer; run it again"
        ) from None
    except (api.GoogleAPICallError, api.RetryError) as error:
        raise InputError(f"{shown(uri)}: {_said(error)}") from None
    except (requests.RequestException, ConnectionError) as error:
        raise InputError(f"{shown(uri)}: cannot be reached ({reason(error)})") from None


def _said(error: api.GoogleAPICallError | api.RetryError) -> str:
    if isinstance(error, api.RetryError):
        cause = f" ({reason(error.cause)})" if error.cause else ""
        return f"cannot be reached, gave up after {RETRY.timeout:g} s{cause}"
    return f"HTTP {error.code}, {type(error).__name__}"
