"""The one sentence that says what a run came to, case by case."""

import numpy as np
import pandas as pd
import pytest

from components.evaluate.measures.uncertainty import SMALLEST, compare, too_few
from components.shared.findings.verdict import (
    BEATS,
    FALLS_SHORT,
    UNCLEAR,
    best_baseline,
    strongest_baseline,
    verdict,
)

METRICS = ("pearson_delta", "mae_delta", *"abcdefg")
COPY, NOTHING = "same_perturbation_delta", "control_mean"
WORDS = {"+": BEATS, "-": FALLS_SHORT, "?": UNCLEAR}


def scores(against_copy: str, no_effect: str = "+", **more) -> dict:
    """Return nine metrics: a mark each against the copied effect, and one against no effect."""
    tests = {
        metric: {COPY: {"verdict": WORDS[mark]}, NOTHING: {"verdict": WORDS[no_effect]}}
        for metric, mark in zip(METRICS, against_copy, strict=True)
    }
    good = {metric: 0.1 if metric == "mae_delta" else 0.6 for metric in METRICS}
    bad = {metric: 0.3 if metric == "mae_delta" else 0.2 for metric in METRICS}
    return {
        "scored": True,
        "perturbations": 40,
        "perturbations_without_de": 0,
        "model": good,
        "baselines": {NOTHING: bad, COPY: good},
        "ceiling": {"pearson_delta": 0.7},
        "tests": tests,
        **more,
    }


@pytest.mark.parametrize(
    ("marks", "no_effect", "said"),
    [
        ("-----????", "+", "about as good as copying each gene's effect from the training lines"),
        ("-----????", "+", "(better in 0, worse in 5, unclear in 4 of 9 metrics)"),
        ("-----????", "+", "metrics), and clearly better than no effect."),
        ("++++++???", "+", "is better than copying"),
        ("++++++???", "+", ", and clearly better than no effect."),
        ("++++++??-", "+", "is about as good as copying"),
        ("------???", "+", "is worse than copying"),
        ("------???", "+", ", but clearly better than no effect."),
        ("------???", "?", ", and not clearly better than no effect."),
        ("------???", "-", ", and worse than no effect."),
    ],
)
def test_the_counts_of_all_metrics_decide(marks: str, no_effect: str, said: str) -> None:
    text = verdict(scores(marks, no_effect))
    assert text.startswith("Over 40 perturbations the model is ")
    assert said in text and text.count(".") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"perturbations_without_de": 20}, "20 of 40 perturbations have no significant gene"),
        ({"ceiling": {"pearson_delta": 0.16}}, "the ceiling of pearson_delta is 0.160"),
        ({"perturbations": 5, "too_few": True}, "5 perturbations are too few for any test"),
    ],
)
def test_data_that_cannot_tell_are_said_to_unless_they_do(changes: dict, said: str) -> None:
    text = verdict(scores("?" * 9, **changes))
    assert text.startswith("These data cannot tell: ") and said in text
    assert "worse than copying" in verdict(scores("-" * 9, **changes))


def test_a_model_that_predicts_no_effect_is_called_so() -> None:
    told = scores("-" * 9, predicted_strength=0.002)
    said = verdict(told)
    assert said.startswith("The model predicts no effect") and said.count(".") == 1
    weak = verdict(told | {"ceiling": {"pearson_delta": 0.008}})
    assert weak.startswith(said)
    assert weak.endswith(" could hardly show an effect: the ceiling of pearson_delta is 0.008.")
    assert "worse than" in verdict(told | {"predicted_strength": 0.004})


def test_what_was_not_measured_is_not_judged() -> None:
    told = {"scored": False, "not_scored": "no perturbed cell of rpe1 was measured"}
    assert verdict(told) == "Not scored: no perturbed cell of rpe1 was measured."


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (BEATS, "the network adds +0.050."),
        (UNCLEAR, "the network adds nothing that counts (+0.050)."),
        (FALLS_SHORT, "the network takes away from that (+0.050)."),
    ],
)
def test_known_effects_are_no_baseline_and_the_network_is_told_apart(word: str, said: str) -> None:
    told = scores("?" * 9)
    told["baselines"]["known_effects"] = dict.fromkeys(METRICS, 9.0)
    told["comparisons"] = {"known_effects": {"baseline": 0.35, "difference": 0.05, "verdict": word}}
    assert strongest_baseline(told) == COPY
    text = verdict(told)
    assert "Known effects of the training lines alone reach pearson_delta 0.350" in text
    assert text.endswith(said)


def test_the_strongest_baseline_is_best_in_most_metrics_and_lower_may_be_better() -> None:
    told = scores("?" * 9)
    told["baselines"][NOTHING]["mae_delta"] = 0.05
    assert best_baseline(told, "mae_delta") == (NOTHING, 0.05)
    assert strongest_baseline(told) == COPY
    for metric in METRICS[:5]:
        told["baselines"][NOTHING][metric] = 0.0 if metric == "mae_delta" else 0.9
    assert strongest_baseline(told) == NOTHING
    assert best_baseline(told | {"baselines": {}}, "mae_delta") == ("-", None)


@pytest.mark.parametrize(
    ("metric", "shift", "word"),
    [
        ("pearson_delta", 0.9 * SMALLEST, UNCLEAR),
        ("pearson_delta", 1.2 * SMALLEST, BEATS),
        ("pearson_delta", -1.2 * SMALLEST, FALLS_SHORT),
        ("mae_delta", -0.9 * SMALLEST * 0.2, UNCLEAR),  # of a baseline's error of 0.2
        ("mae_delta", -1.2 * SMALLEST * 0.2, BEATS),
        ("mae_delta", 1.2 * SMALLEST * 0.2, FALLS_SHORT),
    ],
)
def test_a_difference_that_does_not_count_is_unclear_however_sure(
    metric: str, shift: float, word: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-6, 40)
    baseline = pd.DataFrame({metric: np.full(40, 0.2)})
    found = compare(baseline + shift + noise[:, None], {"b": baseline}, [metric])
    assert found["p_holm"][0] < 1e-6 and found["verdict"][0] == word


def test_too_few_perturbations_are_those_of_which_no_test_can_be_sure() -> None:
    for perturbations in range(2, 12):
        ahead = pd.DataFrame({"pearson_delta": np.arange(perturbations) + 1.0})
        others = {str(n): ahead * 0 for n in range(4)}
        sure = (compare(ahead, others, ["pearson_delta"])["verdict"] == BEATS).any()
        assert too_few(perturbations, len(others)) != sure
