"""How a run ended, and how to go on."""

from pathlib import Path

import pytest

from components.conclude.conclude import conclude


def said(tmp_path: Path, *arguments: str) -> str:
    conclude(*arguments, tmp_path / "deep" / "outcome")
    return (tmp_path / "deep" / "outcome").read_text()


def test_a_run_that_succeeded_needs_no_advice(tmp_path: Path, capsys) -> None:
    text = said(tmp_path, "SUCCEEDED", "", "run-1", "")
    assert text.startswith("# Run succeeded\n\n`run-1`\n")
    assert "go on" not in text
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_run_that_did_not_succeed_says_why_and_how_to_go_on(tmp_path: Path, state: str) -> None:
    text = said(tmp_path, state, "task finetune\nfailed", "run-1", "")
    assert text.startswith(f"# Run {state.lower()}\n")
    assert "task finetune failed" in text
    assert "-l pipeline/runid=run-1 " in text
    assert "Retry" in text and "Clone run" in text
    assert "checkpoints=<what the log of finetune names" in text


def test_checkpoints_the_user_named_are_named_again(tmp_path: Path) -> None:
    text = said(tmp_path, "FAILED", "", "run-1", "gs://bucket/checkpoints")
    assert "checkpoints=gs://bucket/checkpoints\n" in text
