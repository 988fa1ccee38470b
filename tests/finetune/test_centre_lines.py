"""Known effects that are put together without each line's own mean effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from components.finetune.cross_line_effects import known_effects
from components.finetune.deltas import LineDeltas
from components.finetune.effect_parts import COPIED, PARTS, estimates_from, without_own_response
from tests.finetune.lines import LABELS, screens
from tests.finetune.shared_effects import screen, tellers


def test_it_is_the_line_s_mean_that_is_taken_away_and_the_mean_over_lines_that_is_given_back():
    change = np.array([[[1.0, 5.0], [3.0, 0.0]], [[10.0, 2.0], [99.0, 4.0]]])
    has = np.array([[[True, True], [True, False]], [[True, True], [False, True]]])
    centred, shared = without_own_response(change, has)
    np.testing.assert_allclose(centred, [[[-1, 0], [1, 0]], [[0, -1], [0, 1]]])
    np.testing.assert_allclose(shared, [6.0, 4.0])
    nothing, none = without_own_response(change, np.zeros_like(has))
    assert not nothing.any() and not none.any()


@pytest.mark.parametrize("way", PARTS)
def test_a_line_s_own_response_does_not_reach_how_perturbations_differ(way: str) -> None:
    _, deltas = screen(common=0.5)
    moved = replace(deltas, change=deltas.change.copy())
    moved.change[0][moved.there[0]] += np.linspace(-3, 3, moved.change.shape[2])
    one, two = (estimates_from(tellers(x), centre=True).parts[way] for x in (deltas, moved))
    differ = two - one
    np.testing.assert_allclose(differ, np.broadcast_to(differ[0], differ.shape), atol=1e-9)
    np.testing.assert_allclose(differ[0], np.linspace(-1, 1, differ.shape[1]), atol=1e-9)


def test_a_perturbation_that_one_line_lacks_is_told_with_the_response_of_all() -> None:
    """Where lines differ in response alone, those that have it are no bias any more."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(20, 50))
    shared -= shared.mean(axis=0)
    response = rng.normal(size=(3, 50))
    change = np.concatenate([np.zeros((3, 1, 50)), shared + response[:, None]], axis=1)
    there = np.ones(change.shape[:2], bool)
    there[:, 0] = False
    there[0, 1:4] = False
    there[1, 4:7] = False
    there[2, 7:10] = False
    change[~there] = 0.0
    deltas = LineDeltas(["a", "b", "c"], change, np.full_like(change, 0.01), there)
    truth = shared + response.mean(axis=0)
    missed = {
        centre: np.square(
            estimates_from(tellers(deltas), centre=centre).parts[COPIED] - truth
        ).mean()
        for centre in (False, True)
    }
    assert missed[True] < 0.5 * missed[False]


@pytest.mark.parametrize("line", range(3))
def test_a_line_still_never_sees_its_own_cells(line: int) -> None:
    _, own = screens()
    spoilt = replace(own, change=own.change.copy())
    spoilt.change[line] += 7.0
    one, two = (known_effects(LABELS, [x], None, centre=True).change for x in (own, spoilt))
    assert torch.equal(one[line], two[line])
    assert not torch.equal(one[-1], two[-1])
    assert not one[:, 0].any()


def test_it_is_off_unless_asked() -> None:
    _, own = screens()
    usual, off, on = (
        known_effects(LABELS, [own], None, **asked).change
        for asked in ({}, {"centre": False}, {"centre": True})
    )
    assert torch.equal(usual, off) and not torch.equal(usual, on)
