"""Checkpoints in a bucket of Google Cloud Storage."""

import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.api_core import exceptions as api

from components.finetune.checkpoints import MANIFEST, NAME
from components.shared import storage_gs
from components.shared.downloads import check_remote_path


class Bucket:
    """Checkpoints below a prefix of a bucket; see `checkpoints.Place`.

    A name is never used twice, so nothing is ever overwritten, and objects that a failed or killed
    upload left have no manifest and go with the older checkpoints.
    """

    def __init__(self, uri: str) -> None:
        bucket, prefix = storage_gs.split_uri(uri)
        if prefix:
            check_remote_path(prefix.rstrip("/"), uri)
        self.where = uri.rstrip("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._shown = f"checkpoints {self.where}"
        with storage_gs.errors(self._shown):
            self._bucket = storage_gs.client().bucket(bucket)

    def check(self) -> None:
        """See `checkpoints.Place`."""
        self.names()
        with tempfile.NamedTemporaryFile() as probe, storage_gs.errors(self._shown):
            name = f"{self._prefix}probe-{uuid.uuid4().hex}"
            blob = storage_gs.upload(Path(probe.name), self._bucket, name)
            if blob is not None:
                storage_gs.delete(blob)

    def names(self) -> dict[str, bool]:
        """See `checkpoints.Place`."""
        found: dict[str, bool] = {}
        with storage_gs.errors(self._shown):
            for blob in self._bucket.list_blobs(prefix=self._prefix, retry=storage_gs.RETRY):
                name, _, file = blob.name.removeprefix(self._prefix).partition("/")
                if NAME.fullmatch(name):
                    found[name] = found.get(name, False) or file == MANIFEST
        return found

    def draft(self, name: str) -> Path:
        """See `checkpoints.Place`."""
        return Path(tempfile.mkdtemp(prefix=f"{name}."))

    def put(self, draft: Path, name: str) -> None:
        """See `checkpoints.Place`; the parts go at the same time, since a node may be ending."""
        files = sorted(path for path in draft.iterdir() if path.name != MANIFEST)
        with ThreadPoolExecutor(len(files)) as pool, storage_gs.errors(self._shown):
            list(pool.map(lambda path: self._upload(path, name), files))
            self._upload(draft / MANIFEST, name)

    def _upload(self, path: Path, name: str) -> None:
        storage_gs.upload(path, self._bucket, f"{self._prefix}{name}/{path.name}")

    def fetch(self, name: str, file: str, scratch: Path) -> Path:
        """See `checkpoints.Place`.

        The caller's sha256 is the only check, so that an object that is damaged can be told (and
        passed over) from a bucket that cannot be read (an error).
        """
        path = scratch / file
        with storage_gs.errors(self._shown):
            try:
                self._bucket.blob(f"{self._prefix}{name}/{file}").download_to_filename(
                    str(path), raw_download=True, checksum=None, retry=storage_gs.RETRY
                )
            except api.NotFound:
                raise FileNotFoundError(file) from None
        return path

    def delete(self, name: str) -> None:
        """See `checkpoints.Place`."""
        with storage_gs.errors(self._shown):
            blobs = self._bucket.list_blobs(prefix=f"{self._prefix}{name}/", retry=storage_gs.RETRY)
            for blob in sorted(blobs, key=lambda blob: not blob.name.endswith(f"/{MANIFEST}")):
                storage_gs.delete(blob)
