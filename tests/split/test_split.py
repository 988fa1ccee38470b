import json
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.artifacts.artifact import SPLITS, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.splits import (
    CONTROL_BASAL,
    CONTROL_BOTH,
    CONTROL_REFERENCE,
    REQUEST_FILE,
    ROLES,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
    Splits,
)
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.helpers import cells_artifact
from tests.split.stage import obs_of, run, summary_of

LINES = ("k562", "jurkat", "rpe1")


@pytest.fixture(scope="module")
def obs() -> pd.DataFrame:
    shared = [(line, p, 5) for line in LINES for p in ("A", "B", "C", "D+E", "F")]
    own = [("k562", "K", 4), ("jurkat", "J", 4), ("rpe1", "R", 3), ("hepg2", "A", 2)]
    controls = [(line, CONTROL, 11) for line in (*LINES, "hepg2")]
    return obs_of(shared + own + controls)


# What must hold for any cells ---------------------------------------------------------------------


@st.composite
def screens(draw) -> tuple[pd.DataFrame, list[str], dict]:
    """Cells in any order, lines that train, and the other arguments; the last line tests."""
    lines = [f"line{i}" for i in range(draw(st.integers(2, 5)))]
    rows = []
    for line in lines:
        own = draw(st.sets(st.sampled_from(["B", "C", "D", "C+D", "E", "ctrl"]), max_size=5))
        # A in every line and one more in training lines, so that no set can be empty.
        names = {"A", "B"} | own if line != lines[-1] else {"A"} | own
        rows += [(line, name, draw(st.integers(1, 3))) for name in sorted(names)]
        rows.append((line, CONTROL, draw(st.integers(2, 7))))
    obs = obs_of(rows)
    obs = obs.iloc[draw(st.permutations(range(len(obs))))]
    keywords = {
        "val_fraction": draw(st.sampled_from([0.0, 0.05, 0.3, 0.5])),
        "restrict_test_to_training": draw(st.booleans()),
        "halve_controls": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**53)),
    }
    return obs, lines[: draw(st.integers(1, len(lines) - 1))], keywords


@settings(max_examples=60, deadline=None)
@given(screens())
def test_no_cell_leaks_whatever_the_screen(screen):
    obs, train, keywords = screen
    test = max(obs["cell_line"])
    with tempfile.TemporaryDirectory() as folder:
        table = run(Path(folder), obs, train_lines=train, test_line=test, **keywords)
        summary = summary_of(Path(folder))
    assert list(table.index) == list(obs.index)
    assert (table["perturbation"].to_numpy() == obs["perturbation"].to_numpy()).all()
    assert table["role"].isin(ROLES).all()
    role, line, label = table["role"], table["cell_line"], table["perturbation"]
    control = label == CONTROL
    # No cell of the test line is learnt from or chosen by; nothing else is tested.
    assert set(line[role.isin([TRAIN, VAL])]) <= set(train)
    assert set(line[role == TEST]) == {test}
    assert not (control & role.isin([TRAIN, VAL, TEST])).any()
    assert not (~control & role.isin([CONTROL_BASAL, CONTROL_REFERENCE, CONTROL_BOTH])).any()
    # What validates does not train in its line, and is spread over the lines.
    assert (VAL in set(role)) == (keywords["val_fraction"] > 0)
    validated = {name: set(label[(role == VAL) & (line == name)]) for name in train}
    room = [len(names) < len(set(label[~control & (line == n)])) for n, names in validated.items()]
    with_room = [len(names) for names, more in zip(validated.values(), room, strict=True) if more]
    assert not with_room or max(map(len, validated.values())) - min(with_room) <= 1
    for name in set(line[role == VAL]):
        assert validated[name].isdisjoint(label[(role == TRAIN) & (line == name)])
    # Halves cover the controls of every used line and differ by one at most.
    for name in [*train, test]:
        pools = role[control & (line == name)]
        if keywords["halve_controls"]:
            halves = (pools == CONTROL_BASAL).sum(), (pools == CONTROL_REFERENCE).sum()
            assert sum(halves) == len(pools) and abs(halves[0] - halves[1]) <= 1
        else:
            assert (pools == CONTROL_BOTH).all()
    # Every perturbed cell of a training line is used, and every one that can be tested is tested.
    assert not (role[line.isin(train)] == UNUSED).any()
    assert (role[~line.isin([*train, test])] == UNUSED).all()
    trained = set(label[role.isin([TRAIN, VAL])])
    restricted = keywords["restrict_test_to_training"]
    expected = ~control & (line == test) & (label.isin(trained) | (not restricted))
    assert ((role == TEST) == expected).all()
    assert summary["training_cells"] == (role == TRAIN).sum()
    assert summary["unused_cells"] == (role == UNUSED).sum()
    assert sum(summary["unused_because"].values()) == summary["unused_cells"]
    assert summary["few_shot"] is False


