"""The ways in which lines tell of an effect, and what each counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.deltas import LineDeltas
from components.finetune.effect_parts import COPIED, KERNEL, estimates_from
from components.finetune.effect_weights import weights_of
from tests.finetune.shared_effects import screen, tellers


def carried(shared: np.ndarray, deltas: LineDeltas) -> dict[str, float]:
    """Return how well each way, and the stack of all, gives the shared effects."""
    lines = tellers(deltas)
    estimates, weights = estimates_from(lines), weights_of(lines)
    ways = estimates.parts | {"stack": estimates.combined(weights)}
    return {way: _correlation(x, shared[estimates.there]) for way, x in ways.items()}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norm = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return float(((a * b).sum(axis=1) / norm).mean())


@pytest.mark.parametrize("seed", range(3))
def test_where_perturbations_share_pathways_each_tells_of_the_others(seed: int) -> None:
    found = carried(*screen(seed, pathways=4, noise=1.0))
    assert found[KERNEL] > found[COPIED] + 0.1
    assert found["stack"] > found[COPIED] + 0.1


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(2, 4),
    st.sampled_from([0, 5]),
    st.floats(0.0, 1.0),
    st.floats(0.1, 1.5),
    st.sampled_from([0.0, 0.3]),
)
def test_the_stack_is_about_as_good_as_copying_whatever_lines_share(
    seed, lines, pathways, common, noise, missing
) -> None:
    kind = {"lines": lines, "pathways": pathways, "common": common, "noise": noise}
    found = carried(*screen(seed, **kind, missing=missing))
    assert found["stack"] > found[COPIED] - 0.03


def test_noise_alone_is_not_taken_for_what_perturbations_have_in_common() -> None:
    rng = np.random.default_rng(0)
    _, deltas = screen(0)
    noise = rng.normal(size=deltas.change.shape) * deltas.there[..., None]
    found = estimates_from(
        tellers(LineDeltas(deltas.lines, noise, np.ones_like(noise), deltas.there))
    )
    assert np.square(found.parts[KERNEL]).mean() < 0.25 * np.square(found.parts[COPIED]).mean()


def test_the_kernel_keeps_what_is_certain() -> None:
    shared, deltas = screen(1, pathways=5, own=0.0, noise=2e-3)
    found = estimates_from(tellers(deltas))
    np.testing.assert_allclose(found.parts[KERNEL], shared[1:], atol=0.01)


def test_a_perturbation_of_one_line_is_told_beside_those_of_several() -> None:
    shared, deltas = screen(3, missing=0.5, pathways=4, noise=0.3, own=0.2)
    lines = tellers(deltas)
    estimates = estimates_from(lines)
    once = deltas.there.sum(axis=0)[estimates.there] == 1
    assert once.any() and np.isfinite(estimates.parts[KERNEL]).all()
    assert _correlation(estimates.parts[KERNEL][once], shared[estimates.there][once]) > 0.8
