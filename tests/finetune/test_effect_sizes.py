"""By what factor known effects are multiplied."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.deltas import LineDeltas
from components.finetune.effect_parts import COPIED, PARTS, estimates_from
from components.finetune.effect_sizes import (
    ESTIMATED,
    FACTORS,
    NO_ESTIMATES,
    Sizes,
    as_large_as_measured,
)
from components.finetune.effect_weights import WITHOUT_LINES, Compared, weights_of
from components.shared.artifacts.confidence import MOST_SCALE
from tests.finetune.shared_effects import screen, tellers


def sizes_of(deltas: LineDeltas, weights: dict[str, float] | None = None) -> Sizes:
    left, *others = tellers(deltas)
    weights = weights or weights_of(others)
    return Sizes.of(Compared.of(estimates_from(others), left), weights)


def test_copying_itself_keeps_its_size() -> None:
    _, deltas = screen(4)
    copied = {way: float(way == COPIED) for way in PARTS}
    assert sizes_of(deltas, copied).factor == pytest.approx(1.0, abs=0.051)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 2.0), st.sampled_from([0, 5]))
def test_with_the_factor_errors_are_no_larger_than_copyings(seed, noise, pathways) -> None:
    _, deltas = screen(seed, noise=noise, pathways=pathways)
    sizes = sizes_of(deltas)
    place = int(np.argmin(np.abs(FACTORS - sizes.factor)))
    assert place >= sizes.squared.argmin()
    if place > sizes.squared.argmin():
        assert sizes.squared[place] <= sizes.copied[0]
        assert sizes.absolute[place] <= sizes.copied[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 2.0), st.sampled_from([0, 5]))
def test_effects_told_apart_as_by_copying_are_no_worse_than_predicting_nothing(
    seed, noise, pathways
) -> None:
    _, deltas = screen(seed, noise=noise, pathways=pathways)
    sizes = replace(sizes_of(deltas), lines=())
    place = int(np.argmin(np.abs(FACTORS - sizes.factor)))
    least = sizes.squared.min()
    assert sizes.squared[place] <= max(min(sizes.copied[0], sizes.squared[0]), least)
    if sizes.squared[place] > least:
        assert sizes.absolute[place] <= min(sizes.copied[1], sizes.absolute[0])


def weak_and_strong(seed: int) -> LineDeltas:
    """Return lines in which perturbations are alike but for how strong they are."""
    rng = np.random.default_rng(seed)
    _, deltas = screen(seed, lines=2, pathways=6, own=0.8, noise=1.2)
    strength = rng.gamma(1.0, 1.0, (1, deltas.there.shape[1], 1))
    own = rng.normal(size=deltas.change.shape)
    return replace(deltas, change=(strength * deltas.change + 0.3 * own) * deltas.there[..., None])


@pytest.mark.parametrize("seed", range(3))
def test_effects_that_are_too_small_to_tell_perturbations_apart_are_made_larger(seed: int) -> None:
    sizes = sizes_of(weak_and_strong(seed))
    small = replace(sizes, lines=())
    [line] = sizes.lines
    effects = line.parts[ESTIMATED]
    reached = [line.discrimination(s.factor * effects).mean() for s in (small, sizes)]
    assert small.factor < sizes.factor
    assert reached[0] < line.discrimination(line.parts[COPIED]).mean() - 0.02
    assert reached[1] > reached[0] + 0.01


def test_size_alone_that_tells_nothing_apart_is_left() -> None:
    _, deltas = screen(0, own=0.2, noise=0.2)
    sizes = sizes_of(deltas)
    assert sizes.factor == replace(sizes, lines=()).factor


def test_no_estimates_have_no_factor() -> None:
    assert NO_ESTIMATES.factor is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 2.0))
def test_estimates_of_one_line_become_as_large_as_it_measured(seed, noise) -> None:
    _, deltas = screen(seed, lines=1, noise=noise)
    estimates = estimates_from(tellers(deltas))
    factor = as_large_as_measured(estimates, WITHOUT_LINES)
    found = factor * np.linalg.norm(estimates.combined(WITHOUT_LINES))
    assert factor == MOST_SCALE or found == pytest.approx(np.linalg.norm(deltas.change))


def test_estimates_that_are_zero_or_all_but_are_not_blown_up() -> None:
    _, deltas = screen(1, lines=1)
    estimates = estimates_from(tellers(deltas))
    assert as_large_as_measured(estimates, dict.fromkeys(PARTS, 0.0)) == 1.0
    assert as_large_as_measured(estimates, dict.fromkeys(PARTS, 1e-9)) == MOST_SCALE
