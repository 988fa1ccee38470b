"""Files wherever they are: a path, a bucket, the Hugging Face Hub or a web server.

Every download is checked (the bucket's or the Hub's own digests, sizes) and appears under its name
only when it is whole. ``#sha256=<hex>`` at the end of any URI of a file asks for that digest. A
download is kept until it has been used, so that what was cut, or failed afterwards, is not begun
again.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from components.shared.storage import buckets
from components.shared.storage.digests import sha256_of
from components.shared.storage.downloads import check_sha256, discard, local_name, shown
from components.shared.storage.scratch import scratch_for
from components.shared.telling.addresses import LOCAL, scheme_of
from components.shared.telling.errors import InputError, nearest, refusing, say

ALLOWED = (
    "a path, file://, gs://bucket/object, s3://bucket/object, minio://bucket/object, "
    "hf://datasets/<owner>/<name>/<file>[@revision], "
    "hf://models/<owner>/<name>/<file>[@revision], https://, http://"
)
SHA256 = "#sha256="


def ending_of(uri: str) -> str:
    """Return the ending of the file that a path or URI names, in lower case: ``.json``, or empty.

    A digest, the revision of a Hub URI and the query of a web address are no part of it.
    """
    bare = uri.partition(SHA256)[0]
    scheme = scheme_of(bare)
    if scheme in ("http", "https"):
        with refusing(ValueError, f"{shown(bare)}: is not a web address"):
            bare = urlsplit(bare).path
    elif scheme == "hf":
        bare = bare.partition("@")[0]
    return PurePosixPath(bare).suffix.lower()


@contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """Yield a local path of the file that ``uri`` names, for use inside the block.

    A download is removed when the block ends well and kept for a later run when it does not, see
    `scratch_for`.
    """
    with place_for(uri) as folder:
        yield fetch(uri, folder)


@contextmanager
def fetched_folder(uri: str, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield a local folder that holds ``names`` of the folder that ``uri`` names, as `fetched`."""
    with place_for(uri, names) as folder:
        yield fetch_folder(uri, folder, names)


def place_for(uri: str, names: tuple[str, ...] = ()) -> AbstractContextManager[Path]:
    """Return where a download goes, see `scratch_for`; a local file stays where it is."""
    return nullcontext(Path()) if scheme_of(uri) in LOCAL else scratch_for(uri, names)


def fetch(uri: str, folder: Path) -> Path:
    """Return a local path of the file that ``uri`` names: a path or a URI of the ALLOWED forms.

    A download goes into ``folder`` under its own name (of the Hub: its path in the repository) and
    replaces a file of the same name there, unless it is known to be the same. A local file stays
    where it is. A ``#sha256=<hex>`` at the end is checked.
    """
    bare, sha256 = _split_sha256(uri)
    scheme = scheme_of(bare)
    if scheme in LOCAL:
        path = local_path(bare)
        _check_local_file(path)
        if sha256:
            check_sha256(path, sha256, uri)
        return path
    path = download_by_scheme(scheme, bare, Path(folder), sha256)
    if sha256:
        try:
            check_sha256(path, sha256, uri)
        except InputError:
            discard(path)
            raise
    say(f"{shown(bare)}: is at {path} ({path.stat().st_size} bytes)")
    return path


def fetch_folder(uri: str, folder: Path, names: Sequence[str]) -> Path:
    """Return a local folder that holds the files ``names`` of the folder that ``uri`` names.

    Downloads go into ``folder``; a local folder stays where it is.
    """
    if SHA256 in uri:
        raise InputError(f"{shown(uri)}: {SHA256}… is for single files, and this is a folder")
    if scheme_of(uri) in LOCAL:
        path = local_path(uri)
        if path.is_file():
            raise InputError(f"{path}: is a file; give the folder that holds {', '.join(names)}")
        if not path.is_dir():
            raise InputError(f"{path}: no such folder{nearest_in_parent(path)}; check the path")
        for name in names:
            _check_local_file(path / name)
        return path
    paths = [fetch(_child(uri, name), folder) for name in names]
    return paths[0].parent


