"""Time and memory of the metrics: ours beside cell-eval and cell-eval2, each in its own process.

    python -m benchmarks.evaluate [--cells 15000] [--genes 6546] [--perturbations 40] ...
    python -m benchmarks.evaluate --full

A predictions artifact of that size is generated on disk, the prediction drawn with 0.6 times the
effects. Each side reads it and computes cell-eval's full profile; cell-eval2 by its replacement for
`cell_eval.MetricsEvaluator`, on the CPU. Matrices are dense, with which cell-eval is faster than
with sparse ones. Seconds are from the file to the table, without imports, with compilation; memory
is the peak of the process. Differences are the largest of any perturbation's value from
cell-eval's. cell-eval averages float32 distances in float32, so `pearson_edistance` is compared
with the same in float64 too. Ours is also timed on the test of differential expression alone.
`--full` is ours alone, from sparse matrices, with the ceiling of the data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from components.shared.storage.machine import cpus

SMALL = {"cells": 15_000, "genes": 6546, "perturbations": 40, "controls": 11_000}
FULL = {"cells": 120_000, "genes": 6546, "perturbations": 1047, "controls": 10_691}
EFFECT = 0.6
"""What is predicted of each effect."""
BLOCK = 1024
LABEL, ENERGY = "perturbation", "pearson_edistance"
TEST = "differential expression"
ALONE = f"{TEST} alone"

Seconds = dict[str, float]


def generate(
    folder: Path,
    *,
    sparse: bool,
    cells: int,
    genes: int,
    perturbations: int,
    controls: int,
) -> None:
    """Write a predictions artifact, cells of a perturbation together and the controls last."""
    import h5py
    import pandas as pd
    from anndata.io import read_elem, write_elem
    from scipy.sparse import csr_matrix

    from components.shared.artifacts.artifact import PREDICTIONS, writing
    from components.shared.artifacts.perturbation import CONTROL
    from components.shared.artifacts.predictions import PREDICTIONS_FILE, TRUTH
    from components.shared.storage.csr_writer import CsrWriter
    from components.shared.telling.progress import bar

    rng = np.random.default_rng(0)
    perturbed = cells - controls
    number = np.concatenate(
        [np.sort(np.arange(perturbed) % perturbations), np.full(controls, perturbations)]
    )
    base = np.log(rng.gamma(0.6, 2.0, genes) + 1e-3)
    effects = rng.normal(0, 0.5, (perturbations + 1, genes)).astype(np.float32)
    effects *= rng.random(effects.shape) < 0.1
    effects[perturbations] = 0

    def draw(rows: Any, share: float) -> csr_matrix:
        depth = rng.gamma(8.0, 1 / 8, (len(rows), 1))
        counts = rng.poisson(depth * np.exp(base + share * effects[rows])).astype(np.float32)
        return csr_matrix(np.log1p(counts * (1e4 / np.maximum(counts.sum(1, keepdims=True), 1))))

    names = [f"G{i}" for i in range(genes)]
    obs = pd.DataFrame(
        {
            LABEL: pd.Categorical.from_codes(number, [*names[:perturbations], CONTROL]),
            "cell_line": "rpe1",
            "is_control": number == perturbations,
            "seen_in_training": True,
        },
        index=[f"cell{i}" for i in range(cells)],
    )
    drafted = writing(folder, PREDICTIONS, parameters={})
    with drafted as draft, h5py.File(draft.path / PREDICTIONS_FILE, "w") as file:
        writers = [CsrWriter(group, genes) for group in (file, file.create_group("layers"))]
        with bar(total=cells, what="generating", unit=" cells") as progress:
            starts = [*range(0, perturbed, BLOCK), *range(perturbed, cells, BLOCK)]
            for start, stop in zip(starts, [*starts[1:], cells], strict=True):
                truth = draw(number[start:stop], 1.0)
                control = start >= perturbed
                writers[0].append(truth if control else draw(number[start:stop], EFFECT))
                writers[1].append(truth)
                progress.update(stop - start)
        file.move("layers/X", f"layers/{TRUTH}")
        writers[0].finish(obs, names, {"perturbation_column": LABEL, "control": CONTROL})
        for name in () if sparse else ("X", f"layers/{TRUTH}"):
            values = read_elem(file[name]).toarray()
            del file[name]
            write_elem(file, name, values)


def cell_eval(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    """Run cell-eval as its own command does."""
    from cell_eval import MetricsEvaluator

    return _evaluator(MetricsEvaluator, folder, threads)


def cell_eval2(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    """Run cell-eval2 by the class that takes the place of cell-eval's."""
    from cell_eval2.compat import MetricsEvaluator

    return _evaluator(MetricsEvaluator, folder, threads)


