"""The ablation on the smallest screen: kept, gone on with, and told as far as it got."""

import numpy as np
import pytest

from benchmarks.ablation import FRACTION, Results, Size, do, do_all, kept, ladder, screen_of
from components.shared.splits import TEST, VAL

SIZE = Size(
    cells=420,
    genes=40,
    perturbations=6,
    epochs=1,
    batch_size=16,
    max_genes=16,
    set_size=4,
    learning_rate=1e-3,
    learning_rate_decay=0.9,
    pretrained="random://tiny",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the first and the last row of seed 1 are done."""
    folder = tmp_path_factory.mktemp("ablation")
    for run in (ladder(SIZE, 1)[0], ladder(SIZE, 1)[-1]):
        do(run, folder)
    return folder


def test_what_is_done_is_kept_and_not_done_again(folder, capsys):
    runs = [ladder(SIZE, 1)[0], ladder(SIZE, 1)[-1]]
    found = [kept(run, folder) for run in runs]
    assert all(np.isfinite(list(each["scores"].values())).all() for each in found)
    assert list(do_all(runs, folder, 1)) == []
    assert "2 runs, 2 done before" in capsys.readouterr().out
    assert kept(ladder(SIZE, 2)[0], folder) is None


def test_only_the_last_rows_run_is_scored_after_each_epoch(folder):
    first, last = (kept(run, folder) for run in (ladder(SIZE, 1)[0], ladder(SIZE, 1)[-1]))
    assert first["probes"] == []
    assert len(last["probes"]) == SIZE.epochs


def test_the_page_says_how_much_is_done_and_shows_the_baselines(folder):
    page = Results(SIZE, [1, 2], folder).page()
    assert "2 of 20 runs are done; the rows below have what there is" in page
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert "control mean + that perturbation's training delta" in rows
    assert {"reference", "+ loss on the change of sets"} <= set(rows)
    assert "+ contrast" not in rows
    reference = kept(ladder(SIZE, 1)[0], folder)["scores"]["pearson_delta"]
    assert f"| reference | {reference:.3f} |" in page
    seeds = [line.split("|")[-2].strip() for line in page.splitlines() if "control mean" in line]
    assert seeds == ["1"] * 3


@pytest.mark.parametrize(("held_out", "lines"), [("across lines", 3), ("a whole line", 1)])
def test_what_is_held_out_is_what_the_row_says(folder, held_out, lines):
    _, splits = screen_of(SIZE, 1, held_out, folder)
    table = splits.table
    held = table[table["role"] == VAL]
    assert held["cell_line"].nunique() == lines
    assert (held["perturbation"].nunique() > 3) == (held_out == "a whole line")
    assert set(table["cell_line"][table["role"] == TEST]) == {"rpe1"}
    _, other = screen_of(SIZE, 1, FRACTION, folder)
    assert not held.index.equals(other.table[other.table["role"] == VAL].index)