@settings(max_examples=25, deadline=None)
@given(screens(), st.randoms(use_true_random=False))
def test_roles_do_not_depend_on_the_order_of_the_cells(screen, random):
    obs, train, keywords = screen
    keywords |= {"train_lines": train, "test_line": max(obs["cell_line"])}
    order = list(range(len(obs)))
    random.shuffle(order)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = run(Path(one), obs, **keywords)
        second = run(Path(other), obs.iloc[order], **keywords)
    pd.testing.assert_frame_equal(first.iloc[order], second)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_draws(tmp_path, obs):
    tables = {
        name: run(tmp_path, obs, name, seed=seed, val_fraction=0.5, halve_controls=True)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    }
    parquet = {name: (tmp_path / name / "splits.parquet").read_bytes() for name in tables}
    assert parquet["a"] == parquet["b"]
    for role in (CONTROL_BASAL, VAL):
        cells = [set(tables[name].index[tables[name]["role"] == role]) for name in ("a", "c")]
        assert cells[0] != cells[1]


def test_a_lines_halves_do_not_depend_on_the_other_lines(tmp_path, obs):
    three = run(tmp_path, obs, "three", halve_controls=True)
    one = run(tmp_path, obs, "one", train_lines=["jurkat"], halve_controls=True)
    for line in ("jurkat", "rpe1"):
        kept = (three["cell_line"] == line) & (three["perturbation"] == CONTROL)
        assert (three["role"][kept] == one["role"][kept]).all()


# What the arguments do ----------------------------------------------------------------------------


def test_roles_and_summary_of_a_known_screen(tmp_path, obs, capsys):
    table = run(tmp_path, obs, val_fraction=0.4, val_line="k562", halve_controls=True)
    summary = summary_of(tmp_path)
    provenance = json.loads((tmp_path / "splits" / "provenance.json").read_text())
    assert provenance["summary"] == summary
    held_out = set(table["perturbation"][table["role"] == VAL])
    assert len(held_out) == 2  # 0.4 of the six of k562
    cells = sum(4 if label == "K" else 5 for label in held_out)
    assert summary["validation_cells"] == cells
    assert summary["training_cells"] == 2 * (5 * 5 + 4) - cells
    assert summary["training_cells_per_line"] == {"k562": 29 - cells, "jurkat": 29}
    assert summary["val_line"] == "k562"
    assert summary["test_cells"] == 25 and summary["test_perturbations"] == 5
    assert summary["test_perturbations_seen"] == 5  # jurkat still trains on what k562 validates
    assert summary["test_perturbations_unseen"] == 0
    assert summary["test_controls_basal"] == 6 and summary["test_controls_reference"] == 5
    assert summary["test_doubles"] == 1
    assert summary["test_perturbations_not_all_measured"] == 3  # C, D+E and F
    assert summary["unused_because"] == {
        "cell line not used": 13,
        "test-line perturbation that no training line has": 3,
    }
    shown = capsys.readouterr().out
    assert "unused cells: 16" in shown
    assert (
        f"split: wrote {tmp_path}/splits: 48 training, 10 validation, 25 test cells, 6 basal"
        in shown
    )


