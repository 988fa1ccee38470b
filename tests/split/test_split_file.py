import hashlib

import pytest

from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.splits import TEST, TRAIN, UNUSED, VAL
from components.shared.telling.errors import InputError
from tests.split.stage import obs_of, run, summary_of

HEAD = '[datasets]\nreplogle = "/data/replogle"\n[training]\nreplogle = "train"\n'
LINES = ("k562", "jurkat", "hepg2", "rpe1")


@pytest.fixture(scope="module")
def obs():
    rows = [(line, p, 3) for line in LINES for p in ("A", "B", "C", "D", CONTROL)]
    return obs_of([*rows, ("rpe1", "R", 2)])


@pytest.fixture
def by_file(tmp_path, obs):
    def run_with(text: str, **keywords):
        path = tmp_path / "split.toml"
        path.write_text(text)
        # Lines that no file below would give: the file's go before them.
        keywords = {"train_lines": [], "test_line": "", "split_file": str(path)} | keywords
        return run(tmp_path, obs, **keywords), summary_of(tmp_path)

    return run_with


def roles_of(table, line: str) -> dict[str, str]:
    part = table[(table["cell_line"] == line) & (table["perturbation"] != CONTROL)]
    by = part.groupby("perturbation")["role"].agg(set)
    assert (by.map(len) == 1).all()
    return {name: next(iter(roles)) for name, roles in by.items()}


