"""Opening a file of cells, whatever its form: h5ad, zarr or a 10x matrix; all others by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.ingest.source_10x import TenXSource
from components.ingest.source_h5ad import H5adSource
from components.shared.reading.file_kinds import (
    check_filters,
    check_is_anndata,
    check_is_hdf5,
    check_is_no_folder,
    is_10x,
)
from components.shared.reading.source import Reading
from components.shared.storage.downloads import shown
from components.shared.storage.files import fetched, local_path
from components.shared.storage.hdf5 import DAMAGE, DAMAGED, PACKED, UNPACKED, opened_hdf5
from components.shared.telling.addresses import LOCAL, scheme_of
from components.shared.telling.errors import InputError, refusing

UNREAD = ("uns", "obsm", "obsp", "varm", "varp", "mod")
"""Groups of a file that ingest does not look into."""
ZARR = (".zgroup", ".zattrs", "zarr.json")
"""Files at the top of a zarr store."""


@contextmanager
def opened(uri: str, scratch: Path, reading: Reading) -> Iterator[H5adSource]:
    """Open and check the file of cells that ``uri`` names.

    It is an h5ad file, a 10x matrix, or the folder of a zarr store that anndata wrote; the buckets
    of a CSC matrix go to ``scratch``.

    Raises:
        InputError: missing, another form, truncated, without X, or parts that do not fit.
    """
    name = shown(uri)
    with _here(uri, name) as path, _open(path, name) as file:
        kind = TenXSource if is_10x(file) else H5adSource
        source = kind(file, name, reading.layer, reading.gene_column, path, scratch)
        with refusing(DAMAGE, f"{name}: obs, var or X cannot be read", DAMAGED):
            if kind is H5adSource:
                check_is_anndata(file, name)
            check_filters(source.stored(), name)
            source.check()
        yield source


@contextmanager
def _here(uri: str, name: str) -> Iterator[Path]:
    """Yield the local path of a file, or of the folder of a zarr store of this machine."""
    if scheme_of(uri) in LOCAL:
        path = local_path(uri.rstrip("/"))
        if path.is_dir() and any((path / file).exists() for file in ZARR):
            yield path
            return
        check_is_no_folder(local_path(uri), name)
    with fetched(uri) as path:
        yield path


@contextmanager
def _open(path: Path, name: str) -> Iterator[Any]:
    if path.is_dir():
        yield _zarr(path, name)
        return
    check_is_hdf5(path, name)
    with opened_hdf5(path, name, UNREAD) as file:
        yield file


def _zarr(path: Path, name: str) -> Any:
    stored = _stored(path, name)
    import zarr  # seconds that an h5ad does not need

    # Errors are of many kinds, by version and store.
    with refusing(Exception, f"{name}: the zarr store cannot be opened"):
        store = zarr.open_group(str(path), mode="r")
        members: Any = store.members(max_depth=None)
        arrays = [part for _, part in members if hasattr(part, "nbytes")]
    for array in arrays:
        if array.nbytes > max(UNPACKED, PACKED * stored):
            raise InputError(
                f"{name}: {array.path} has the shape {array.shape}, {array.nbytes / 2**30:,.1f} "
                f"GiB, but the store has {stored:,} bytes; it is damaged, write it again"
            )
    return store


def _stored(path: Path, name: str) -> int:
    """Return the bytes of a store's files; no link is among them, which may lead out of it."""
    found = 0
    for part in path.rglob("*"):
        if part.is_symlink():
            raise InputError(
                f"{name}: {part.relative_to(path)} is a link; expected a store of files alone, "
                "copy it with cp -rL"
            )
        found += part.stat().st_size if part.is_file() else 0
    return found
