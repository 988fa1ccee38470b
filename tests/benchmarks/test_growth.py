"""The benchmark of growth at the smallest size: it runs stages, and counts what a cell adds."""

from pathlib import Path

import pytest

from benchmarks.growth import Used, run
from components.shared.artifacts.cells import Cells


def test_a_stage_runs_in_a_process_of_its_own_and_says_what_it_took(tmp_path: Path) -> None:
    used = run("ingest", "sim://screen?cells=200&genes=40&perturbations=8", str(tmp_path / "cells"))
    assert len(Cells.open(tmp_path / "cells").obs) == 200
    assert 10 < used.imports <= used.peak < 4000 and used.seconds > 0
    with pytest.raises(SystemExit, match="ingest failed:"):
        run("ingest", "sim://screen?cells=none", str(tmp_path / "other"))


def test_what_a_cell_adds_is_that_beyond_the_first_size() -> None:
    small, large = Used(100, 200, 2.0), Used(100, 210, 4.0)
    assert small.row("split", 1000, small, 1000) == "| split | 1,000 | 100 | 200 | 0 | 2.0 | 2.00 |"
    row = large.row("split", 11_485, small, 1000)  # 10 MiB for 10,485 cells
    assert row == "| split | 11,485 | 100 | 210 | 1,000 | 4.0 | 0.35 |"
