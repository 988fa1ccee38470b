"""What is known of one side's groups of cells beside their scores: means, spread, calls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from components.evaluate.pair import Matrix, Pair
from components.evaluate.rows import dense

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
    def of(cls, pair: Pair, matrix: Matrix, p_value: Floats) -> "Groups":
        """Go once through cells ``matrix`` [cells, genes] of the pair, a group at a time."""
        labels = [pair.control, *pair.perturbations]
        shape = (len(labels), len(pair.genes))
        means, linear, squares = np.empty(shape), np.empty(shape), np.empty(len(labels))
        for row, label in enumerate(labels):
            cells = dense(matrix[pair.rows[label]])
            means[row] = cells.mean(axis=0, dtype=np.float64)
            squares[row] = np.einsum("ij,ij->", cells, cells, dtype=np.float64)
            linear[row] = np.expm1(cells).mean(axis=0, dtype=np.float64)
        sizes = np.array([len(pair.rows[label]) for label in labels], dtype=np.float64)
        fdr = false_discovery_control(p_value, axis=1)
        return cls(pair.control, pair.perturbations, sizes, means, linear, squares, p_value, fdr)

    @property
    def deltas(self) -> Floats:
        """Mean changes against the controls, [perturbations, genes], log1p."""
        return self.means[1:] - self.means[0]

    @property
    def called(self) -> NDArray[np.bool_]:
        """Which genes are called differentially expressed, [perturbations, genes]."""
        return self.fdr < SIGNIFICANT