def _evaluator(evaluator: Callable, folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    import anndata

    from components.shared.artifacts.perturbation import CONTROL
    from components.shared.artifacts.predictions import PREDICTIONS_FILE, TRUTH

    seconds: Seconds = {}
    with clock(seconds, "reading"):
        both = anndata.read_h5ad(folder / PREDICTIONS_FILE)
        obs, var = both.obs[[LABEL]], both.var
        predicted = anndata.AnnData(both.X, obs=obs.copy(), var=var.copy())
        real = anndata.AnnData(both.layers[TRUTH], obs=obs.copy(), var=var.copy())
        del both
    with tempfile.TemporaryDirectory() as scratch:
        with clock(seconds, TEST):
            made = evaluator(
                predicted,
                real,
                control_pert=CONTROL,
                pert_col=LABEL,
                num_threads=threads,
                outdir=scratch,
            )
        with clock(seconds, "the other metrics"):
            table, _ = made.compute(profile="full", write_csv=False)
    return table, seconds


def ours(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    """Run the evaluate task's own code for one prediction."""
    table, seconds, pair = _ours(folder, threads)
    with clock(seconds, ALONE):
        for matrix in (pair.predicted, pair.measured):
            _test_alone(pair, matrix, threads)
    return table, seconds


def ours_full(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    """Run it with the ceiling of the data."""
    from components.evaluate.contenders.yardstick import halves
    from components.evaluate.measures.scoring import score

    table, seconds, pair = _ours(folder, threads)
    with clock(seconds, "ceiling"):
        split = halves(pair)
        assert split is not None  # noqa: S101
        score(split, threads=threads, what="half")
    return table, seconds


def _ours(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds, Any]:
    from components.evaluate.inputs.pair import pair_of
    from components.evaluate.measures.measured import Measured
    from components.evaluate.measures.scoring import score
    from components.shared.artifacts.predictions import Predictions
    from components.shared.storage.machine import share_freed_memory

    seconds: Seconds = {}
    share_freed_memory()
    with clock(seconds, "opening and checks"):
        given = Predictions.open(folder)
        pair = pair_of(given.on_disk, str(given.file))
    with clock(seconds, "measured side"):
        measured = Measured.of(pair, threads=threads)
    with clock(seconds, "prediction"):
        found = score(pair, threads=threads, measured=measured, what="prediction")
    return found.table, seconds, pair


def _test_alone(pair: Any, matrix: Any, threads: int) -> None:
    """Read the cells, rank them against the controls and make what cell-eval reads of the table."""
    from concurrent.futures import ThreadPoolExecutor

    from scipy.stats import false_discovery_control

    from components.evaluate.measures.rank_test import SortedControls, de_table, rank_test

    def tested(label: str) -> tuple[Any, Any]:
        cells = matrix[pair.rows[label]]
        return cells.mean(axis=0), rank_test(cells, np.array([len(cells)]), controls)[0]

    own = matrix[pair.rows[pair.control]]
    controls = SortedControls.of(own)
    with ThreadPoolExecutor(threads) as pool:
        means, p_value = map(np.array, zip(*pool.map(tested, pair.perturbations), strict=True))
    de_table(
        pair.perturbations,
        pair.genes,
        means=means,
        reference=own.mean(axis=0),
        p_value=p_value,
        fdr=false_discovery_control(p_value, axis=1),
    )


def energy_in_float64(folder: Path, threads: int) -> tuple[pl.DataFrame, Seconds]:
    """Compute `pearson_edistance` as cell-eval does, from float64 values."""
    from scipy.stats import pearsonr
    from sklearn.metrics import pairwise_distances

    from components.evaluate.inputs.pair import pair_of
    from components.shared.artifacts.predictions import Predictions

    given = Predictions.open(folder)
    pair = pair_of(given.on_disk, str(given.file))
    energy = []
    for matrix in (pair.measured, pair.predicted):
        control = matrix[pair.rows[pair.control]].astype(np.float64)
        found = []
        for label in pair.perturbations:
            cells = matrix[pair.rows[label]].astype(np.float64)
            across, within = pairwise_distances(cells, control), pairwise_distances(cells)
            found.append(2 * across.mean() - within.mean())  # less a constant
        energy.append(found)
    value = float(pearsonr(*energy).correlation)
    return pl.DataFrame({LABEL: pair.perturbations}).with_columns(pl.lit(value).alias(ENERGY)), {}


OURS_FULL, FLOAT64 = "ours, with the ceiling", "float64"
SIDES = {
    "cell-eval": cell_eval,
    "cell-eval2": cell_eval2,
    "ours": ours,
    OURS_FULL: ours_full,
    FLOAT64: energy_in_float64,
}


@contextmanager
def clock(seconds: Seconds, what: str) -> Iterator[None]:
    """Note how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


@dataclass(frozen=True)
class Run:
    """What a side's process reports."""

    side: str
    table: pl.DataFrame
    seconds: Seconds
    cpu: float
    """Seconds of all threads, imports among them: it does not depend on what else is running."""
    peak: float
    """GiB"""

    @property
    def total(self) -> float:
        """Seconds from the file to the table."""
        return sum(value for part, value in self.seconds.items() if part != ALONE)

    def row(self, first: "Run") -> str:
        """Return a line of the table."""
        parts = ", ".join(f"{part} {value:.1f}" for part, value in self.seconds.items())
        return (
            f"| {self.side} | {self.total:.1f} | {first.total / self.total:.1f} | {self.cpu:.0f} "
            f"| {self.peak:.2f} | {parts} |"
        )


HEADER = "| side | s | times faster | s of CPU | GiB, peak | s, of which |\n" + "|---" * 6 + "|"


def run(side: str, folder: Path, threads: int) -> Run:
    """Run a side in a process of its own."""
    table, report = folder.parent / "table.parquet", folder.parent / "report.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.evaluate", "--side", side]
    command += ["--folder", str(folder), "--threads", str(threads)]
    print(f"{side}: running, load average {os.getloadavg()[0]:.1f}", flush=True)
    shown = None if side.startswith("ours") else subprocess.PIPE  # their bars are many
    done = subprocess.run(command, stderr=shown, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr or ''}")
    return Run(side, pl.read_parquet(table), **json.loads(report.read_text()))


def _run_here(side: str, folder: Path, threads: int) -> None:
    table, seconds = SIDES[side](folder, threads)
    table.write_parquet(folder.parent / "table.parquet")
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 2**20 for line in status if line.startswith("VmHWM"))
    report = {"seconds": seconds, "cpu": time.process_time(), "peak": peak}
    (folder.parent / "report.json").write_text(json.dumps(report))


def differences(run: Run, other: Run) -> dict[str, float]:
    """Return the largest difference of a perturbation's value in each metric both have.

    A value that one has and the other has not is an infinite difference.
    """
    tables = [each.table.sort(LABEL) for each in (run, other)]
    found = {}
    for name in tables[0].columns:
        if name == LABEL or name not in tables[1].columns:
            continue
        one, two = (table[name].to_numpy().astype(float) for table in tables)
        apart = np.where(np.isnan(one) & np.isnan(two), 0.0, np.abs(one - two))
        found[name] = float(np.nan_to_num(apart, nan=np.inf).max())
    return found


def compare(folder: Path, threads: int) -> None:
    """Run all sides and print the tables of cost and of differences."""
    runs = {side: run(side, folder, threads) for side in ("cell-eval", "cell-eval2", "ours")}
    exact = run(FLOAT64, folder, threads)
    first, last = runs["cell-eval"], runs["ours"]
    print(HEADER, *(each.row(first) for each in runs.values()), sep="\n")
    print(f"{TEST}: {first.seconds[TEST] / last.seconds[ALONE]:.0f} times faster than pdex")
    for side in ("ours", "cell-eval2"):
        found = differences(runs[side], first)
        worst = sorted(found, key=lambda name: -found[name])[:3]
        said = ", ".join(f"{name} by {found[name]:.1e}" for name in worst)
        of = f"{len(found)} of {first.table.width - 1} metrics"
        print(f"{side}: {of} compared with cell-eval; those that differ most: {said}")
    for side in ("ours", "cell-eval"):
        energy = differences(runs[side], exact)[ENERGY]
        print(f"{side}: {ENERGY} differs by {energy:.1e} from cell-eval's formula in float64")


def main() -> None:
    """Generate, let the sides run one after the other, and print what was seen."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--full", action="store_true", help="the whole test set, ours alone")
    for name, value in SMALL.items():
        made.add_argument(f"--{name}", type=int, help=f"default {value:,}; {FULL[name]:,} if full")
    made.add_argument("--threads", type=int, default=cpus())
    made.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the files go (default: the temp folder)",
    )
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = made.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.side:
        _run_here(options.side, options.folder, options.threads)
        return
    sizes = {k: getattr(options, k) or v for k, v in (FULL if options.full else SMALL).items()}
    print(", ".join(f"{value:,} {name}" for name, value in sizes.items()), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch) / "predictions"
        generate(folder, sparse=options.full, **sizes)
        if options.full:
            found = run(OURS_FULL, folder, options.threads)
            print(HEADER, found.row(found), sep="\n")
        else:
            compare(folder, options.threads)


if __name__ == "__main__":
    main()
