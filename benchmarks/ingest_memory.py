"""Peak memory and speed of ingest, beside scanpy's read, normalise, log1p and write.

    python benchmarks/ingest_memory.py [--cells 20000 100000] [--genes 2000] [--folder DIR]

Each measurement is a fresh process that reports its own high-water mark; this one imports next to
nothing, since Linux counts a parent's memory at the fork into ru_maxrss of the child.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPORT = """
import json, resource, sys, time
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
{imports}
before, start = peak(), time.perf_counter()
{body}
seconds = time.perf_counter() - start
print(json.dumps(dict(before=before, peak=peak(), seconds=seconds)))
"""

GENERATE = """
from pathlib import Path
from components.ingest.generator import write_raw
write_raw(sys.argv[1], Path(sys.argv[2]))
"""

TO_CSC = """
import anndata
adata = anndata.read_h5ad(sys.argv[1])
adata.X = adata.X.tocsc()
adata.write_h5ad(sys.argv[2])
"""

TO_DENSE_LOG1P = """
import anndata, scanpy
adata = anndata.read_h5ad(sys.argv[1])
scanpy.pp.normalize_total(adata, target_sum=1e4)
scanpy.pp.log1p(adata)
adata.X = adata.X.toarray()
adata.write_h5ad(sys.argv[2])
"""

SCANPY = """
adata = anndata.read_h5ad(sys.argv[1])
scanpy.pp.normalize_total(adata, target_sum=1e4)
scanpy.pp.log1p(adata)
adata.X = scipy.sparse.csr_matrix(adata.X)
adata.write_h5ad(sys.argv[2])
"""

INGEST = "ingest(sys.argv[1], sys.argv[2])"


def python(code: str, *arguments: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def measured(imports: str, body: str, source: str, target: Path) -> dict[str, float]:
    """Return MiB before and at the peak, and seconds, of ``body``."""
    code = REPORT.format(imports=imports, body=body)
    return json.loads(python(code, source, str(target)).splitlines()[-1])


def row(what: str, cells: int, size: float, found: dict[str, float]) -> str:
    """Return a line of the table."""
    return (
        f"| {what} | {cells:,} | {size:,.0f} | {found['before']:,.0f} | {found['peak']:,.0f} | "
        f"{found['seconds']:.1f} | {cells / found['seconds']:,.0f} |"
    )


def main() -> None:
    """Make the files, measure each and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the files go (default: the temp folder)",
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    ingest = ("from components.ingest.ingest import ingest", INGEST)
    scanpy = ("import anndata, scanpy, scipy.sparse", SCANPY)
    print("| what | cells | file MB | MiB, imports | MiB, peak | s | cells/s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for cells in arguments.cells:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            uri = f"sim://screen?cells={cells}&genes={arguments.genes}&perturbations=100"
            files = {
                kind: Path(folder) / f"{kind}.h5ad"
                for kind in ("CSR counts", "CSC counts", "dense log1p")
            }
            python("import sys\n" + GENERATE, uri, str(files["CSR counts"]))
            python("import sys\n" + TO_CSC, str(files["CSR counts"]), str(files["CSC counts"]))
            python(
                "import sys\n" + TO_DENSE_LOG1P,
                str(files["CSR counts"]),
                str(files["dense log1p"]),
            )
            for kind, path in files.items():
                size = path.stat().st_size / 1e6
                found = measured(*ingest, str(path), Path(folder) / f"cells {kind}")
                print(row(f"ingest, {kind}", cells, size, found), flush=True)
            found = measured(*ingest, uri, Path(folder) / "cells sim")
            print(row("ingest, sim://", cells, 0, found), flush=True)
            if cells == min(arguments.cells):
                path = files["CSR counts"]
                found = measured(*scanpy, str(path), Path(folder) / "scanpy.h5ad")
                size = path.stat().st_size / 1e6
                print(row("scanpy, CSR counts", cells, size, found), flush=True)


if __name__ == "__main__":
    main()
