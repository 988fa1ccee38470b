"""Measured changes against the controls of each cell's own batch."""

import numpy as np
import pandas as pd
import pytest

from components.evaluate.measures.batch_matched import matched_change
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.splits import Splits
from components.split.split import split
from tests.helpers import cells_artifact

GENES = [f"G{i}" for i in range(30)]
LABELS = ["KLF1", "GATA1"]


def artifacts(tmp_path, *, column: bool = True, controls: int = 40):
    """Return a test line of two batches that differ, each perturbation mostly in another one."""
    rng = np.random.default_rng(0)
    effect = {label: rng.normal(0, 0.3, len(GENES)) for label in LABELS} | {CONTROL: 0.0}
    shift = {"one": np.zeros(len(GENES)), "two": rng.uniform(0, 1, len(GENES))}
    cells = [(CONTROL, batch) for batch in shift for _ in range(controls)]
    cells += [("KLF1", "one")] * 30 + [("KLF1", "two")] * 10 + [("GATA1", "two")] * 40
    rows = [(line, label, batch) for line in ("rpe1", "k562") for label, batch in cells]
    obs = pd.DataFrame(rows, columns=["cell_line", "perturbation", "batch"])
    obs.index = [f"c{i}" for i in range(len(obs))]
    obs["is_control"] = obs["perturbation"] == CONTROL
    X = np.array([2 + effect[label] + shift[batch] for _, label, batch in rows])  # noqa: N806
    folder = cells_artifact(
        tmp_path / "cells", obs if column else obs.drop(columns="batch"), X, GENES
    )
    split(folder, tmp_path / "splits", train_lines=["k562"], test_line="rpe1", val_fraction=0.0)
    found = Cells.open(folder)
    return found, Splits.open(tmp_path / "splits", found), np.array([effect[x] for x in LABELS])


def test_a_shift_between_batches_is_no_part_of_a_change_against_the_own_batch(tmp_path):
    cells, splits, effects = artifacts(tmp_path)
    found = matched_change(cells, splits, LABELS)
    np.testing.assert_allclose(found.change, effects, atol=1e-5)
    assert (found.batches, found.share) == (2, 1.0)
    changes = {"true": effects, "other": effects[::-1], "none": np.zeros_like(effects)}
    scores = found.scores(changes, LABELS, GENES)
    assert scores["pearson_delta"]["true"] == pytest.approx(1, abs=1e-6)
    assert scores["pearson_delta"]["other"] < 0.6
    assert scores["pearson_delta"]["none"] is None
    assert scores["mae_delta"]["true"] == pytest.approx(0, abs=1e-5)
    assert scores["mae_delta"]["none"] == pytest.approx(np.abs(effects).mean(), abs=1e-5)
    assert scores["discrimination_score_l1"]["true"] == 1
    assert scores["discrimination_score_l1"]["other"] == 0.5


def test_without_batches_or_enough_controls_in_two_of_them_there_is_nothing_to_match(tmp_path):
    for name, given in (("no column", {"column": False}), ("few", {"controls": 9})):
        cells, splits, _ = artifacts(tmp_path / name, **given)
        assert matched_change(cells, splits, LABELS) is None
