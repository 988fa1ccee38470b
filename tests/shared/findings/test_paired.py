"""Tests of paired differences, against SciPy."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from components.shared.findings.paired import signed_rank_p


@pytest.mark.parametrize("differences", [[0.1, 0.2], [0.3, -0.2, 0.0, 0.5]])
def test_the_p_is_that_of_wilcoxon_from_two_differences_on(differences: list[float]) -> None:
    assert signed_rank_p(np.array(differences)) == float(wilcoxon(differences).pvalue)


def test_one_difference_has_no_p_and_none_at_all_has_one_of_one() -> None:
    assert np.isnan(signed_rank_p(np.array([0.4])))
    assert signed_rank_p(np.zeros(3)) == 1.0