def test_zeroshot_gives_whole_lines_a_role_and_the_others_train(by_file):
    table, summary = by_file(HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n"x.hepg2" = "val"\n')
    assert set(roles_of(table, "hepg2").values()) == {VAL}
    for line in ("k562", "jurkat"):
        assert set(roles_of(table, line).values()) == {TRAIN}
    assert roles_of(table, "rpe1") == dict.fromkeys("ABCD", TEST) | {"R": UNUSED}
    assert summary["test_line"] == "rpe1" and summary["val_line"] == "hepg2"
    assert summary["train_lines"] == ["hepg2", "jurkat", "k562"]
    assert summary["few_shot"] is False
    assert summary["test_line_training_cells"] == 0


def test_a_file_without_validation_takes_the_fraction(by_file):
    text = HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n'
    table, summary = by_file(text, val_line="jurkat", val_fraction=0.25)
    assert sorted(roles_of(table, "jurkat").values()) == [TRAIN, TRAIN, TRAIN, VAL]
    assert summary["validation_perturbations"] == 1
    assert summary["train_lines"] == ["hepg2", "jurkat", "k562"]


def test_the_given_lines_order_those_of_the_file(by_file):
    text = HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n'
    _, summary = by_file(text, train_lines=["k562", "jurkat"])
    assert summary["train_lines"] == ["k562", "jurkat", "hepg2"]
    assert summary["val_line"] == "k562"


def test_fewshot_trains_on_the_test_lines_other_perturbations_only(by_file):
    text = HEAD + '[fewshot."replogle.rpe1"]\nval = ["A"]\ntest = ["B", "C"]\n'
    table, summary = by_file(text)
    assert roles_of(table, "rpe1") == {"A": VAL, "B": TEST, "C": TEST, "D": TRAIN, "R": TRAIN}
    assert summary["few_shot"] is True
    assert summary["test_line_training_cells"] == 5
    assert summary["test_line_validation_cells"] == 3
    assert summary["train_lines"] == ["hepg2", "jurkat", "k562", "rpe1"]
    assert summary["val_line"] == "rpe1"


def test_a_perturbation_listed_for_both_never_validates(by_file):
    text = HEAD + '[fewshot."replogle.rpe1"]\nval = ["A", "B"]\ntest = ["B", "C"]\n'
    table, summary = by_file(text)
    assert roles_of(table, "rpe1") == {"A": VAL, "B": TEST, "C": TEST, "D": TRAIN, "R": TRAIN}
    assert summary["listed_for_val_and_test"] == 1


def test_zeroshot_and_fewshot_mix_and_a_val_list_alone_keeps_the_line_in_training(by_file):
    text = HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n[fewshot."replogle.k562"]\nval = ["D"]\n'
    table, summary = by_file(text)
    assert roles_of(table, "k562") == {"A": TRAIN, "B": TRAIN, "C": TRAIN, "D": VAL}
    assert summary["few_shot"] is False
    assert summary["validation_cells"] == 3


def test_listed_perturbations_that_the_line_lacks_are_counted(by_file, capsys):
    text = HEAD + '[fewshot."replogle.rpe1"]\nval = ["A", "NOPE"]\ntest = ["B", "NO2"]\n'
    _, summary = by_file(text)
    assert summary["listed_perturbations"] == 4
    assert summary["listed_perturbations_absent"] == 2
    assert summary["listed_perturbations_absent_names"] == {"rpe1": ["NO2", "NOPE"]}
    assert "lists 2 perturbations (of 4) that their line lacks" in capsys.readouterr().out


def test_one_of_several_test_lines_is_chosen_and_the_others_stay_untouched(by_file):
    text = HEAD + '[zeroshot]\n"r.jurkat" = "test"\n"r.rpe1" = "test"\n'
    text += '[fewshot."r.k562"]\ntest = ["A"]\nval = ["B"]\n'
    table, summary = by_file(text, test_line="rpe1")
    assert set(roles_of(table, "jurkat").values()) == {UNUSED}
    assert set(table["role"][table["cell_line"] == "jurkat"]) == {UNUSED}
    assert roles_of(table, "k562") == {"A": UNUSED, "B": VAL, "C": TRAIN, "D": TRAIN}
    assert summary["test_line"] == "rpe1"
    assert summary["unused_because"] == {
        "cell line not used": 15,
        "test-line perturbation that no training line has": 2,
        "test perturbation of a line that is not predicted": 3,
    }


def test_a_line_that_no_table_names_is_unused_where_its_dataset_does_not_train(by_file):
    text = '[zeroshot]\n"r.rpe1" = "test"\n"r.k562" = "train"\n[fewshot."r.jurkat"]\nval = ["A"]\n'
    table, summary = by_file(text)
    assert set(table["role"][table["cell_line"] == "hepg2"]) == {UNUSED}
    assert summary["train_lines"] == ["jurkat", "k562"]


def test_the_files_test_line_goes_before_the_argument_and_says_so(by_file, capsys):
    _, summary = by_file(HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n', test_line="k562")
    assert summary["test_line"] == "rpe1"
    assert "test_line 'k562' is overridden by 'rpe1'" in capsys.readouterr().out


def test_dataset_names_with_dots_and_control_labels_in_lists_are_understood(by_file):
    text = f"""
    seed = 3
    [datasets]
    v1 = "y"
    "v1.2" = "x"
    [training]
    "v1.2" = "train"
    [fewshot."v1.2.rpe1"]
    val = ["A", "{CONTROL}"]
    test = ["B"]
    """
    table, summary = by_file(text)
    assert summary["listed_perturbations"] == 2
    assert summary["listed_perturbations_absent"] == 0
    controls = table[(table["cell_line"] == "rpe1") & (table["perturbation"] == CONTROL)]
    assert set(controls["role"]) == {"control_both"}


def test_the_file_is_held_to_a_digest_in_its_uri(by_file, tmp_path):
    text = HEAD + '[zeroshot]\n"replogle.rpe1" = "test"\n'
    good = hashlib.sha256(text.encode()).hexdigest()
    path = tmp_path / "split.toml"
    with pytest.raises(InputError, match="sha256 is"):
        by_file(text, split_file=f"{path}#sha256={good[::-1]}")
    _, summary = by_file(text, split_file=f"{path}#sha256={good}")
    assert summary["split_file_sha256"] == good


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[zeroshot\n", r"split.toml: not TOML .*line 1"),
        ("\x00", r"not TOML"),
        (HEAD, r"names no test line"),
        (HEAD + '[zeroshot]\n"r.rpe1" = "tset"\n', r"\"r.rpe1\" = 'tset'; expected one of train"),
        (HEAD + '[zeroshot]\nr.rpe1 = "test"\n', r"key 'r'; expected \"dataset.cell_line\" in q"),
        (HEAD + '[zeroshot]\n"rpe1" = "test"\n', r"key 'rpe1'; expected \"dataset.cell_line\""),
        (
            HEAD + '[zeroshot]\n"r.rpe" = "test"\n',
            r"line 'rpe' is not in the cells, nearest: 'rpe1",
        ),
        (HEAD + '[zeroshot]\n"a.rpe1" = "test"\n"b.rpe1" = "val"\n', r"'rpe1' is 'test' in one"),
        (HEAD + '[zero_shot]\n"r.rpe1" = "test"\n', r"\[zero_shot\] is unknown, nearest: 'zeros"),
        ('training = "train"\n', r"'training' is 'train'; expected a table"),
        ('[training]\nr = "val"\n', r"\[training\] r = 'val'; expected 'train'"),
        (HEAD + '[fewshot."r.rpe1"]\ntrain = ["A"]\n', r"'train' is unknown; expected val or test"),
        (HEAD + '[fewshot."r.rpe1"]\ntest = "A"\n', r"test = 'A'; expected a list of names"),
        (HEAD + '[fewshot."r.rpe1"]\ntest = [1]\n', r"expected a list of names"),
        (HEAD + '[fewshot]\n"r.rpe1" = 1\n', r"expected a table"),
        (HEAD + '[fewshot."r.x"]\ntest = ["A"]\n', r"line 'x' is not in the cells"),
        (
            HEAD + '[zeroshot]\n"r.rpe1" = "test"\n[fewshot."r.rpe1"]\ntest = ["A"]\n',
            r"'rpe1' is in both \[zeroshot\] and \[fewshot\]",
        ),
        (
            HEAD + '[fewshot."a.rpe1"]\ntest = ["A"]\n[fewshot."b.rpe1"]\ntest = ["B"]\n',
            r"line 'rpe1' comes twice",
        ),
        (
            HEAD + '[zeroshot]\n"r.rpe1" = "test"\n"r.k562" = "test"\n',
            r"tests 2 lines \('k562', 'rpe1'\), a run predicts one; set test_line",
        ),
        ('[zeroshot]\n"r.rpe1" = "test"\n', r"no perturbed cells are left to train on"),
        (HEAD + '[fewshot."r.rpe1"]\ntest = ["NOPE"]\n', r"test set is empty"),
        (
            HEAD + '[fewshot."r.rpe1"]\ntest = ["A"]\nval = ["NOPE"]\n',
            r"validation set is empty",
        ),
    ],
)
def test_a_bad_file_gives_one_line_and_no_folder(by_file, tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        by_file(text)
    assert "\n" not in str(error.value)
    if "left to train on" not in message and "set is empty" not in message:
        assert str(error.value).startswith(str(tmp_path / "split.toml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "split.toml"]
