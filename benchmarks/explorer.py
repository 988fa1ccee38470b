"""The explorer at full size: how large the page is, how long it takes to write and to open.

    python -m benchmarks.explorer [--perturbations 1400] [--genes 6546] [--lines 3] [--keep FILE]

Changes are generated with few strong and many weak effects and the noise of about a hundred cells
in each line. Seconds of opening are from the start of navigation to the drawn view, in a headless
Chromium on this machine with an empty profile, median of several: of the page alone, of the view
of a knock-down, and of one gene of it, which needs the whole matrix.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from components.evaluate.pages.explorer import Explored, write_explorer
from components.evaluate.pages.report import Origin
from components.shared.artifacts.training_effects import TrainingEffects

NOISE = 0.05
"""Of a measured change: log1p values that vary by 0.5 from cell to cell, in a hundred cells."""
TRIES = 5


def generated(perturbations: int, genes: int, lines: int, seed: int = 0) -> Explored:
    """Return a screen of which half was measured in the test line."""
    rng = np.random.default_rng(seed)
    names = [f"GENE{n}" for n in range(genes)]
    labels = [f"GENE{n}" for n in range(perturbations)]
    shape = perturbations, genes
    strength = rng.gamma(1.0, 0.03, (perturbations, 1))
    change = rng.standard_t(3, shape) * strength + rng.normal(0, 0.02, genes)
    change[np.arange(min(shape)), np.arange(min(shape))] -= 1.5
    change = change.astype(np.float32)
    measured = change + rng.normal(0, NOISE, shape).astype(np.float32)
    measured[perturbations // 2 :] = np.nan
    own = rng.normal(0, NOISE, (lines, *shape)).astype(np.float32) + change
    training = TrainingEffects(
        [f"line{n}" for n in range(lines)],
        labels,
        names,
        own,
        rng.integers(20, 400, (lines, perturbations)),
        rng.gamma(1.0, 0.5, (lines, genes)),
    )
    there = ~np.isnan(measured).any(axis=1)
    expected = rng.uniform(0, 0.7, perturbations)
    table = pd.DataFrame(
        {
            "perturbation": labels,
            "cells": 200,
            "measured_cells": np.where(there, 120, 0),
            "training_lines": ",".join(training.lines),
            "training_cells": training.cells.sum(axis=0),
            "known": "measured",
            "flagged": True,
            "target_measured": True,
            "agreement": rng.uniform(0, 1, perturbations),
            "control_similarity": 0.98,
            "expected_pearson_delta": expected,
            "expected_low": expected - 0.15,
            "expected_high": expected + 0.15,
            "pearson_delta": np.where(there, expected + rng.normal(0, 0.1, perturbations), np.nan),
        }
    )
    fdr = np.where(there[:, None], rng.uniform(0, 1, shape), np.nan)
    control = rng.gamma(1.0, 0.5, genes)
    return Explored("rpe1", names, table, control, change, measured, fdr, training)


def opening(file: Path, view: str, shown: str) -> float:
    """Return the seconds from navigation until a view is painted that holds ``shown``."""
    from tests.browser import Browser

    with Browser() as browser:
        page = browser.page()
        page.open(file, view)
        marks = "performance.getEntriesByName('drawn').length"
        page.wait(f"document.querySelector('{shown}') !== null && {marks} > 0", seconds=60)
        return page.value("performance.getEntriesByName('drawn').at(-1).startTime") / 1000


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--perturbations", type=int, default=1400)
    parser.add_argument("--genes", type=int, default=6546)
    parser.add_argument("--lines", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep the page in this file")
    given = parser.parse_args()
    explored = generated(given.perturbations, given.genes, given.lines)
    with tempfile.TemporaryDirectory() as scratch:
        file = given.keep or Path(scratch) / "explorer.html"
        start = time.perf_counter()
        kept = write_explorer(explored, Origin("rpe1", explored.training.lines, 0, {}, ""), file)
        took = time.perf_counter() - start
        views = {
            "the page": ("", "#table tr.shown"),
            "a knock-down": ("#GENE7", "#view .effects"),
            "one gene of it": (f"#GENE7&gene=GENE{given.genes - 1}", ".answer"),
        }
        seconds = {
            name: statistics.median(opening(file, *view) for _ in range(TRIES))
            for name, view in views.items()
        }
    print(f"{given.perturbations} x {given.genes}, {given.lines} training lines")
    print(f"load average {os.getloadavg()[0]:.1f}; {kept}")
    print(f"| page | {kept['bytes'] / 1e6:.1f} MB |\n|---|---|\n| written in | {took:.1f} s |")
    for name, value in seconds.items():
        print(f"| {name} drawn after | {value:.2f} s |")


if __name__ == "__main__":
    main()
