"""How sure the means over perturbations are, and whether the model beats a baseline.

The perturbations of a screen are taken for a sample of those one would ask the model about, so
intervals resample perturbations. They do not cover other seeds (see `seeds`) or other lines, nor
another draw of reference controls: all deltas of a line are taken against the same ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from components.evaluate.metrics import EVERY, LOWER
from components.shared.paired import ALPHA, holm, interval, signed_rank_p

BEATS = "beats"
FALLS_SHORT = "falls short of"
UNCLEAR = "is not clearly different from"
INCOMPARABLE = "cannot be compared with"


def compare(
    model: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], metrics: Sequence[str]
) -> pd.DataFrame:
    """Compare the model with each baseline in each metric, paired over perturbations.

    The test is Wilcoxon's signed-rank test of the differences, corrected by Holm over the
    baselines of a metric: a verdict is on one metric, and those of all metrics would drown it in
    tests that nobody reads it by. "Beats" and "falls short of" are said only where both the
    corrected test and the interval of the mean difference exclude no difference.

    Args:
        model: metrics of the model, a row a perturbation.
        baselines: the same of each baseline.
        metrics: which of their columns.

    Returns:
        A row a metric and baseline: metric, baseline, difference (mean of model less baseline over
        the perturbations with a value on both sides), low, high (its bootstrap interval), better
        (perturbations with the model ahead), of (perturbations compared), p, p_holm, verdict.
    """
    rows = [
        _compared(metric, name, model[metric], other[metric])
        for metric in metrics
        for name, other in baselines.items()
    ]
    columns = ["metric", "baseline", "difference", "low", "high", "better", "of", "p"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    numbers = table[["difference", "low", "high", "p_holm"]].to_numpy(float)
    table["verdict"] = [
        _verdict(str(metric), *row) for metric, row in zip(table["metric"], numbers, strict=True)
    ]
    return table


def _compared(metric: str, name: str, model: pd.Series, baseline: pd.Series) -> list[object]:
    difference = (model - baseline).dropna().to_numpy()
    ahead = difference < 0 if EVERY[metric].better == LOWER else difference > 0
    mean = float(difference.mean()) if len(difference) else np.nan
    low, high = interval(difference)
    p = signed_rank_p(difference)
    return [metric, name, mean, low, high, int(ahead.sum()), len(difference), p]


def _verdict(metric: str, difference: float, low: float, high: float, p: float) -> str:
    if np.isnan(difference):
        return INCOMPARABLE
    if np.isnan(p) or p >= ALPHA or low <= 0 <= high:
        return UNCLEAR
    ahead = difference < 0 if EVERY[metric].better == LOWER else difference > 0
    return BEATS if ahead else FALLS_SHORT
