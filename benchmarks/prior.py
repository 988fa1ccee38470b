"""Priors from real tables: time, memory, coverage, and whether one knows what another lists.

    python -m benchmarks.prior FOLDER [--pretrained random://tiny] [--priors 'graph:…' …]

FOLDER holds gene2go.parquet and the pairs of STRING, HuMAP and Reactome. The last columns are areas
under the ROC curve: are the genes of a listed pair nearer to each other (cosine) than those of
pairs dealt anew, each gene as often? 0.5 is chance, and what a shuffled prior must have.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.stats import mannwhitneyu

from components.prior.prior import prior
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.gene_prior import GENES, TABLE_FILE, TENSOR
from components.shared.storage.columns import read_columns

PAIRS = {name: f"{name}_pairs.csv.gz" for name in ("stringdb", "humap", "reactome")}
PRIORS = (
    *(f"graph:@/{file}" for file in PAIRS.values()),
    "annotation:@/gene2go.parquet",
    "concat(annotation:@/gene2go.parquet, graph:@/stringdb_pairs.csv.gz)",
    "shuffled:annotation:@/gene2go.parquet",
    "random:256",
)
"""@ stands for the folder."""

MEASURE = """
import sys
from benchmarks.prior import measure
measure(*sys.argv[1:])
"""
"""Each prior in a fresh process: a process remembers its peak."""

Pairs = list[tuple[str, str]]


def read_pairs(path: Path) -> Pairs:
    """Return the pairs of a list, those of a gene with itself left out."""
    columns = read_columns(path, path.name, ("entity1", "entity2"))
    return [(a, b) for a, b in zip(*columns.values(), strict=True) if a != b]


def area(folder: Path, pairs: Pairs) -> float:
    """Return how often listed partners are nearer than dealt ones, by the prior in ``folder``."""
    with safe_open(folder / TABLE_FILE, "np") as file:
        rows = {token: i for i, token in enumerate(json.loads(file.metadata()[GENES]))}
        table = file.get_tensor(TENSOR).astype(np.float64)
    length = np.linalg.norm(table, axis=1)
    known = [(rows[a], rows[b]) for a, b in pairs if a in rows and b in rows]
    left, right = np.array([(a, b) for a, b in known if length[a] and length[b]]).T
    unit = table / np.maximum(length, 1e-300)[:, None]
    dealt = np.random.default_rng(0).permutation(right)
    partners, others = _cosine(unit, left, right), _cosine(unit, left, dealt)
    above = mannwhitneyu(partners, others, method="asymptotic").statistic
    return float(above / len(partners) / len(others))


def _cosine(
    unit: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    return (unit[left] * unit[right]).sum(axis=1)


def measure(text: str, pretrained: str, target: str) -> None:
    """Make one prior in this process and print its time and peak memory as JSON."""
    start = time.perf_counter()
    prior(text, pretrained, target)
    seconds = time.perf_counter() - start
    # Not ru_maxrss, into which Linux counts the parent's memory at the fork.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    print(json.dumps({"seconds": seconds, "peak": int(status["VmHWM"].split()[0]) / 2**20}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pretrained", default="random://tiny")
    parser.add_argument("--priors", nargs="+", default=PRIORS)
    given = parser.parse_args()
    pairs = {name: read_pairs(given.folder / file) for name, file in PAIRS.items()}
    print(f"| prior | width | genes | of the vocabulary | s | GiB | {' | '.join(pairs)} |")
    print("|---" * (6 + len(pairs)) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for i, text in enumerate(given.priors):
            target = Path(scratch) / str(i)
            asked = [text.replace("@", str(given.folder)), given.pretrained, str(target)]
            run = [sys.executable, "-c", MEASURE, *asked]
            said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
            took = json.loads(said.splitlines()[-1])
            facts = opening(target, GENE_PRIOR).summary
            areas = " | ".join(f"{area(target, listed):.3f}" for listed in pairs.values())
            print(
                f"| `{text.replace('@/', '')}` | {facts['width']} | {facts['covered_genes']:,} | "
                f"{facts['covered_fraction']:.1%} | {took['seconds']:.1f} | {took['peak']:.2f} | "
                f"{areas} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
