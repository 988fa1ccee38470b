"""Which genes a prediction calls differentially expressed, against those that really are."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.evaluate.measures.side import SIGNIFICANT

EDGES = (0.0, 1e-10, 1e-4, 1e-2, SIGNIFICANT, 0.2, 0.5, 1.0)
"""Of the bins of predicted FDR; below 1e-10 cell-eval's ranking makes no difference."""
QUINTILES = 5
"""Of expression: genes in few cells are called differently from those in all."""

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
