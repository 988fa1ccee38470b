"""Bars of long work, as lines of a log."""

import pytest

from components.shared.telling import progress


@pytest.mark.parametrize("unit", [" cells", "B"])
def test_a_log_has_no_bar_of_nothing_but_each_that_says_something(capsys, monkeypatch, unit):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bar(total=4000, what="reading", unit=unit) as bar:
        for _ in range(4):
            bar.update(1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[0].split()[1] for line in lines[:3]] == ["25%", "50%", "75%"]
    assert " 1.00k/4.00k" in lines[0], "thousands are written as such"
    assert "100%" in lines[-1] and not any(" 0%" in line for line in lines)
