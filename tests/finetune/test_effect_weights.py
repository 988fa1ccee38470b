"""What each way of estimating an effect counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.cross_line_effects import carried
from components.finetune.deltas import LineDeltas
from components.finetune.effect_parts import (
    COMMON,
    COPIED,
    KERNEL,
    PARTS,
    SHRUNK,
    estimates_from,
)
from components.finetune.effect_weights import HELD_BACK, WITHOUT_LINES, in_words, weights_of
from components.finetune.selection import discrimination
from tests.finetune.lines import LABELS, screens
from tests.finetune.shared_effects import screen, tellers


def much_alike(seed: int) -> LineDeltas:
    """Return lines whose perturbations have a response in common, of a size of its own in each."""
    rng = np.random.default_rng(seed)
    _, deltas = screen(seed, lines=4, pathways=8, own=1.0, noise=1.0)
    common = 1.5 * rng.normal(size=deltas.change.shape[2])
    size = 1 + 2 * rng.random((*deltas.there.shape, 1))
    return replace(deltas, change=deltas.change + size * common * deltas.there[..., None])


def told_apart(effects: np.ndarray, measured: np.ndarray, size: float) -> float:
    """Return the mean discrimination of effects brought to ``size``."""
    scaled = np.array(effects * size / np.linalg.norm(effects), dtype=float)
    return float(np.mean(discrimination(scaled, measured, [np.array([], int)] * len(measured))))


@pytest.mark.parametrize("seed", range(3))
def test_where_lines_share_little_but_their_mean_effect_that_counts_most(seed: int) -> None:
    shared, deltas = screen(seed, common=1.0, noise=0.3)
    alone = np.where(deltas.there[..., None], deltas.change - shared, 0.0)
    mean = shared[1:].mean(axis=0)
    unlike = LineDeltas(
        deltas.lines, alone + mean * deltas.there[..., None], deltas.variance, deltas.there
    )
    weights = weights_of(tellers(unlike))
    assert weights[COPIED] + weights[SHRUNK] < 0.1  # of 1, before any is held back
    estimates = estimates_from(tellers(unlike))
    for effects in estimates.combined(weights):
        assert np.corrcoef(effects, mean)[0, 1] > 0.9


def test_one_line_is_half_shrunk_and_half_what_perturbations_share_less_their_mean_effect() -> None:
    _, deltas = screen(2, lines=1, pathways=4, common=0.5)
    assert weights_of(tellers(deltas)) == WITHOUT_LINES
    _, same = screen(2, lines=2, pathways=4)
    named = LineDeltas(["K562", "k-562"], same.change, same.variance, same.there)
    assert weights_of(tellers(named)) == WITHOUT_LINES  # one line by two names
    assert WITHOUT_LINES[SHRUNK] == WITHOUT_LINES[KERNEL] == 0.5 and WITHOUT_LINES[COMMON] < 0


@pytest.mark.parametrize("seed", range(3))
def test_what_makes_perturbations_alike_is_held_back(seed: int) -> None:
    deltas = much_alike(seed)
    lines, left = tellers(deltas)[:3], deltas.change[3]
    estimates, weights = estimates_from(lines), weights_of(lines)
    measured, size = left[estimates.there], float(np.linalg.norm(estimates.parts[COPIED]))
    whole = weights | {COMMON: weights[COMMON] + HELD_BACK[-1]}
    assert weights[COMMON] < 0
    found = told_apart(estimates.combined(weights), measured, size)
    assert found > told_apart(estimates.combined(whole), measured, size) + 0.02


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0, 5]))
def test_nothing_is_held_back_of_perturbations_that_are_told_apart(seed, pathways) -> None:
    _, deltas = screen(seed, own=0.2, noise=0.2, pathways=pathways)
    weights = weights_of(tellers(deltas))
    assert min(weights.values()) >= 0
    assert sum(weights.values()) == pytest.approx(1.0)


def test_a_perturbations_own_genes_do_not_count_in_what_tells_it_from_others() -> None:
    deltas = much_alike(0)
    perturbations, genes = deltas.change.shape[1:]
    every = replace(deltas, targets=[np.arange(genes)] * perturbations)  # nothing is left to tell
    assert weights_of(tellers(deltas))[COMMON] < 0
    assert weights_of(tellers(every))[COMMON] >= 0


def test_a_perturbation_that_no_line_has_gets_the_whole_mean_effect() -> None:
    _, own = screens()
    estimates = estimates_from(tellers(own))
    weights = {COPIED: 1.0, SHRUNK: 0.0, KERNEL: 0.0, COMMON: -0.5}
    effects, _, _ = carried(LABELS, estimates, weights, None)
    copied, place = estimates.parts[COPIED], LABELS.index("Z")
    np.testing.assert_allclose(effects[place], copied.mean(axis=0))
    np.testing.assert_allclose(
        effects[estimates.there], copied - 0.5 * copied.mean(axis=0, keepdims=True)
    )


def test_weights_are_named_in_words_the_largest_first() -> None:
    said = in_words({COPIED: 0.0, SHRUNK: 0.25, KERNEL: 0.7, COMMON: 0.05})
    assert said.index("0.70 of that mean without its noise, by what") < said.index("0.25 of")
    assert "own changes" not in said
    said = in_words({COPIED: 0.0, SHRUNK: 0.25, KERNEL: 0.75, COMMON: -0.4})
    assert said.endswith(", less 0.40 of the mean effect of all perturbations")
    assert set(WITHOUT_LINES) == set(PARTS)
