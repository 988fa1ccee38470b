"""Training gives the loss curves that are stored: what changes them says so."""

import json
from pathlib import Path

import pytest

from benchmarks.golden import CASES, STORED, Curves, curves, screen

CLOSE = 1e-3
"""Relative for losses, absolute for a correlation. A machine repeats a curve to the last bit.
Processors that sum in another order differ by 1e-7 a sum, which 33 steps of Adam carry to at most
1e-5 (two threads for one); a learning rate that is 1 % higher moves a loss by 1e-2."""
GOLDEN = json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("golden")
    screen(made)
    return made


def moved(found: Curves, stored: Curves) -> list[str]:
    """Return which curves are not the stored ones."""
    return [
        name
        for name, values in stored.items()
        if found[name] != pytest.approx(values, rel=CLOSE, abs=CLOSE)
    ]


@pytest.mark.parametrize("name", CASES)
def test_training_gives_the_stored_curves(folder: Path, name: str) -> None:
    assert moved(curves(folder, name), GOLDEN["curves"][name]) == [], (
        'training changed; if it should: make golden REASON="why"'
    )


def test_a_small_change_of_training_moves_them(folder: Path) -> None:
    found = curves(folder, "default", learning_rate=1.01e-4)
    assert "train_loss" in moved(found, GOLDEN["curves"]["default"])


def test_the_stored_curves_say_why_they_are_as_they_are() -> None:
    assert GOLDEN["reason"] and set(GOLDEN["curves"]) == set(CASES)
