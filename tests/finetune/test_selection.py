"""Which epoch is kept, and how much a network counts beside known effects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.selection import (
    leads,
    network_weight,
    reliability,
    student_tail,
    weighted_mean,
)
from components.shared.model import model as scgpt_model
from components.shared.model.inference import predict_cells
from components.shared.model.tokens import Targets
from tests.finetune.screens import VOCABULARY
from tests.publish.publish_run import ARGS

GENES = 200
CPU = torch.device("cpu")
EQUAL = [1.0] * 4


@pytest.mark.parametrize(
    ("lead", "beyond_luck"),
    [
        ([0.1, 0.12, 0.09, 0.1], True),
        ([0.1, 0.1, 0.1, 0.1], True),
        ([0.12, 0.02, 0.1, 0.03], False),  # two standard errors, which the best of ten reaches
        ([0.3, -0.2, 0.1, -0.1], False),
        ([-0.1, -0.1, -0.1, -0.1], False),
        ([0.1, np.nan, np.nan, np.nan], False),
    ],
)
def test_an_epoch_leads_only_beyond_the_luck_of_the_best_of_ten(lead, beyond_luck) -> None:
    other = np.array([0.3, 0.4, 0.5, 0.2])
    assert leads(other + lead, other, EQUAL, tests=10) == beyond_luck


def test_sets_that_do_not_count_cannot_make_a_lead() -> None:
    other = np.array([0.3, 0.4, 0.5, 0.2])
    one = other + np.array([0.1, 0.11, 0.09, -0.9])
    assert not leads(one, other, EQUAL, tests=10)
    assert leads(one, other, [1.0, 1.0, 1.0, 0.0], tests=3)
    assert not leads(one, other, [1.0, 0.0, 0.0, 0.0], tests=1)


def test_equal_weights_give_the_paired_t_test() -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    for shift in (0.2, 0.5, 0.8, 1.1):
        one, other = rng.normal(shift, 1, 12), rng.normal(0, 1, 12)
        p = ttest_rel(one, other, alternative="greater").pvalue
        assert leads(one, other, [2.0] * 12, tests=1) == (p < 0.05)
        assert leads(one, other, [2.0] * 12, tests=7) == (p < 0.05 / 7)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 50), st.floats(1, 60))
def test_students_tail_is_scipys(score, freedom) -> None:
    from scipy.stats import t

    assert student_tail(score, freedom) == pytest.approx(t.sf(score, freedom), rel=1e-3, abs=1e-9)


def test_reliability_is_the_share_that_is_no_noise() -> None:
    rng = np.random.default_rng(1)
    signal = rng.normal(0, 1, 4000)
    noisy = signal + rng.normal(0, 1, 4000)
    assert reliability(noisy, np.ones(4000)) == pytest.approx(0.5, abs=0.05)
    assert reliability(rng.normal(0, 1, 4000), np.full(4000, 1.5)) == 0
    assert reliability(signal, np.zeros(4000)) == 1
    assert reliability(np.ones(5), np.ones(5)) == 0


def test_a_mean_leaves_out_what_has_no_value_and_counts_all_alike_where_none_weighs() -> None:
    values = np.array([1.0, np.nan, 3.0])
    assert weighted_mean(values, np.array([3.0, 9.0, 1.0])) == 1.5
    assert weighted_mean(values, np.zeros(3)) == 2.0
    assert np.isnan(weighted_mean(np.array([np.nan]), np.ones(1)))


def _sets(adds: float, sets: int, seed: int, noise: float = 0.5):
    """Return known effects, a network's change, and what was measured, which has some of both."""
    rng = np.random.default_rng(seed)
    known, change = rng.normal(0, 1, (2, sets, GENES))
    measured = known + adds * change + rng.normal(0, noise, known.shape)
    return known, change, measured, np.ones(sets)


@pytest.mark.parametrize("adds", [0.2, 0.5, 1.0])
def test_a_network_counts_for_as_much_as_it_adds(adds) -> None:
    assert network_weight(*_sets(adds, 12, 3)) == pytest.approx(adds, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 20))
def test_a_network_that_adds_nothing_counts_for_next_to_nothing(seed, sets) -> None:
    assert network_weight(*_sets(0.0, sets, seed)) < 0.1
    assert network_weight(*_sets(-0.5, sets, seed)) == 0


def test_one_set_or_no_change_asks_for_no_network() -> None:
    known, change, measured, weights = _sets(1.0, 5, 0)
    assert network_weight(known[:1], change[:1], measured[:1], weights[:1]) == 0
    assert network_weight(known, 0 * change, measured, weights) == 0
    assert network_weight(known, change, measured, 0 * weights) == 0


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_of_a_network_scales_what_it_adds_to_known_effects_and_nothing_else(
    weight,
) -> None:
    torch.manual_seed(0)
    model = scgpt_model.build(ARGS, VOCABULARY)
    scgpt_model.give_effects(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval()
    ids = np.arange(6)
    basal, effects = torch.rand(3, 6), torch.randn(1, 6)
    target = Targets(np.array([2]), np.array([], np.int64))
    settings_ = {"window": 0, "contrast": True, "device": CPU, "precision": "fp32"}

    def change() -> torch.Tensor:
        found = predict_cells(
            model, basal, [target] * 3, ids, np.arange(6), effects=effects, **settings_
        )
        return found - basal - effects

    whole = change()
    assert whole.abs().max() > 1e-3
    model.load_state_dict(scgpt_model.weigh_network(scgpt_model.export_state(model), weight))
    torch.testing.assert_close(change(), weight * whole, atol=1e-5, rtol=1e-4)


def test_a_change_whose_noise_is_not_known_counts_for_nothing() -> None:
    assert reliability(np.arange(5.0), np.full(5, np.nan)) == 0
