"""Tests of paired differences, against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from components.shared.findings.paired import signed_rank_p


@pytest.mark.parametrize("differences", [[0.1, 0.2], [0.3, -0.2, 0.0, 0.5]])
def test_the_p_is_that_of_wilcoxon_from_two_differences_on(differences: list[float]) -> None:
    assert signed_rank_p(np.array(differences)) == float(wilcoxon(differences).pvalue)


few = st.integers(-3, 3).map(lambda whole: whole / 10)


@settings(max_examples=60)
@given(st.lists(few, min_size=2, max_size=8).filter(any))
def test_equals_and_zeros_among_few_differences_change_nothing(differences: list[float]) -> None:
    expected = wilcoxon(differences).pvalue
    assert signed_rank_p(np.array(differences)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [13, 14])
def test_as_many_choices_of_signs_are_tried_as_scipy_tries(count: int) -> None:
    differences = np.append(np.linspace(-0.2, 1, count - 1), 0.0)
    expected = wilcoxon(differences).pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-12)


def test_one_difference_has_no_p_and_none_at_all_has_one_of_one() -> None:
    assert np.isnan(signed_rank_p(np.array([0.4])))
    assert signed_rank_p(np.zeros(3)) == 1.0
