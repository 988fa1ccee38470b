"""Files that are not h5ad, how to convert them, and HDF5 filters that are missing here."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from components.shared.telling.errors import InputError, shortlist

POINTER = b"version https://git-lfs.github.com/spec/"
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
KINDS = {
    ".rds": "a file of R; in R, write it with zellkonverter::writeH5AD or MuDataSeurat::WriteH5AD",
    ".mtx": "a matrix market file; scanpy.read_10x_mtx(folder).write_h5ad('cells.h5ad') reads it "
    "with the tables of genes and barcodes beside it",
    ".csv": "a table as text; anndata.io.read_csv(file).write_h5ad('cells.h5ad') reads genes as "
    "columns, and obs needs perturbation and line",
    ".tar": "an archive; unpack it and give the h5ad in it",
}
MATRIX_MARKET = ("matrix.mtx", "matrix.mtx.gz")
"""Names in a folder that Cell Ranger writes."""
KINDS |= {".rdata": KINDS[".rds"], ".tsv": KINDS[".csv"], ".txt": KINDS[".csv"]}
FILTERS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}
"""Names of filters that anndata's documentation or others' tools use."""


def check_is_hdf5(path: Path, name: str) -> None:
    """Check that a file is HDF5, or say what it is, and how to make an h5ad of it.

    Raises:
        InputError: it is not; says what it is, and how to make an h5ad of it.
    """
    if h5py.is_hdf5(path):
        return
    raise InputError(f"{name}: {_not_hdf5(path)}")


def _not_hdf5(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(400)
    name = path.name
    if head.startswith(POINTER):
        found = re.search(rb"size (\d+)", head)
        size = f" for {int(found[1]) / 1e6:,.0f} MB" if found else ""
        return (
            f"is a Git LFS pointer{size}, not the file itself; fetch it with "
            f"git lfs pull --include '{name}' in its repository"
        )
    if head.startswith(GZIP):
        what = "an archive (tar.gz)" if ".tar" in name or name.endswith(".tgz") else "gzip"
        step = f"tar -xzf {name}" if what != "gzip" else f"gunzip -k {name}"
        return f"is compressed as a whole, {what}; unpack it ({step}) and give the h5ad in it"
    if head.startswith(ZIP):
        return f"is a zip archive; unpack it (unzip {name}) and give the h5ad or .zarr in it"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not the file itself; give the address that downloads the file"
    kind = KINDS.get(path.suffix.lower(), "")
    return (
        f"not an HDF5 file{f', but {kind}' if kind else ''}; expected an h5ad as anndata writes it"
    )


def is_10x(file: Any) -> bool:
    """Return whether a file is a 10x matrix of Cell Ranger 3 or later."""
    group = file.get("matrix")
    return group is not None and hasattr(group, "get") and "features" in group


def check_is_anndata(file: Any, name: str) -> None:
    """Check that an HDF5 file is none of the other kinds that hold cells, or say which it is.

    Raises:
        InputError: it is; says which, and how to make an h5ad of it.
    """
    if "mod" in file and hasattr(file["mod"], "keys") and "X" not in file:
        found = sorted(file["mod"])
        first = next((m for m in found if m in ("rna", "gex", "gene")), [*found, "rna"][0])
        raise InputError(
            f"{name}: is a MuData file with modalities {shortlist(found)}; write the one with gene "
            f"expression as an h5ad: mudata.read_h5mu(file).mod['{first}'].write_h5ad('cells.h5ad')"
        )
    if "matrix" in file and "row_attrs" in file:
        raise InputError(
            f"{name}: is a loom file; write it as an h5ad, with loompy installed: "
            "anndata.io.read_loom(file).write_h5ad('cells.h5ad')"
        )
    if "X" in file or "obs" in file:
        return
    old = [key for key in file if hasattr(file[key], "get") and "barcodes" in file[key]]
    if old:
        raise InputError(
            f"{name}: is a 10x matrix of Cell Ranger 2 (genome {shortlist(old)}); write it as an "
            "h5ad: scanpy.read_10x_h5(file).write_h5ad('cells.h5ad')"
        )


def check_filters(parts: Iterable[Any], name: str) -> None:
    """Check that what compresses parts of a file can be undone here; zarr brings its own means."""
    for part in parts:
        if isinstance(part, h5py.Group):
            check_filters(part.values(), name)
        elif isinstance(part, h5py.Dataset):
            plist = part.id.get_create_plist()
            for code in (plist.get_filter(number)[0] for number in range(plist.get_nfilters())):
                if h5py.h5z.filter_avail(code) or has_plugin(code):
                    continue
                raise InputError(
                    f"{name}: {part.name.strip('/')} is compressed with "
                    f"{FILTERS.get(code, 'a filter')} (HDF5 filter {code}), which h5py lacks; the "
                    "file is whole: write it again where hdf5plugin is installed, "
                    "adata.write_h5ad(file, compression='gzip'), or install hdf5plugin alongside "
                    "ingest"
                )


def has_plugin(code: int) -> bool:
    """Return whether hdf5plugin is installed and has the filter; importing it registers its own."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))


def check_is_no_folder(path: Path, name: str) -> None:
    """Check that a path of this machine is no folder, as Cell Ranger's of a matrix is.

    Raises:
        InputError: it is one; says which files of it may be meant.
    """
    if not path.is_dir():
        return
    inside = sorted(other.name for other in path.iterdir())
    if any(file in inside for file in MATRIX_MARKET):
        raise InputError(f"{name}: is a folder with {KINDS['.mtx']}")
    files = [file for file in inside if file.endswith((".h5ad", ".zarr", ".h5"))]
    holds = f"; it holds {shortlist(files)}" if files else ""
    raise InputError(f"{name}: is a folder; expected a file{holds}")
