"""How sure the means over perturbations are, and whether the model beats a baseline.

The perturbations of a screen are taken for a sample of those one would ask the model about, so
intervals resample perturbations. They do not cover other seeds (see `seeds`) or other lines, nor
another draw of reference controls: all deltas of a line are taken against the same ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from components.evaluate.measures.metrics import EVERY, LOWER
from components.shared.findings.paired import ALPHA, holm, interval, signed_rank_p
from components.shared.findings.verdict import BEATS, FALLS_SHORT, INCOMPARABLE, UNCLEAR

SMALLEST = 0.01
"""A mean difference below this is not called better or worse, however sure it is.

Of a score it is an absolute difference: another seed alone moves the mean of pearson_delta by 0.008
or more (standard deviations in docs/priors.md), so what is smaller would not be there again. An
error has no span of its own: there it is the same share of the baseline's.
"""


def compare(
    model: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], metrics: Sequence[str]
) -> pd.DataFrame:
    """Compare the model with each baseline in each metric, paired over perturbations.

    The test is Wilcoxon's signed-rank test of the differences, corrected by Holm over the
    baselines of a metric: a verdict is on one metric, and those of all metrics would drown it in
    tests that nobody reads it by. "Beats" and "falls short of" are said only where both the
    corrected test and the interval of the mean difference exclude no difference, and the mean
    difference is `SMALLEST` or more.

    Returns:
        A row per metric and baseline: metric, baseline, difference (mean of model - baseline over
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
    table["verdict"] = [
        _verdict(row, _counts_from(row["metric"], baselines[row["baseline"]]))
        for row in table.to_dict("records")
    ]
    return table


def too_few(perturbations: int, baselines: int) -> bool:
    """Return whether no difference can be sure, whatever it is.

    Wilcoxon's two-sided test of n pairs has a p of 2 / 2**n at the least, and Holm multiplies the
    least one by the number of tests.
    """
    return 2 * 0.5**perturbations * baselines >= ALPHA


def _counts_from(metric: str, baseline: pd.DataFrame) -> float:
    """Return the smallest difference that counts against a baseline."""
    return SMALLEST * (abs(baseline[metric].mean()) if EVERY[metric].better == LOWER else 1.0)


def _compared(metric: str, name: str, model: pd.Series, baseline: pd.Series) -> list[object]:
    difference = (model - baseline).dropna().to_numpy()
    ahead = difference < 0 if EVERY[metric].better == LOWER else difference > 0
    mean = float(difference.mean()) if len(difference) else np.nan
    low, high = interval(difference)
    p = signed_rank_p(difference)
    return [metric, name, mean, low, high, int(ahead.sum()), len(difference), p]


def _verdict(row: Mapping[Any, Any], smallest: float) -> str:
    if np.isnan(row["difference"]):
        return INCOMPARABLE
    unsure = np.isnan(row["p_holm"]) or row["p_holm"] >= ALPHA or row["low"] <= 0 <= row["high"]
    if unsure or abs(row["difference"]) < smallest:
        return UNCLEAR
    lower = EVERY[row["metric"]].better == LOWER
    return BEATS if (row["difference"] < 0) == lower else FALLS_SHORT
