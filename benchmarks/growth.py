"""Peak memory and time a cell of each stage, as the number of cells grows.

    python -m benchmarks.growth [--cells 4000] [--times 1 2 4] [--genes 1000] [--folder DIR]

Every stage runs on a generated screen of so many cells, then of 2 and 4 times as many, of the same
genes and perturbations. Each run is a process of its own that reports its own peak; seconds are
those of its CPU, since they hardly depend on what else runs. Time a cell should stay as it is or
fall. Memory may grow by what is told of a cell (names, labels, a role) and by what a stage holds of
them by design: finetune its training cells, predict and evaluate the controls of the test line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPORT = """
import json, resource, sys, time
def used():
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_maxrss / 1024, found.ru_utime + found.ru_stime
from components.{stage}.{stage} import {stage}
before = used()
{stage}(*json.loads(sys.argv[1]), **json.loads(sys.argv[2]))
after = used()
print(json.dumps([before[0], after[0], after[1] - before[1]]))
"""
PRETRAINED = "random://tiny"
TRAINED = {
    "epochs": 1,
    "batch_size": 64,
    "max_genes": 64,
    "set_size": 8,
    "predict_window": 512,
    "validation_cells": 16,
}
"""Settings with which a model is trained for as long as it takes to see its cells once."""


@dataclass(frozen=True)
class Used:
    """What a stage took."""

    imports: float
    """MiB before it began."""
    peak: float
    """MiB"""
    seconds: float
    """Of the CPU."""

    def row(self, stage: str, cells: int, first: "Used", first_cells: int) -> str:
        """Return a line of the table."""
        more = (self.peak - first.peak) * 2**20 / max(cells - first_cells, 1)
        return (
            f"| {stage} | {cells:,} | {self.imports:,.0f} | {self.peak:,.0f} "
            f"| {more if cells > first_cells else 0:,.0f} "
            f"| {self.seconds:.1f} | {1000 * self.seconds / cells:.2f} |"
        )


def run(stage: str, *arguments: str, **options: object) -> Used:
    """Run a stage in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", REPORT.format(stage=stage)]
    command += [json.dumps(arguments), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{stage} failed:\n{done.stderr}")
    return Used(*json.loads(done.stdout.splitlines()[-1]))


def stages(folder: Path, cells: int, genes: int, perturbations: int) -> Iterator[tuple[str, Used]]:
    """Run all stages, one after the other, on a screen of this size; yield what each took."""
    uri = f"sim://screen?cells={cells}&genes={genes}&perturbations={perturbations}&lines=4"
    made = {
        name: str(folder / name)
        for name in ("cells", "splits", "prior", "model", "predictions", "evaluation")
    }
    inputs = made["cells"], made["splits"]
    lines = {"train_lines": ["k562", "hepg2", "jurkat"], "test_line": "rpe1"}
    yield "ingest", run("ingest", uri, made["cells"])
    yield "split", run("split", *inputs, **lines)
    yield "prior", run("prior", "effects", PRETRAINED, made["prior"])
    trained = *inputs, made["prior"], made["model"]
    yield "finetune", run("finetune", *trained, pretrained=PRETRAINED, overrides=TRAINED)
    yield "predict", run("predict", made["model"], *inputs, made["predictions"])
    scored = made["predictions"], made["cells"], made["splits"], made["evaluation"]
    yield "evaluate", run("evaluate", *scored, prior=made["prior"])


def main() -> None:
    """Run every size and print the table as it grows."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--cells", type=int, default=4000)
    made.add_argument("--times", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--genes", type=int, default=1000)
    made.add_argument("--perturbations", type=int, default=24)
    made.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the files go (default: the temp folder)",
    )
    options = made.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| stage | cells | MiB, imports | MiB, peak | bytes a further cell | s | ms a cell |")
    print("|---|---|---|---|---|---|---|", flush=True)
    first: dict[str, Used] = {}
    for times in options.times:
        cells = options.cells * times
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for stage, used in stages(Path(folder), cells, options.genes, options.perturbations):
                start = first.setdefault(stage, used)
                print(used.row(stage, cells, start, options.cells * options.times[0]), flush=True)


if __name__ == "__main__":
    main()
