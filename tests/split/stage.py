"""The split stage run on obs alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from components.shared.artifacts.cells import Cells
from components.shared.artifacts.splits import (
    Splits,
)
from components.split.split import split
from tests.helpers import cells_artifact


def obs_of(rows: list[tuple[str, str, int]]) -> pd.DataFrame:
    """Rows are (line, perturbation, number of cells)."""
    labels = [(line, p) for line, p, n in rows for _ in range(n)]
    obs = pd.DataFrame(labels, columns=["cell_line", "perturbation"])
    obs.index = [f"cell{i:04d}-{line}" for i, line in enumerate(obs["cell_line"])]
    return obs


def write_cells(folder: Path, obs: pd.DataFrame) -> Path:
    return cells_artifact(folder, obs, np.ones((len(obs), 2)), ["A", "B"])


def run(folder: Path, obs: pd.DataFrame, name: str = "splits", **keywords) -> pd.DataFrame:
    """Run the stage on ``obs``; return its table, indexed by cell name."""
    cells = folder / "cells"
    if not cells.exists():
        write_cells(cells, obs)
    keywords = {"train_lines": ["k562", "jurkat"], "test_line": "rpe1"} | keywords
    split(cells, folder / name, **keywords)
    return Splits.open(folder / name, Cells.open(cells)).table.set_index("cell")


def summary_of(folder: Path, name: str = "splits") -> dict:
    return json.loads((folder / name / "summary.json").read_text())
