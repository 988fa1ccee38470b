"""HDF5 files of strangers: nothing outside the file is read, and no more than it can hold."""

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata._io.specs.registry import IORegistryError
from anndata.io import read_elem
from scipy.sparse import csr_matrix

from components.shared.storage.documents import said
from components.shared.storage.text_columns import is_text
from components.shared.telling.errors import InputError, refusing

MOST_PARTS = 20_000
"""Groups and datasets of a file."""
DEEPEST = 32
"""Groups within groups."""
PACKED = 2_000
"""Bytes that a stored byte may become; deflate reaches 1,032."""
UNPACKED = 64 * 2**20
"""Bytes that a dataset may have however little of it is stored."""
LARGEST_CHUNK = 2**30
"""Bytes of a chunk, which is always unpacked as a whole."""
FAULTS = (OSError, KeyError, ValueError, RuntimeError)
"""Errors that h5py raises for a damaged file."""
DAMAGE = (*FAULTS, IndexError, TypeError, AttributeError, OverflowError, IORegistryError)
"""Errors that anndata raises where parts of a file do not fit each other."""
DAMAGED = "; the file is damaged, fetch it again"
PLAIN = "write it again with anndata, adata.write_h5ad(file), where all of it is at hand"


def opened_hdf5(path: Any, name: str, unread: Collection[str] = ()) -> h5py.File:
    """Return an HDF5 file (a path or an open file) for reading, known to be whole within itself."""
    again = "; fetch it again"
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(
            f"{name}: cannot be opened, truncated or damaged ({error}){again}"
        ) from None
    with ExitStack() as unless_whole:
        unless_whole.enter_context(file)
        with refusing(FAULTS, f"{name}: is damaged", again):
            check_contained(file, name, unread)
        unless_whole.pop_all()
    return file


def check_contained(file: h5py.File, name: str, unread: Collection[str] = ()) -> None:
    """Check that what is read of a file lies in it, and that the file can hold it.

    Refused are links out of the file, datasets that are stored elsewhere or would be larger than
    what is stored of them can become, and parts without end.

    Raises:
        InputError: a link out of the file, a dataset that is stored elsewhere or would be larger
            than what is stored of it can become, or parts without end; names the part.
    """
    stored = int(file.id.get_filesize())
    groups, seen, parts = [(file["/"], "", 0)], set(), 0
    while groups:
        group, at, depth = groups.pop()
        if _address(group) in seen:
            continue
        seen.add(_address(group))
        parts += len(group)
        if parts > MOST_PARTS or depth > DEEPEST:
            raise InputError(
                f"{name}: /{at[:80]} holds more than {MOST_PARTS:,} parts, or groups more than "
                f"{DEEPEST} deep; no h5ad needs that, {PLAIN}"
            )
        for key in group:
            where = f"{at}/{key}" if at else key
            _check_link(file, group, key, f"{name}: {where}")
            if not at and key in unread:
                continue
            with refusing(FAULTS, f"{name}: {where} cannot be read", DAMAGED):
                part = group[key]
            if isinstance(part, h5py.Group):
                groups.append((part, where, depth + 1))
            elif isinstance(part, h5py.Dataset):
                _check_dataset(part, stored, f"{name}: {where}")


def _address(part: Any) -> Any:
    return h5py.h5o.get_info(part.id).addr


def _check_link(file: h5py.File, group: h5py.Group, key: str, where: str) -> None:
    try:
        link = group.get(key, getlink=True)
    except TypeError:  # of a kind that a library of the writer's defines
        link = None
    if isinstance(link, h5py.SoftLink):
        within = _is_within(file if link.path.startswith("/") else group, link.path)
    else:
        within = isinstance(link, h5py.HardLink)
    if not within:
        target = getattr(link, "filename", None) or getattr(link, "path", "elsewhere")
        raise InputError(f"{where} is a link out of the file, to {target!r:.120}; {PLAIN}")


def _is_within(group: Any, path: str) -> bool:
    """Return whether plain links lead to a path."""
    for step in path.strip("/").split("/"):
        if step in ("", "."):
            continue
        if not isinstance(group, h5py.Group) or step not in list(group):
            return False
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            return False
        group = group[step]
    return True


