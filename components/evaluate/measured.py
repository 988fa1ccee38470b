"""The measured side of an evaluation: what every prediction of the same cells is held against."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from pdex import pdex
from sklearn.metrics import pairwise_distances

from components.evaluate.pair import Matrix, Pair


@dataclass(frozen=True)
class Side:
    """What the metrics need of one side's cells, predicted or measured."""

    de: pl.DataFrame
    """Differential expression against the controls, a row a perturbation and gene, as pdex has it:
    target, feature, target_mean, ref_mean, target_membership, ref_membership, log2_fold_change,
    percent_change, p_value, statistic, fdr."""
    energy: pd.Series
    """Energy distance of each perturbation's cells to the controls, index = perturbation."""


@dataclass(frozen=True)
class Measured:
    """The measured side, computed once for the model, the baselines and the next model."""

    side: Side

    @classmethod
    def of(cls, pair: Pair, *, threads: int = 0, cache: Path | None = None) -> "Measured":
        """Compute the measured side of ``pair``, or read it from the cache.

        Args:
            pair: predicted and measured cells; the prediction is not looked at.
            threads: CPU threads; 0 = all available.
            cache: folder kept between evaluations, None = keep nothing.
        """
        return cls(side_of(pair, pair.measured, threads=threads))

    @property
    def de(self) -> pl.DataFrame:
        """Differential expression of the measured cells, see `Side.de`."""
        return self.side.de

    @property
    def energy(self) -> pd.Series:
        """Energy distances of the measured cells to their controls, index = perturbation."""
        return self.side.energy


def side_of(pair: Pair, matrix: Matrix, *, threads: int) -> Side:
    """Return what the metrics need of the cells in ``matrix`` [cells, genes]."""
    predicted, _ = pair.with_prediction(matrix).anndata()
    de = pdex(
        predicted,
        pair.perturbation_column,
        reference=pair.control,
        threads=threads,
        is_log1p=True,
        epsilon=0.0,
    )
    control = matrix[pair.labels == pair.control]
    within = pairwise_distances(control).mean()
    energy = {}
    for label in pair.perturbations:
        cells = matrix[pair.labels == label]
        own, across = pairwise_distances(cells).mean(), pairwise_distances(cells, control).mean()
        energy[label] = float(2 * across - own - within)
    return Side(pl.DataFrame(de), pd.Series(energy, dtype=np.float64))
