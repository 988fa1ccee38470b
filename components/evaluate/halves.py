"""The measured cells as a prediction of themselves: what the data allow any model to score."""

import numpy as np
import pandas as pd

from components.evaluate.pair import Pair

SEED = 0
"""cell-eval's own seed for its ceiling."""


def halves(pair: Pair) -> Pair | None:
    """Return one half of the measured cells as a prediction of the other.

    The cells of each perturbation and the controls are split at random into two disjoint halves
    of floor(n / 2), as cell-eval's `compute_ceiling` does; each half has controls of its own.
    Perturbations with a single cell are left out.

    Returns:
        None where no halves can be made: fewer than two controls, or no perturbation with two
        cells.
    """
    labels = pair.labels
    counts = pd.Series(labels).value_counts()
    if counts[pair.control] < 2 or counts.drop(pair.control).max() < 2:
        return None
    rng = np.random.default_rng(SEED)
    measured, predicted = [], []
    for label in np.unique(labels):
        drawn = rng.permutation(np.flatnonzero(labels == label))
        half = len(drawn) // 2
        measured.append(drawn[:half])
        predicted.append(drawn[half : 2 * half])
    rows, others = np.concatenate(measured), np.concatenate(predicted)
    return Pair(
        pair.measured[others],
        pair.measured[rows],
        pair.obs.iloc[rows],
        pair.genes,
        pair.perturbation_column,
        pair.control,
    )
