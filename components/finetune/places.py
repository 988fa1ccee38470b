"""Where checkpoints of a fine-tune are: a folder of this machine, or a bucket."""

import os
import re
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.shared.storage.buckets import FORMS, SCHEMES, may_write, open_bucket
from components.shared.storage.downloads import check_remote_path, check_writable, shown
from components.shared.storage.files import local_path
from components.shared.storage.objects import split_uri
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, say

MANIFEST = "manifest.json"
NAME = re.compile(r"epoch-(\d+)-step-(\d+)-[0-9a-f]{8}")
OWN_PLACE = "SCGPT_PERTURB_CHECKPOINTS"
"""Environment variable: where a run on this machine keeps checkpoints of its tasks. No result
depends on it."""
ALLOWED = f"a folder, file://, {FORMS}, or empty"


def open_place(uri: str) -> "Place":
    """Return the place that ``uri`` names, checked before any work is done for it.

    Raises:
        InputError: the scheme is not allowed, or checkpoints cannot be kept there.
    """
    scheme = scheme_of(uri)
    place: Place
    if scheme in ("", "file"):
        place = Folder(local_path(uri))
    elif scheme in SCHEMES:
        place = Objects(uri)
    else:
        raise InputError(f"checkpoints '{shown(uri)}': scheme '{scheme}://'; allowed: {ALLOWED}")
    place.check()
    return place


def own_place(uri: str, path: str, name: str) -> str:
    """Return where a task keeps checkpoints of its own: beside its model, or in `OWN_PLACE`.

    A pod that is tried again gets the same URI, but another disk. A run on one machine that is
    started again gets another folder, so it says where the last one left them. ``uri`` and ``path``
    are of the model, and ``name`` tells the fine-tunes of a run apart.
    """
    if here := os.environ.get(OWN_PLACE):
        return f"{here}/{name}"
    scheme = scheme_of(uri)
    if scheme in SCHEMES and may_write(scheme):
        return f"{uri}.checkpoints"
    if scheme in SCHEMES:
        say(
            f"finetune: WARNING: checkpoints: no credentials for {scheme}://, so they stay on this "
            "pod's disk, and a retried pod starts again at epoch 1; manifests/README.md, "
            "'S3', says which it looks for, or give checkpoints="
        )
    return f"{path}.checkpoints"


class Folder:
    """Checkpoints in a folder of this machine. Names are those of checkpoints."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.where = str(self._path)

    def check(self) -> None:
        """Raise an InputError unless checkpoints can be written, read and deleted here."""
        check_writable(self._path, f"checkpoints {self.where}: is not a writable folder")

    def names(self) -> dict[str, bool]:
        """Return every name there is, and whether its checkpoint has a manifest.

        The draft that a killed process left counts as one without.
        """
        return {
            path.name: not path.name.startswith(".") and (path / MANIFEST).is_file()
            for path in self._path.iterdir()
            if NAME.fullmatch(path.name.removeprefix(".").removesuffix(".partial"))
        }

    def draft(self, name: str) -> Path:
        """Return an empty folder of this machine to write a checkpoint into."""
        draft = self._path / f".{name}.partial"
        draft.mkdir()
        return draft

    def put(self, draft: Path, name: str) -> None:
        """Make a checkpoint of a draft, its manifest last: a rename makes the whole appear."""
        draft.rename(self._path / name)

    def fetch(self, name: str, file: str, scratch: Path) -> Path:
        """Return a local path of a checkpoint's file; FileNotFoundError where there is none."""
        path = self._path / name / file
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    def delete(self, name: str) -> None:
        """Delete a checkpoint, its manifest first."""
        (self._path / name / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self._path / name)


class Objects:
    """Checkpoints below a prefix of a bucket, with the methods of `Folder`.

    A name is never used twice, so nothing is ever overwritten, and objects that a failed or killed
    upload left have no manifest and go with the older checkpoints.
    """

    def __init__(self, uri: str) -> None:
        prefix = split_uri(uri)[1]
        if prefix:
            check_remote_path(prefix.rstrip("/"), uri)
        self.where = uri.rstrip("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._shown = f"checkpoints {self.where}"
        self._bucket = open_bucket(self._shown)

    def check(self) -> None:
        """See `Folder`."""
        self.names()
        with tempfile.NamedTemporaryFile() as probe, self._bucket.errors(self._shown):
            stored = self._bucket.upload(
                Path(probe.name), f"{self._prefix}probe-{uuid.uuid4().hex}"
            )
            if stored is not None:
                self._bucket.delete(stored)

    def names(self) -> dict[str, bool]:
        """See `Folder`."""
        found: dict[str, bool] = {}
        with self._bucket.errors(self._shown):
            for stored in self._bucket.list(self._prefix):
                name, _, file = stored.name.removeprefix(self._prefix).partition("/")
                if NAME.fullmatch(name):
                    found[name] = found.get(name, False) or file == MANIFEST
        return found

    def draft(self, name: str) -> Path:
        """See `Folder`."""
        return Path(tempfile.mkdtemp(prefix=f"{name}."))

    def put(self, draft: Path, name: str) -> None:
        """See `Folder`; the parts go at the same time, since a node may be ending."""
        files = sorted(path for path in draft.iterdir() if path.name != MANIFEST)
        with ThreadPoolExecutor(len(files)) as pool, self._bucket.errors(self._shown):
            list(pool.map(lambda path: self.upload(path, name), files))
            self.upload(draft / MANIFEST, name)

    def upload(self, path: Path, name: str) -> None:
        """Upload one file of the checkpoint ``name``."""
        self._bucket.upload(path, f"{self._prefix}{name}/{path.name}")

    def fetch(self, name: str, file: str, scratch: Path) -> Path:
        """See `Folder`.

        The caller's sha256 is the only check, so that an object that is damaged can be told (and
        passed over) from a bucket that cannot be read (an error).
        """
        path = scratch / file
        with self._bucket.errors(self._shown):
            self._bucket.read(f"{self._prefix}{name}/{file}", path)
        return path

    def delete(self, name: str) -> None:
        """See `Folder`."""
        with self._bucket.errors(self._shown):
            there = self._bucket.list(f"{self._prefix}{name}/")
            for stored in sorted(there, key=lambda one: not one.name.endswith(f"/{MANIFEST}")):
                self._bucket.delete(stored)


Place = Folder | Objects