def local_path(uri: str) -> Path:
    """Return the path that a plain path or a ``file://`` URI of this machine names.

    Raises:
        InputError: empty, or the URI of another machine.
    """
    if not uri.strip():
        raise InputError(f"an empty path was given; expected {ALLOWED}")
    if scheme_of(uri) != "file":
        return at_home(Path(uri))
    host, _, path = uri.split("://", 1)[1].partition("/")
    if host not in ("", "localhost"):
        raise InputError(f"{uri}: names the machine '{host}'; expected file:///<path>")
    return Path("/" + unquote(path))


def at_home(path: Path) -> Path:
    """Return a path whose leading ``~`` is the home folder, as a shell would have it."""
    if not path.parts or not path.parts[0].startswith("~"):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # ~name of nobody here
        return path


def folder_of(uri: str, names: Iterable[str]) -> str:
    """Return the folder's path or URI if ``uri`` is that of one of its files ``names``."""
    bare, at, revision = uri.partition("@") if scheme_of(uri) == "hf" else (uri, "", "")
    folder, slash, name = bare.rpartition("/")
    if name not in names or (not slash and Path(uri).is_dir()):
        return uri
    return f"{folder or ('/' if slash else '.')}{at}{revision}"


def _split_sha256(uri: str) -> tuple[str, str]:
    bare, found, digest = uri.partition(SHA256)
    if found and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise InputError(f"{shown(bare)}: {SHA256} needs 64 hexadecimal digits, got '{digest}'")
    return bare, digest.lower()


def _check_local_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected a file")
        if not path.is_file():
            raise InputError(f"{path}: no such file{nearest_in_parent(path)}; check the path")
        may_read = os.access(path, os.R_OK)
    except PermissionError:
        may_read = False
    if not may_read:
        raise InputError(
            f"{path}: is not readable (permission denied); ask its owner, or give another file"
        )


def nearest_in_parent(path: Path) -> str:
    """Say which name in the folder of a path that is not there is most like it."""
    parent = path.parent
    if not parent.is_dir():
        return f" (nor its folder {parent})"
    return nearest(path.name, (other.name for other in parent.iterdir()))


def _child(uri: str, name: str) -> str:
    """Return the URI of a file in the folder ``uri``; revision and query stay at the end."""
    scheme = scheme_of(uri)
    if scheme in ("http", "https"):
        parts = urlsplit(uri)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    if scheme == "hf":
        path, at, revision = uri.partition("@")
        return f"{path.rstrip('/')}/{name}{at}{revision}"
    return f"{uri.rstrip('/')}/{name}"


def check_scheme(uri: str) -> None:
    """Check that the scheme of a URI of another machine is one that can be downloaded from."""
    scheme = scheme_of(uri)
    if scheme not in (*buckets.SCHEMES, "hf", "http", "https"):
        raise InputError(f"{shown(uri)}: scheme '{scheme}://' is not allowed; allowed: {ALLOWED}")


def download_by_scheme(scheme: str, uri: str, folder: Path, sha256: str) -> Path:
    """Download ``uri`` into ``folder`` by the backend of its scheme."""
    check_scheme(uri)
    folder.mkdir(parents=True, exist_ok=True)
    # The client libraries take seconds to import; only the one that is needed is.
    if scheme in buckets.SCHEMES:
        from components.shared.storage import chunks

        return chunks.download(uri, folder)
    if scheme == "hf":
        from components.shared.storage import hf as storage_hf

        return storage_hf.download(uri, folder)
    from components.shared.storage import http as storage_http

    target = folder / local_name(urlsplit(uri).path, uri)
    if not (sha256 and _is(target, sha256)):
        storage_http.download(uri, target)
    return target


def _is(path: Path, sha256: str) -> bool:
    """Return whether the file was downloaded before."""
    with suppress(OSError):
        return sha256_of(path) == sha256
    return False
