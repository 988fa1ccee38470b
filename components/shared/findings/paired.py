"""How sure a mean over perturbations is, and whether a paired difference is one.

Perturbations are taken for a sample of those one would ask a model about, so intervals resample
them, and tests are paired over them. What all perturbations of a line share, as the draw of its
reference controls, is resampled by neither.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, wilcoxon

RESAMPLES = 2000
"""Of the bootstrap: 50 of them lie beyond each end of a 95 % interval."""
LEVEL = 0.95
ALPHA = 1 - LEVEL

Floats = NDArray[np.float64]


def interval(values: Floats) -> tuple[float, float]:
    """Return the bootstrap interval (95 %, percentile) of the mean of what is not NaN.

    NaN with fewer than two values. The same values always give the same interval.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return np.nan, np.nan
    found = bootstrap(
        (known,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=250,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def signed_rank_p(differences: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test: NaN for one, 1 where all are 0."""
    if len(differences) < 2:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return p values corrected by Holm (1979) over those that are not NaN.

    As `statsmodels.stats.multitest.multipletests`, which has the garbage collected in each call.
    """
    corrected = np.asarray(p, dtype=float).copy()
    tested = np.flatnonzero(~np.isnan(corrected))
    rising = tested[np.argsort(corrected[tested])]
    tests_left = np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(np.maximum.accumulate(tests_left * corrected[rising]), 1.0)
    return corrected