def test_a_test_perturbation_that_only_validates_is_unseen(tmp_path, obs):
    run(tmp_path, obs, train_lines=["k562"], val_fraction=0.8)
    summary = summary_of(tmp_path)
    assert summary["test_perturbations"] == 5
    assert summary["validation_perturbations"] == 5
    assert summary["test_perturbations_seen"] + summary["test_perturbations_unseen"] == 5
    assert summary["test_perturbations_unseen"] >= 4


def test_sets_that_validate_are_spread_over_lines_and_perturbations(tmp_path, obs):
    table = run(tmp_path, obs, val_fraction=0.4)
    held_out = table[table["role"] == VAL]
    sets = set(zip(held_out["cell_line"], held_out["perturbation"], strict=True))
    assert len(sets) == 5  # 0.4 of the twelve of k562 and jurkat
    assert summary_of(tmp_path)["val_line"] == "k562, jurkat"
    assert len({label for _, label in sets}) == 5  # none in both


def test_ten_sets_validate_at_least_where_that_leaves_enough_to_train(tmp_path):
    names = [f"P{i}" for i in range(30)]
    lines = ("k562", "jurkat", "rpe1")
    rows = [(line, name, 2) for line in lines for name in [*names, CONTROL]]
    run(tmp_path, obs_of(rows), val_fraction=0.01)
    assert summary_of(tmp_path)["validation_cells"] == 9 * 2  # 15 % of sixty sets
    more = [(line, f"{name}{i}", 2) for line in lines for name in names for i in "ab"]
    run(tmp_path / "more", obs_of(rows + more), val_fraction=0.01)
    assert summary_of(tmp_path / "more")["validation_cells"] == 10 * 2


def test_without_restriction_every_perturbation_of_the_test_line_is_tested(tmp_path, obs):
    run(tmp_path, obs, restrict_test_to_training=False)
    summary = summary_of(tmp_path)
    assert summary["test_cells"] == 28
    assert summary["test_perturbations_unseen"] == 1


def test_a_fraction_of_one_holds_a_whole_training_line_out(tmp_path, obs):
    table = run(tmp_path, obs, val_fraction=1.0, val_line="jurkat")
    perturbed = table[(table["cell_line"] == "jurkat") & (table["perturbation"] != CONTROL)]
    assert set(perturbed["role"]) == {VAL}
    assert set(table["cell_line"][table["role"] == TRAIN]) == {"k562"}
    assert summary_of(tmp_path)["train_lines"] == ["k562", "jurkat"]


def test_without_halves_the_same_controls_serve_as_both(tmp_path, obs):
    run(tmp_path, obs, halve_controls=False)
    opened = Splits.open(tmp_path / "splits", Cells.open(tmp_path / "cells"))
    assert opened.basal("rpe1").tolist() == opened.reference("rpe1").tolist()
    assert len(opened.basal("rpe1")) == 11
    assert summary_of(tmp_path)["controls_halved"] is False


def test_no_validation_fraction_makes_no_validation_set(tmp_path, obs):
    assert VAL not in set(run(tmp_path, obs, val_fraction=0)["role"])
    assert summary_of(tmp_path)["val_line"] == ""


def test_real_cells_are_counted_as_they_are_in_the_file(tmp_path, shared_data):
    source = anndata.read_h5ad(shared_data / "norman2019_mcfaline2023_devel.h5ad")
    obs = source.obs[["condition", "cell_type"]].astype(str)
    obs.columns = ["perturbation", "cell_line"]
    obs["perturbation"] = obs["perturbation"].replace("control", CONTROL)
    cells_artifact(tmp_path / "cells", obs, source.X.toarray(), list(source.var_names))
    run(tmp_path, obs, train_lines=["k562", "A172", "T98G"], test_line="U87MG")
    summary = summary_of(tmp_path)
    assert summary["cells"] == 5961
    assert summary["training_cells"] + summary["validation_cells"] == 3275 + 750 + 771
    assert summary["test_cells"] == 765 and summary["test_perturbations"] == 9
    assert summary["test_controls_basal"] == summary["test_controls_reference"] == 100
    assert summary["validation_sets"] == {"k562": 3, "A172": 2, "T98G": 2}  # 15 % of 50 sets
    assert summary["training_doubles"] + summary["validation_doubles"] >= 15
    assert summary["test_perturbations_not_all_measured"] == 9
    assert summary["unused_cells"] == 0


