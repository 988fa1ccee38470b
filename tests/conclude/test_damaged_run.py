"""The last page of a run whose artifacts are damaged or missing: it says so, in one line."""

import json
from pathlib import Path

import pytest

from components.conclude.conclude import conclude
from components.shared.telling.errors import InputError
from pipelines.outcome import comparison_summary, summary

GOOD = json.dumps({"summary": {"result": "It helps."}})
DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"[" * 100_000,
    b"{}",
    b'{"summary": []}',
    b'{"summary": {"result": 7}}',
    b'{"summary": {"result": ["x"]}}',
]


def page(root: Path) -> str:
    conclude("SUCCEEDED", "", "run-1", "", root / "conclude" / "outcome")
    return (root / "conclude" / "outcome").read_text()


@pytest.mark.parametrize("raw", DAMAGED, ids=lambda raw: repr(raw[:12]))
def test_a_damaged_artifact_is_named_and_the_others_are_told(tmp_path: Path, raw: bytes) -> None:
    for task, text in (("evaluate", raw), ("publish", GOOD.encode())):
        (tmp_path / task / "made").mkdir(parents=True)
        (tmp_path / task / "made" / "provenance.json").write_bytes(text)
    lines = page(tmp_path).splitlines()
    assert lines[0] == "# Run succeeded" and "- It helps." in lines
    [told] = [line for line in lines if line.startswith("- What came of it cannot be read")]
    assert str(tmp_path / "evaluate" / "made" / "provenance.json") in told


def test_a_run_without_artifacts_speaks_of_no_cluster(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "What came of it: no task kept a result." in text and "KFP" not in text


def test_the_end_of_a_run_whose_evaluation_is_gone_or_damaged_is_one_line(tmp_path: Path) -> None:
    for end, file in (
        (summary, tmp_path / "published" / "eval" / "metrics.json"),
        (comparison_summary, tmp_path / "comparison" / "metrics.json"),
    ):
        file.parent.mkdir(parents=True)
        with pytest.raises(InputError, match="no such file"):
            end(tmp_path, 1.0)
        for raw in (*DAMAGED, b'{"conclusion": 1}', b'{"model": 1}'):
            file.write_bytes(raw)
            with pytest.raises(InputError, match=r"run the .* task again") as told:
                end(tmp_path, 1.0)
            assert str(file) in str(told.value) and "\n" not in str(told.value)
