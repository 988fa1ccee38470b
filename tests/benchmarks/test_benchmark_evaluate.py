"""The benchmark of evaluate at the smallest size: what it makes is read, and it compares right."""

from pathlib import Path

import polars as pl
import pytest
from scipy.sparse import issparse

from benchmarks.evaluate import (
    ALONE,
    ENERGY,
    FLOAT64,
    LABEL,
    SIDES,
    Run,
    cell_eval,
    differences,
    energy_in_float64,
    generate,
    ours,
    ours_full,
)
from components.evaluate.inputs.pair import pair_of
from components.shared.artifacts.predictions import Predictions

SIZES = {"cells": 160, "genes": 40, "perturbations": 4, "controls": 100}


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_generated_is_what_predict_writes(tmp_path: Path, sparse: bool) -> None:
    generate(tmp_path / "one", sparse=sparse, **SIZES)
    generate(tmp_path / "two", sparse=sparse, **SIZES)
    found = [Predictions.open(tmp_path / name) for name in ("one", "two")]
    pair, again = (pair_of(each.on_disk, str(each.file)) for each in found)
    assert issparse(pair.predicted[:3]) == sparse
    assert [len(pair.rows[label]) for label in pair.rows] == [15, 15, 15, 15, 100]
    assert pair.genes[:4] == pair.perturbations and len(pair.genes) == 40
    assert (pair.measured[:] != again.measured[:]).sum() == 0


def test_ours_gives_cell_evals_table_and_says_where_the_time_went(tmp_path: Path) -> None:
    generate(tmp_path / "dense", sparse=False, **SIZES)
    runs = {}
    for side in (ours, cell_eval, energy_in_float64):
        table, seconds = side(tmp_path / "dense", 1)
        runs[side] = Run(side.__name__, table, seconds, 2.0, 1.0)
    found = differences(runs[ours], runs[cell_eval])
    assert len(found) == runs[cell_eval].table.width - 1 > 20
    assert max(found.values()) < 1e-6
    assert set(differences(runs[ours], runs[energy_in_float64])) == {ENERGY}
    seconds = runs[ours].seconds
    assert runs[ours].total == pytest.approx(sum(seconds.values()) - seconds[ALONE])
    assert runs[ours].row(runs[cell_eval]).startswith("| ours |")
    generate(tmp_path / "sparse", sparse=True, **SIZES)
    table, seconds = ours_full(tmp_path / "sparse", 1)
    assert table.height == 4 and "ceiling" in seconds and FLOAT64 in SIDES


def test_a_value_that_one_side_lacks_is_no_small_difference() -> None:
    one = pl.DataFrame({LABEL: ["b", "a", "c"], "x": [1.0, 2.0, None], "y": [1.0, None, 0.0]})
    two = pl.DataFrame({LABEL: ["a", "b", "c"], "x": [2.5, 1.0, None], "y": [1.0, 1.0, 0.0]})
    found = differences(*(Run("", table, {}, 0.0, 0.0) for table in (one, two)))
    assert found == {"x": 0.5, "y": float("inf")}