# What is asked for -------------------------------------------------------------------------------


def test_a_line_with_controls_alone_is_asked_for_all_that_trains(tmp_path, obs):
    bare = obs[(obs["cell_line"] != "rpe1") | (obs["perturbation"] == CONTROL)]
    table = run(tmp_path, bare, halve_controls=True)
    opened = Splits.open(tmp_path / "splits", Cells.open(tmp_path / "cells"))
    assert opened.requested == ["A", "B", "C", "D+E", "F", "J", "K"]
    assert not (table["role"] == TEST).any()
    # Nothing is compared, so every control of the line can be a model's input.
    assert set(table[table["cell_line"] == "rpe1"]["role"]) == {CONTROL_BOTH}
    assert set(table[table["perturbation"] == CONTROL]["role"]) >= {CONTROL_BASAL}
    summary = summary_of(tmp_path)
    assert (summary["test_cells"], summary["asked_for_measured"]) == (0, 0)
    assert summary["asked_for_not_measured"] == 7


def test_what_is_asked_for_is_tested_where_it_is_measured_whatever_training_has(tmp_path, obs):
    table = run(tmp_path, obs, perturbations=["R", "E+D", "MYC", "A", "A"])
    opened = Splits.open(tmp_path / "splits", Cells.open(tmp_path / "cells"))
    assert opened.requested == ["R", "D+E", "MYC", "A"]
    assert set(table[table["role"] == TEST]["perturbation"]) == {"R", "D+E", "A"}
    summary = summary_of(tmp_path)
    assert summary["asked_for_measured"] == 3 and summary["asked_for_not_measured"] == 1
    assert summary["unused_because"]["test-line perturbation that was not requested"] == 15


def test_without_training_lines_every_measured_perturbation_of_the_line_is_tested(tmp_path, obs):
    table = run(tmp_path, obs, train_lines=[])
    own = table["cell_line"] == "rpe1"
    control = table["perturbation"] == CONTROL
    assert set(table[own & ~control]["role"]) == {TEST}
    assert set(table[~own]["role"]) == {UNUSED}


def test_without_training_lines_and_measurements_the_model_decides_what_to_predict(tmp_path, obs):
    bare = obs[(obs["cell_line"] == "rpe1") & (obs["perturbation"] == CONTROL)]
    run(tmp_path, bare, train_lines=[])
    opened = Splits.open(tmp_path / "splits", Cells.open(tmp_path / "cells"))
    assert opened.requested == []
    assert len(opened.basal("rpe1")) == len(opened.reference("rpe1")) == 11


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("genes.txt", "# mine\nB\n\n D + E \n"),
        ("genes.csv", "gene,why\nB,first\nD+E,second\n"),
        ("genes.tsv", "perturbation\tn\nB\t1\nD+E\t2\n"),
        ("genes.txt", "\ufeffB\r\nD+E\r\n"),
    ],
)
def test_a_list_of_perturbations_may_be_a_file(tmp_path, obs, name, text):
    (tmp_path / name).write_text(text)
    table = run(tmp_path, obs, perturbations=[str(tmp_path / name)])
    assert set(table[table["role"] == TEST]["perturbation"]) == {"B", "D+E"}


