"""The measured cells as a prediction of themselves: what the data allow any model to score."""

import numpy as np
import pandas as pd
from cell_eval._evaluator import SB_METRICS

from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Chosen
from components.shared.artifacts.evaluation import CENTRED

SEED = 0
"""cell-eval's own seed for its ceiling."""


def halves(pair: Pair) -> Pair | None:
    """Return one half of the measured cells as a prediction of the other.

    The cells of each perturbation and the controls are split at random into two disjoint halves
    of floor(n / 2), as cell-eval's `compute_ceiling` does; each half has controls of its own.
    Perturbations with a single cell are left out. None where no halves can be made: fewer than two
    controls, or no perturbation with two cells.
    """
    sizes = {label: len(rows) for label, rows in pair.rows.items()}
    if sizes.pop(pair.control) < 2 or max(sizes.values()) < 2:
        return None
    rng = np.random.default_rng(SEED)
    measured, predicted = [], []
    for own in pair.rows.values():
        drawn = rng.permutation(own)
        half = len(drawn) // 2
        measured.append(drawn[:half])
        predicted.append(drawn[half : 2 * half])
    rows, others = np.concatenate(measured), np.concatenate(predicted)
    return Pair(
        Chosen(pair.measured, others),
        pair.obs.iloc[rows],
        pair.genes,
        pair.perturbation_column,
        pair.control,
        Chosen(pair.measured, rows),
    )


def at_full_depth(metrics: pd.DataFrame) -> pd.DataFrame:
    """Map what the halves score to the depth of all cells, as cell-eval's `compute_ceiling`.

    Spearman-Brown, 2r / (1 + r), of each metric's mean over perturbations, in the metrics that
    cell-eval holds fit for it (`SB_METRICS`; no error metric is) and in our correlation, where
    r > 0. cell-eval's own mean is NaN as soon as one perturbation has no value; this one leaves
    those out. Index = metric; columns half_depth (the halves' mean), ceiling and n_nan.
    """
    mean = metrics.mean()
    fit = mean.index.isin([*SB_METRICS, CENTRED])
    corrected = (2 * mean / (1 + mean)).where((mean > 0) & fit)
    parts = {"half_depth": mean, "ceiling": corrected, "n_nan": metrics.isna().sum()}
    return pd.DataFrame(parts).rename_axis("metric")
