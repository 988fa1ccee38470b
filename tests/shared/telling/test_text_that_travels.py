"""Labels of strangers where they end up: logs, tables, cards; the explorer has its own tests."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.publish.publish import publish
from components.shared.artifacts.artifact import CELLS, FAILED, opening, writing
from components.shared.artifacts.failure import errors_of
from components.shared.telling.errors import (
    FULL,
    LONGEST,
    InputError,
    nearest,
    one_line_errors,
    shortlist,
)
from components.shared.telling.spreadsheet import BEGINS_A_FORMULA, without_formulas
from tests.publish.publish_run import finished_run

HOSTILE = [
    '=HYPERLINK("http://example.org","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "\x1b]0;title\x07KLF1",
    "KLF1\u202eCYM",
]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_log_shows_every_label_as_plain_text(
    capsys: pytest.CaptureFixture[str], label: str
) -> None:
    with pytest.raises(SystemExit), one_line_errors("ingest"):
        raise InputError(f"no cell is '{label}'{nearest(label, [label])}; {shortlist([label])}")
    with pytest.raises(SystemExit), one_line_errors("ingest"):
        raise OSError(FULL[0], "no space", label)
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert all(character.isprintable() for character in told.replace("\n", ""))


@pytest.mark.parametrize("label", HOSTILE)
def test_a_table_in_a_spreadsheet_computes_nothing(tmp_path: Path, label: str) -> None:
    table = pd.DataFrame({"perturbation": [label], "line": pd.Categorical([label]), "x": [-1.5]})
    without_formulas(table).to_csv(tmp_path / "t.csv", index=False)
    with (tmp_path / "t.csv").open(newline="") as file:
        [_, row] = csv.reader(file)
    assert not row[0].startswith(BEGINS_A_FORMULA) and not row[1].startswith(BEGINS_A_FORMULA)
    assert row[0].removeprefix("'") == label and row[2] == "-1.5"


@pytest.mark.parametrize("label", HOSTILE)
def test_a_card_has_no_markup_and_a_published_folder_no_file_of_a_label(
    tmp_path: Path, label: str
) -> None:
    run = finished_run(tmp_path / "run", splits={"test_line": label, "train_lines": [label]})
    publish(*run.folders(), "", tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    card = card.split("\n---\n", 1)[1]  # what goes before it is YAML, and shown as text
    assert "<script" not in card
    assert all(character.isprintable() for character in card.replace("\n", ""))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "published"}
    names = [path.name for path in (tmp_path / "published").rglob("*")]
    assert not any("passwd" in name or "HYPERLINK" in name for name in names)


def test_a_failure_that_is_kept_is_plain_text(tmp_path: Path) -> None:
    with errors_of("ingest", tmp_path / "a", in_grid=True):
        raise RuntimeError("\x1b[31m" + "\u202e" + HOSTILE[4])
    reason = opening(tmp_path / "a", FAILED).summary["reason"]
    assert all(character.isprintable() for character in reason)
    with writing(tmp_path / "b", CELLS, parameters={"label": HOSTILE[0]}):
        pass
    assert opening(tmp_path / "b", CELLS).provenance["parameters"]["label"] == HOSTILE[0]


@given(st.integers(0, 3 * LONGEST))
def test_of_a_long_message_the_middle_is_left_out(length: int) -> None:
    text = "".join(f"{number:05d}" for number in range(length // 5 + 1))[:length]
    said = str(InputError(text))
    if length <= LONGEST:
        assert said == text
    else:
        head, tail = said.split(" … ")
        assert len(head) == len(tail) == LONGEST // 2
        assert text.startswith(head) and text.endswith(tail)