@pytest.mark.parametrize("text", ["", "gene\n", "# nothing\n", "A\n=1\u202e\n", "+\n"])
def test_a_list_that_names_nothing_or_hides_something_is_refused(tmp_path, obs, text):
    (tmp_path / "genes.txt").write_text(text)
    with pytest.raises(InputError, match=r"genes.txt: .*expected"):
        run(tmp_path, obs, perturbations=str(tmp_path / "genes.txt"))


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"test_line": "k562"}, r"test_line 'k562' is one of train_lines"),
        ({"test_line": "RPE-2"}, r"'RPE-2' is not in the cells, nearest: 'rpe1'"),
        ({"train_lines": ["k562", "jurkt"]}, r"train_lines.*'jurkt'.*nearest: 'jurkat'"),
        ({"train_lines": ["k562", "k562"]}, r"'k562' given more than once"),
        ({"train_lines": "k562"}, r"expected a list of cell lines, got 'k562'"),
        ({"test_line": ""}, r"test_line is empty"),
        ({"val_line": "rpe1"}, r"val_line 'rpe1' is not a training line"),
        ({"val_line": "k56"}, r"'k56' is not a training line, nearest: 'k562'"),
        ({"val_fraction": -0.1}, r"val_fraction=-0.1: expected a number from 0 to 1"),
        ({"val_fraction": 1.01}, r"val_fraction=1.01: expected"),
        ({"val_fraction": float("nan")}, r"val_fraction=nan: expected"),
        ({"seed": -1}, r"seed=-1: expected 0 or more"),
        ({"train_lines": ["k562"], "val_fraction": 1.0}, r"no perturbed cells are left to train"),
        ({"train_lines": ["bare"], "val_fraction": 0}, r"no perturbed cells are left to train"),
        ({"train_lines": ["bare", "k562"], "val_line": "bare"}, r"'bare' has no perturbed cells"),
        ({"train_lines": ["other"]}, r"test set is empty.*shares no perturbation"),
        ({"perturbations": ["A", 7]}, r"perturbations: 7 is not text"),
        ({"perturbations": ["A", "non-targeting"]}, r"'non-targeting' is not a perturbation"),
        ({"perturbations": ["nowhere.txt"]}, r"nowhere.txt: no such file"),
        (
            {"train_lines": ["lonely"], "halve_controls": True},
            r"'lonely' has 1 .*at least 2 to halve",
        ),
        ({"train_lines": ["none"], "halve_controls": False}, r"'none' has 0 .*at least 1$"),
        ({"train_lines": ["none"], "halve_controls": True}, r"'none' has 0 .*at least 2$"),
        ({"split_file": "nowhere.toml"}, r"nowhere.toml: no such file"),
        ({"split_file": "ftp://host/split.toml"}, r"scheme 'ftp://' is not allowed"),
    ],
)
def test_bad_arguments_give_one_line_and_no_folder(tmp_path, obs, keywords, message):
    extra = [("bare", CONTROL, 4), ("other", "X", 3), ("other", "Y", 3), ("other", CONTROL, 4)]
    extra += [("lonely", "A", 3), ("lonely", "B", 3), ("lonely", CONTROL, 1)]
    extra += [("none", "A", 3), ("none", "B", 3)]
    more = obs_of(extra)
    more.index = [f"more-{name}" for name in more.index]
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path, pd.concat([obs, more]), **keywords)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_one_control_is_enough_when_pools_are_not_halved(tmp_path):
    rows = [(line, label, 1) for line in LINES for label in ("A", "B", CONTROL)]
    run(tmp_path, obs_of(rows), halve_controls=False)
    assert summary_of(tmp_path)["test_controls_basal"] == 1


def test_a_folder_of_another_format_is_refused(tmp_path):
    with writing(tmp_path / "other", SPLITS, parameters={}):
        pass
    with pytest.raises(InputError, match=r"is a splits/v1 artifact.*expected a cells/v1"):
        split(tmp_path / "other", tmp_path / "out", train_lines=["a"], test_line="b")
    assert not (tmp_path / "out").exists()


