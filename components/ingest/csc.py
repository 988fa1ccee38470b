"""CSC to CSR on disk: columns are streamed, their entries sorted into buckets of rows.

Memory holds one chunk of entries or one bucket at a time; the buckets, 12 bytes an entry, lie in a
folder the caller gives.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from components.shared.telling.progress import bar

ENTRY = np.dtype([("row", "<i4"), ("column", "<i4"), ("value", "<f4")])
ENTRIES_PER_CHUNK = 2**20


def _bucket_file(folder: Path, bucket: int) -> Path:
    return folder / f"rows-{bucket:06d}.bin"


def _append(entries: NDArray[np.void], bucket_rows: int, folder: Path) -> None:
    """Append entries, whose order is kept, to the files of their buckets."""
    bucket = entries["row"] // bucket_rows
    entries["row"] -= bucket * bucket_rows
    sizes = np.bincount(bucket)
    # 16 bits where they suffice: numpy then sorts by radix.
    order = np.argsort(bucket.astype(np.uint16) if len(sizes) <= 2**16 else bucket, kind="stable")
    filled = np.flatnonzero(sizes)
    for number, part in zip(filled, np.split(order, np.cumsum(sizes[filled])[:-1]), strict=False):
        with _bucket_file(folder, int(number)).open("ab") as file:
            entries[part].tofile(file)


def fill_buckets(
    group: h5py.Group, kept: NDArray[np.bool_], bucket_rows: int, folder: Path
) -> None:
    """Distribute the entries of the kept rows [rows] to one file a bucket, in column order.

    The CSC matrix is as anndata writes it (data, indices = rows, indptr of columns). An entry that
    names a row that is not there is an IndexError (the caller says so in one line).
    """
    position = np.cumsum(kept) - 1
    indptr = group["indptr"][:].astype(np.int64)
    entries = int(indptr[-1])
    with bar(total=entries, what="sorting columns into rows", unit=" entries") as progress:
        for low in range(0, entries, ENTRIES_PER_CHUNK):
            high = min(low + ENTRIES_PER_CHUNK, entries)
            rows = group["indices"][low:high]
            if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(kept)):
                raise IndexError("row number out of range")
            chunk = np.empty(high - low, dtype=ENTRY)
            chunk["row"] = position[rows]
            chunk["value"] = group["data"][low:high]
            # Column of each entry: boundaries that fall in this chunk, clipped to it.
            first, last = np.searchsorted(indptr, [low, high], side="right") - 1
            last = min(last, len(indptr) - 2)
            ends = np.clip(indptr[first : last + 2], low, high)
            chunk["column"] = np.repeat(np.arange(first, last + 1), np.diff(ends))
            _append(chunk[kept[rows]], bucket_rows, folder)
            progress.update(high - low)


def read_buckets(
    kept: NDArray[np.bool_], n_genes: int, bucket_rows: int, folder: Path
) -> Iterator[tuple[NDArray[np.int64], csr_matrix]]:
    """Yield (row numbers, CSR float32) of each bucket in turn, and delete its file."""
    rows = np.flatnonzero(kept)
    for bucket, start in enumerate(range(0, len(rows), bucket_rows)):
        part = rows[start : start + bucket_rows]
        file = _bucket_file(folder, bucket)
        entries = np.fromfile(file, dtype=ENTRY) if file.exists() else np.empty(0, dtype=ENTRY)
        file.unlink(missing_ok=True)
        matrix = coo_matrix(
            (entries["value"], (entries["row"], entries["column"])), shape=(len(part), n_genes)
        )
        block = matrix.tocsr()
        block.eliminate_zeros()
        yield part, block
