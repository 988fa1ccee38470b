"""The ablation and the comparison of priors at their smallest: kept, resumed, told so far."""

import numpy as np
import pytest

from benchmarks import ablation, compare_priors
from benchmarks.ablation import (
    EFFECTS,
    HELD_OUT,
    NOTHING,
    SPREAD,
    Results,
    Size,
    do_all,
    do_and_keep,
    file_of,
    ladder,
    opened,
)
from benchmarks.staged_run import SMALL
from components.shared.artifacts.splits import TEST, VAL

SIZE = Size(cells=420, genes=40, perturbations=6, epochs=1)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"max_genes": 16, "predict_window": 16, "set_size": 4}.items():
            patch.setitem(SMALL, key, value)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the first and the last row of seed 1 are done."""
    folder = tmp_path_factory.mktemp("ablation")
    for run in (ladder(SIZE, 1)[0], ladder(SIZE, 1)[-1]):
        do_and_keep(run, folder)
    return folder


def test_what_is_done_is_kept_and_not_done_again(folder, capsys, monkeypatch):
    runs = [ladder(SIZE, 1)[0], ladder(SIZE, 1)[-1]]
    monkeypatch.setattr(ablation, "do", lambda *_: pytest.fail("done again"))
    found = [do_and_keep(run, folder) for run in runs]
    assert all(np.isfinite(list(each["scores"].values())).all() for each in found)
    assert list(do_all(runs, folder, 1)) == []
    assert "2 runs, 2 done before" in capsys.readouterr().out
    assert not file_of(ladder(SIZE, 2)[0], folder).exists()
    assert not list(folder.glob("stages-*"))


def test_the_page_says_how_much_is_done_and_shows_the_baselines(folder):
    page = Results(SIZE, [1, 2], folder).page()
    assert "2 of 16 runs are done; the rows below have what there is" in page
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert "control mean + that perturbation's training delta" in rows
    assert {"reference", EFFECTS} <= set(rows)
    assert "+ contrast" not in rows
    reference = do_and_keep(ladder(SIZE, 1)[0], folder)["scores"]["pearson_delta"]
    assert f"| reference | {reference:.3f} |" in page
    seeds = [line.split("|")[-2].strip() for line in page.splitlines() if "| control mean" in line]
    assert seeds == ["1"] * 3
    assert "known effects" in page and "ahead in" in page


@pytest.mark.parametrize(("held_out", "lines"), [(SPREAD, 2), (NOTHING, 0)])
def test_what_is_held_out_is_what_the_row_says(folder, held_out, lines):
    _, splits = opened(SIZE, 1, held_out, folder)
    table = splits.table
    held = table[table["role"] == VAL]
    assert held["cell_line"].nunique() == lines
    assert set(table["cell_line"][table["role"] == TEST]) == {"rpe1"}
    assert set(HELD_OUT) == {SPREAD, NOTHING}


def test_priors_are_scored_apart_for_what_trains_in_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        compare_priors,
        "screen",
        lambda perturbations, seed: ablation.screen(12, seed, cells=600, genes=40),
    )
    monkeypatch.setattr(compare_priors, "HELD_OUT", 1)
    asked = tmp_path, "effects and oracle", 1, 1
    found = compare_priors.do(*asked)
    assert set(found["scores"]) == {"seen", "unseen"} == set(found["known"])
    compare_priors.kept(compare_priors.file_of(*asked), lambda: found)
    page = compare_priors.page(tmp_path, [1], 1)
    assert "1 of 5 runs are done" in page
    assert "effects and oracle: known effects alone" in page
    assert "pearson_delta, unseen perturbations: effects and oracle" in page
