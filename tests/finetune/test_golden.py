"""Training gives the loss curves that are stored: what changes them says so."""

import json
from pathlib import Path

import pytest

from benchmarks.golden import CASES, STORED, Curves, curves, screen

CLOSE = 1e-4
"""Relative for losses, absolute for a correlation. A machine repeats a curve to the last bit; sums
in another order, as by two threads for one, move it by 1.3e-7 at most, and other processors do no
more than that. A learning rate that is 1 % higher moves it by more than ten times this."""
NONE = -9.0
GOLDEN = json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("golden")
    screen(made)
    return made


def moved(found: Curves, stored: Curves) -> list[str]:
    """Return which curves are not the stored ones; one may have no value at an epoch."""
    known = {name: [NONE if x is None else x for x in stored[name]] for name in stored}
    here = {name: [NONE if x is None else x for x in found[name]] for name in stored}
    return [
        name
        for name, values in known.items()
        if here[name] != pytest.approx(values, rel=CLOSE, abs=CLOSE)
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
