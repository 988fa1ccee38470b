"""Which genes a prediction calls, and why its roc_auc is below chance, where it is.

Where a prediction puts nearly the same value in every cell, the rank test of its cells against the
controls depends on one thing only: where that value lies in the distribution of the controls. That
place alone is a score of each gene, which can be compared with the genes that are really
differentially expressed as the prediction's own significance is.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from components.evaluate.measures.side import SIGNIFICANT

EDGES = (0.0, 1e-10, 1e-4, 1e-2, SIGNIFICANT, 0.2, 0.5, 1.0)
"""Of the bins of predicted FDR; below 1e-10 cell-eval's ranking makes no difference."""
QUINTILES = 5
"""Of expression: genes in few cells are called differently from those in all."""
CHANCE = 0.5
"""roc_auc of genes ranked at random."""
ALIKE = 0.5
"""Rank correlation from which on one score is said to explain another."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Calls:
    """Genes that a prediction calls, pooled over perturbations."""

    calibration: pd.DataFrame
    """One row per bin of predicted FDR: low, high, genes (pairs of gene and perturbation in it),
    really_de (the share of them that the measured cells call)."""
    by_expression: pd.DataFrame
    """One row per quintile of mean expression in the controls: mean, measured and predicted
    (the share of its genes that are called)."""


def calls(predicted: Floats, really: Flags, expression: Floats) -> Calls:
    """Compare the predicted FDR with what the measured cells call, each [perturbations, genes].

    ``expression`` is the mean of the measured controls, [genes], log1p of counts per 10,000.
    """
    return Calls(_calibration(predicted, really), _by_expression(predicted, really, expression))


def _calibration(predicted: Floats, really: Flags) -> pd.DataFrame:
    place = np.clip(np.searchsorted(EDGES, predicted, side="right") - 1, 0, len(EDGES) - 2).ravel()
    genes = np.bincount(place, minlength=len(EDGES) - 1)
    found = np.bincount(place, weights=really.ravel(), minlength=len(EDGES) - 1)
    with np.errstate(invalid="ignore"):
        share = found / genes
    return pd.DataFrame({"low": EDGES[:-1], "high": EDGES[1:], "genes": genes, "really_de": share})


def _by_expression(predicted: Floats, really: Flags, expression: Floats) -> pd.DataFrame:
    ranks = np.argsort(np.argsort(expression, kind="stable"), kind="stable")
    quintile = ranks * QUINTILES // max(len(expression), 1)
    called = {"measured": really, "predicted": predicted < SIGNIFICANT}
    rows = [
        {"quintile": number + 1, "mean": expression[quintile == number].mean()}
        | {name: flags[:, quintile == number].mean() for name, flags in called.items()}
        for number in np.unique(quintile).tolist()
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Diagnosis:
    """Nan-means over the perturbations that have some, but not all, genes really called."""

    roc_auc: float
    """The prediction's own."""
    skew_roc_auc: float
    """Of the control skew alone."""
    agreement: float
    """Rank correlation, over genes, of the prediction's significance and the control skew."""

    @property
    def explained(self) -> bool:
        """Whether the control skew alone falls below chance and ranks genes as the prediction."""
        return self.skew_roc_auc < CHANCE and self.agreement >= ALIKE


def control_skew(means: Floats, controls: NDArray[np.floating]) -> Floats:
    """Return how far from the middle of the control cells each predicted mean lies.

    It is |2 F - 1| with F the share of control cells below the mean (those that tie count half),
    which is what the Mann-Whitney test makes of cells that all hold that mean: from 0 (the median)
    to 1 (outside of all controls), [perturbations, genes] like ``means``, whose unit the
    ``controls`` [controls, genes] share.
    """
    ordered = np.sort(controls, axis=0)
    skew = np.empty(means.shape)
    for gene in range(means.shape[1]):
        value = means[:, gene].astype(ordered.dtype)
        below = np.searchsorted(ordered[:, gene], value, side="left")
        up_to = np.searchsorted(ordered[:, gene], value, side="right")
        skew[:, gene] = np.abs((below + up_to) / len(ordered) - 1)
    return skew


def diagnose(fdr: Floats, really: Flags, skew: Floats) -> Diagnosis | None:
    """Hold a prediction's significance against the control skew of its means.

    All are [perturbations, genes]: FDR of the predicted cells, what the measured cells call, and
    `control_skew`. None where no perturbation has both genes that are called and others.
    """
    scores = -np.log10(np.clip(fdr, 1e-10, 1.0))  # cell-eval's own
    rows = np.flatnonzero(really.any(axis=1) & ~really.all(axis=1))
    if not len(rows):
        return None
    found = [
        (
            roc_auc_score(really[row], scores[row]),
            roc_auc_score(really[row], skew[row]),
            _rank_correlation(scores[row], skew[row]),
        )
        for row in rows
    ]
    own, alone, agreement = (np.array(found, dtype=float)).T
    known = np.isfinite(agreement)
    return Diagnosis(
        float(own.mean()), float(alone.mean()), float(agreement[known].mean()) if known.any() else 0
    )


def _rank_correlation(a: Floats, b: Floats) -> float:
    x, y = rankdata(a), rankdata(b)
    if x.std() == 0 or y.std() == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