def _check_dataset(data: h5py.Dataset, file_bytes: int, where: str) -> None:
    if data.is_virtual:
        raise InputError(f"{where} is a virtual dataset, whose values are elsewhere; {PLAIN}")
    if data.external:
        other = data.external[0][0]
        raise InputError(f"{where} keeps its values in another file, {other!r:.120}; {PLAIN}")
    if data.shape is None:
        return
    stored = min(int(data.id.get_storage_size()), file_bytes)
    size = data.size * data.dtype.itemsize
    if size > max(UNPACKED, PACKED * stored):
        raise InputError(
            f"{where} has the shape {data.shape}, {size / 2**30:,.1f} GiB, but {stored:,} bytes "
            "are stored of it; the file is damaged or not finished, write it again"
        )
    unpacked = data.dtype.itemsize
    for length in data.chunks or ():
        unpacked *= length
    if data.chunks and unpacked > LARGEST_CHUNK:
        raise InputError(
            f"{where} is stored in chunks of {unpacked / 2**30:,.1f} GiB; expected at most "
            f"{LARGEST_CHUNK / 2**30:.0f}, write it again with smaller ones"
        )


def read_part(file: h5py.File, key: str, name: str, hint: str) -> Any:
    """Return what anndata reads of a part of a file, called ``name``, or refuse a damaged one."""
    if key not in file:
        raise InputError(f"{name}: has no {key}; {hint}")
    with refusing(DAMAGE, f"{name}: {key} cannot be read", f"; {hint}", said):
        return read_elem(file[key])


def read_frame(
    file: h5py.File, key: str, name: str, hint: str, columns: Collection[str] = ()
) -> pd.DataFrame:
    """Return a table of a file, such as obs, whose index and ``columns`` hold text in every row.

    Raises:
        InputError: it is missing, cannot be read, is no table, lacks a column or has an entry that
            is no text.
    """
    found = read_part(file, key, name, hint)
    if not isinstance(found, pd.DataFrame):
        raise InputError(f"{name}: {key} is not a table; {hint}")
    if isinstance(found.index, pd.MultiIndex) or not is_text(pd.Series(found.index.to_numpy())):
        raise InputError(f"{name}: the index of {key} does not hold names; {hint}")
    for column in columns:
        if column not in found:
            raise InputError(f"{name}: {key} has no column '{column}'; {hint}")
        if not is_text(found[column]):
            raise InputError(f"{name}: {key}/{column} is not text in every row; {hint}")
    return found


def check_csr(group: Any, shape: tuple[int, int], name: str, hint: str) -> None:
    """Check that a stored CSR matrix of numbers has this shape and parts that fit each other.

    Its column numbers are not looked at, see `check_columns`.
    """
    parts = ("data", "indices", "indptr")
    stored = isinstance(group, h5py.Group) and all(
        isinstance(group.get(part), h5py.Dataset) and group[part].ndim == 1 for part in parts
    )
    if not stored or str(group.attrs.get("encoding-type")) != "csr_matrix":
        kind = str(group.attrs.get("encoding-type", "nothing that anndata writes"))
        raise InputError(f"{name} is {kind}, not a whole csr_matrix; {hint}")
    kinds = [group[part].dtype.kind for part in parts]
    if kinds[0] != "f" or not set(kinds[1:]) <= {"i", "u"}:
        raise InputError(f"{name} does not hold numbers; {hint}")
    if not ends_fit(group, shape[0]):
        raise InputError(f"{name}: indptr does not fit its data and {shape[0]} rows; {hint}")
    if np.array_equal(group.attrs.get("shape"), shape):
        return
    raise InputError(f"{name} is not {shape[0]} x {shape[1]}, as obs and var are; {hint}")


def ends_fit(group: Any, length: int) -> bool:
    """Return whether a sparse matrix says where each of its ``length`` rows, or columns, ends."""
    indptr = group["indptr"][:]
    entries = min(group["data"].shape[0], group["indices"].shape[0])
    sound = len(indptr) == length + 1 and not indptr[0] and indptr[-1] <= entries
    # Compared as they are stored: a cast to signed numbers, or a difference, would wrap.
    return bool(sound and (indptr[1:] >= indptr[:-1]).all())


def check_columns(block: csr_matrix, name: str, hint: str) -> csr_matrix:
    """Check that rows of a CSR matrix name columns that it has: scipy writes wherever they say."""
    columns = block.indices
    if len(columns) and (columns.min() < 0 or columns.max() >= block.shape[1]):
        raise InputError(f"{name} names columns that it does not have; {hint}")
    return block
