"""Metrics of our own beside cell-eval's: what is left when the effect common to all is taken away.

Systema (Nature Biotechnology 2025): perturbations of one screen share a systematic effect, which
any prediction of that mean effect gets credit for. Centred on it, only what a perturbation does
differently from the others counts.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pearson_delta_centred(predicted: Floats, measured: Floats) -> Floats:
    """Correlate deltas [perturbations, genes] after the measured mean effect is taken from both.

    Distances between deltas do not change when the same is taken from both, so
    discrimination_score_l1 and _l2 and mae_delta are corrected for it as they are.

    NaN where a side does not vary, and for all where there are fewer than two perturbations, whose
    mean effect is the one's own.
    """
    if len(measured) < 2:
        return np.full(len(measured), np.nan)
    common = measured.mean(axis=0)
    return row_correlations(predicted - common, measured - common)


def row_correlations(x: Floats, y: Floats) -> Floats:
    """Return the Pearson correlation of each row of two matrices, NaN where one does not vary."""
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = np.einsum("ij,ij->i", x, y)
    return np.divide(dots, norms, out=np.full(len(x), np.nan), where=norms > 0)
