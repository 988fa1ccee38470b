"""How sure a mean over perturbations is, and whether a paired difference is one.

Perturbations are taken for a sample of those one would ask a model about, so intervals resample
them, and tests are paired over them. What all perturbations of a line share, as the draw of its
reference controls, is resampled by neither.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, permutation_test, rankdata, wilcoxon

RESAMPLES = 2000
"""Of the bootstrap: 50 of them lie beyond each end of a 95 % interval."""
LEVEL = 0.95
ALPHA = 1 - LEVEL
MOST_BY_SIGNS = 13
"""Most differences of which SciPy tries every choice of signs; of more it takes the normal law."""

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
    """Return the two-sided p of Wilcoxon's signed-rank test: NaN for one, 1 where all are 0.

    It is that of `scipy.stats.wilcoxon`, which for few differences with zeros or equals among them
    ranks anew with every choice of signs: of 13, that takes 0.9 s. Signs change no rank.
    """
    if len(differences) < 2:
        return np.nan
    if not differences.any():
        return 1.0
    changed = differences != 0
    ranks = rankdata(np.abs(differences[changed]))
    plain = len(np.unique(ranks)) == len(differences)
    if plain or len(differences) > MOST_BY_SIGNS:
        return float(wilcoxon(differences).pvalue)
    signed = np.zeros(len(differences))
    signed[changed] = ranks * np.sign(differences[changed])

    def of_positive(ranks: Floats, axis: int) -> Floats:
        return np.asarray(np.maximum(ranks, 0).sum(axis=axis))

    found = permutation_test((signed,), of_positive, permutation_type="samples", vectorized=True)
    return float(found.pvalue)


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