def test_a_target_that_exists_is_kept(tmp_path, obs):
    run(tmp_path, obs)
    before = (tmp_path / "splits" / "provenance.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        run(tmp_path, obs, seed=1)
    assert (tmp_path / "splits" / "provenance.json").read_bytes() == before


def test_what_is_validated_alone_is_no_training_perturbation(tmp_path, obs):
    table = run(tmp_path, obs, train_lines=["k562"], val_fraction=0.5)
    opened = Splits.open(tmp_path / "splits", Cells.open(tmp_path / "cells"))
    validated = set(table.loc[table["role"] == VAL, "perturbation"])
    assert (
        validated
        and opened.training_perturbations() == {"A", "B", "C", "D+E", "F", "K"} - validated
    )


def test_every_line_has_a_draw_of_its_own(tmp_path):
    rows = [(line, label, n) for line in LINES for label, n in (("A", 3), (CONTROL, 40))]
    obs = obs_of(rows)
    obs.index = [f"cell{i:04d}" for i in range(len(obs))]
    table = run(tmp_path, obs, val_fraction=0, halve_controls=True)
    halves = [
        (table["role"][(table["cell_line"] == line) & (obs["perturbation"] == CONTROL)])
        for line in LINES
    ]
    picked = {tuple((half == CONTROL_BASAL).to_list()) for half in halves}
    assert len(picked) == len(LINES)


def test_other_names_of_what_is_asked_for_come_from_the_table_of_aliases(tmp_path, obs):
    table = tmp_path / "names.csv"
    table.write_text("symbol,alias_symbol\nMARCHF1,MARCH1\nA,OLD\nB,OLD\n")
    run(tmp_path, obs, perturbations=["MARCH1", "A+OLD", "C"], aliases=str(table))
    wanted = json.loads((tmp_path / "splits" / REQUEST_FILE).read_text())
    assert wanted["other_names"] == {"MARCH1": ["MARCHF1"], "OLD": ["A", "B"]}
    table.write_text("symbol\nMARCHF1\n")
    with pytest.raises(InputError, match=f"{table}: has no column of other names"):
        run(tmp_path, obs, "again", perturbations=["C"], aliases=str(table))


def test_what_is_printed_of_a_known_screen(tmp_path, obs, capsys):
    asked = ["A", "R", "MYC"]
    run(tmp_path, obs, perturbations=asked, val_fraction=0.2, halve_controls=True)
    assert (
        capsys.readouterr().out
        == f"""\
role        cells  perturbations  doubles  target not measured
training       49              6        1                    4
validation      9              2        0                    2
test            8              2        0                    1
requested: 3, measured in rpe1: 2
training cells: k562 24, jurkat 25
validation sets: k562 1, jurkat 1 (fewer than 10: an epoch is chosen by little)
test line rpe1: 1 perturbations seen in training, 1 unseen; controls 6 basal, 5 reference
unused cells: 33; cell line not used: 13; test-line perturbation that was not requested: 20
split: wrote {tmp_path}/splits: 49 training, 9 validation, 8 test cells, 6 basal controls
"""
    )
    run(tmp_path, obs, "none validates", val_fraction=0)
    assert capsys.readouterr().out.splitlines()[3:-1] == [
        "test           25              5        1                    3",
        "training cells: k562 29, jurkat 29",
        "validation sets: none",
        "test line rpe1: 5 perturbations seen in training, 0 unseen; controls 11 basal, "
        "11 reference (the same cells)",
        "unused cells: 16; cell line not used: 13; test-line perturbation that no training line "
        "has: 3",
    ]


@pytest.mark.parametrize("seed", [3.0, np.int64(3)])
def test_a_whole_number_of_another_type_is_the_same_seed(tmp_path, obs, seed):
    options = {"val_fraction": 0.5, "halve_controls": True}
    one = run(tmp_path, obs, "one", seed=3, **options)
    other = run(tmp_path, obs, "other", seed=seed, **options)
    pd.testing.assert_frame_equal(one, other)
