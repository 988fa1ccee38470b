"""What the report says of trust: what was expected, and whether it held."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.pages.trust import (
    BIN,
    LEAST_KEPT,
    Trust,
    kept_surest,
    rank_correlation,
    trust,
    trust_section,
)
from components.shared.artifacts.confidence import MEAN, MEASURED, Confidence, HeldOut

LINES = [
    HeldOut("k562", 0.9, 40, 0.5, 40, 0.2),
    HeldOut("hepg2", 0.8, 40, 0.3, 40, None),
]


def confidence(*, scale: float = 0.8, why: str = "") -> Confidence:
    return Confidence(scale, "Fitted on two lines.", why, LINES, pd.DataFrame(), {}, {})


def asked(expected: list[float], *, width: float = 0.1) -> pd.DataFrame:
    """Return what predict's table holds of so many perturbations, the first one untrained."""
    values = np.asarray(expected, float)
    return pd.DataFrame(
        {
            "perturbation": [f"P{i}" for i in range(len(values))],
            "expected_pearson_delta": values,
            "expected_low": values - width,
            "expected_high": values + width,
            "agreement": 0.5,
            "known": [MEAN, *[MEASURED] * (len(values) - 1)],
        }
    )


def told(expected: list[float], reached: list[float] | None, **settings) -> Trust:
    """Return the trust in predictions of which the first ones were measured."""
    outcomes = pd.Series(reached or [], [f"P{i}" for i in range(len(reached or []))], float)
    return trust(asked(expected), outcomes, confidence(**settings), settings.get("scale", 0.8))


def test_the_share_within_the_interval_counts_what_was_measured_and_both_ends_of_it() -> None:
    found = told([0.5, 0.5, 0.5, 0.5, 0.5], [0.41, 0.59, 0.39, 0.61])
    assert found.covered == 0.5
    assert len(found.measured) == 4 and not found.table.loc["P0", "trained"]


def test_a_curve_starts_at_the_surest_few_and_ends_at_all() -> None:
    expected = [i / 20 for i in range(20)]
    curve = told(expected, expected).curve()
    assert curve["kept"].tolist() == [i / 20 for i in range(LEAST_KEPT, 21)]
    assert curve["reached"].iloc[0] == pytest.approx(np.mean(expected[-LEAST_KEPT:]))
    assert curve["reached"].iloc[-1] == pytest.approx(np.mean(expected))
    assert curve["reached"].is_monotonic_decreasing


def test_like_expectations_are_averaged_only_where_there_are_enough() -> None:
    assert not len(told([0.5] * (BIN - 1), [0.4] * (BIN - 1)).bins)
    bins = told([0.1] * BIN + [0.6] * BIN, [0.0] * BIN + [0.8] * BIN).bins
    assert bins["count"].tolist() == [BIN, BIN]
    np.testing.assert_allclose(bins["expected"], [0.1, 0.6])
    np.testing.assert_allclose(bins["reached"], [0.0, 0.8])


def test_ranks_are_not_compared_where_a_side_does_not_vary_or_there_are_too_few() -> None:
    up = pd.Series([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rank_correlation(up, up**3) == pytest.approx(1.0)
    assert rank_correlation(up, -up) == pytest.approx(-1.0)
    assert rank_correlation(up, pd.Series([0.3] * 5)) is None
    assert rank_correlation(up[:4], up[:4]) is None


@given(
    values=st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.floats(-1, 1)), min_size=1, max_size=30
    ),
    kept=st.floats(0.05, 1.0),
    seed=st.integers(0, 100),
)
def test_the_mean_of_the_surest_does_not_depend_on_the_order_of_equal_expectations(
    values, kept, seed
) -> None:
    expected, reached = np.array(values).T
    order = np.random.default_rng(seed).permutation(len(values))
    found = kept_surest(expected, reached, kept)
    assert found == pytest.approx(kept_surest(expected[order], reached[order], kept), abs=1e-9)
    assert reached.min() - 1e-9 <= found <= reached.max() + 1e-9
    assert kept_surest(expected, reached, 1.0) == pytest.approx(reached.mean(), abs=1e-9)


def test_the_numbers_are_finite_or_none_whatever_was_measured() -> None:
    for found in (
        told([0.3, 0.4], None),
        told([0.3, np.nan], [0.2]),
        told([np.nan, np.nan], [0.1, 0.2]),
        told([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.1, 0.2, 0.2, 0.5, np.nan, 0.4]),
    ):
        values = found.numbers.values()
        assert all(value is None or np.isfinite(value) for value in values)
    numbers = told([0.3, 0.5], None).numbers
    assert numbers["expected"] == pytest.approx(0.4) and numbers["reached"] is None
    assert numbers["held_out_pearson_delta"] == pytest.approx(0.4)
    assert numbers["held_out_pearson_delta_untrained"] == pytest.approx(0.2)


def test_sentences_say_the_factor_what_is_expected_and_what_was_reached() -> None:
    expected = [i / 20 for i in range(20)]
    said = " ".join(told(expected, expected).sentences)
    assert "multiplied by 0.80. Fitted on two lines." in said
    assert "Expected for 20 predictions, without any perturbed cell of this line" in said
    assert "achieved scores is 1.00" in said and "100% lie within their 80% interval" in said
    assert "The most confident third achieves 0.81" in said


def test_sentences_do_not_speak_of_outcomes_where_nothing_was_measured() -> None:
    said = " ".join(told([0.2, np.nan, 0.4], None).sentences)
    assert "Expected for 2 predictions" in said and "For 1 there is no expectation." in said
    assert "achieved" not in said and "most confident third" not in said


def test_sentences_say_why_nothing_can_be_expected() -> None:
    why = "One training line tells of no other."
    assert told([np.nan], None, why=why, scale=1.0).sentences[1:] == [why]
    nothing = told([np.nan, np.nan], None).sentences
    assert nothing[-1] == "No score can be expected for any of these perturbations."


@pytest.mark.parametrize("measured", [0, 1, 3, LEAST_KEPT, 30])
def test_the_section_is_made_of_however_many_were_measured(measured: int) -> None:
    expected = [i / 40 for i in range(40)]
    page = trust_section(told(expected, expected[:measured]))
    assert page.count("<figure>") == (0 if measured < 2 else 1 if measured <= LEAST_KEPT else 2)
    assert '<th scope="row">P39</th>' in page and "k562" in page


def test_the_surest_and_the_least_sure_are_named_and_a_name_is_text() -> None:
    table = asked([i / 40 for i in range(40)])
    table.loc[39, "perturbation"] = "<script>"
    page = trust_section(trust(table, pd.Series(dtype=float), confidence(), 0.8))
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert ">P0<" in page and ">P20<" not in page
