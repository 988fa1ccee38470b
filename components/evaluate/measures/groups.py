"""What is known of one side's groups of cells beside their scores: means, spread, calls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from components.evaluate.measures.side import Side

SIGNIFICANT = 0.05
"""cell-eval calls a gene differentially expressed below this FDR."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Each group of cells of one side: the controls, then the perturbations, sorted."""

    control: str
    perturbations: list[str]
    sizes: Floats
    """Cells, [1 + perturbations]."""
    means: Floats
    """Of log1p of counts per 10,000, [1 + perturbations, genes]."""
    linear_means: Floats
    """Of counts per 10,000, [1 + perturbations, genes]."""
    squares: Floats
    """Sum of the squared log1p values of all cells and genes, [1 + perturbations]."""
    p_value: Floats
    """Mann-Whitney test against the controls, [perturbations, genes]."""
    fdr: Floats
    """Benjamini-Hochberg over the genes of a perturbation, as pdex has it."""

    @classmethod
    def of(cls, side: Side) -> "Groups":
        """Take them from what was computed of the side's cells."""
        return cls(
            side.control,
            side.perturbations,
            side.sizes.astype(np.float64),
            side.centroids,
            side.linear_means,
            side.squares,
            side.p_value,
            false_discovery_control(side.p_value, axis=1),
        )

    @property
    def deltas(self) -> Floats:
        """Mean changes against the controls, [perturbations, genes], log1p."""
        return self.means[1:] - self.means[0]

    @property
    def called(self) -> NDArray[np.bool_]:
        """Which genes are called differentially expressed, [perturbations, genes]."""
        return self.fdr < SIGNIFICANT
