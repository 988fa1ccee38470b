"""What training reads: dense arrays in memory, and the row numbers that give them meaning."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from components.shared.tokens import Ints, Targets


@dataclass(frozen=True)
class ValidationSet:
    """The held-out cells of one (cell line, perturbation)."""

    line: str
    perturbation: str
    rows: Ints
    """Rows of `TrainingData.expression`."""


@dataclass(frozen=True)
class TrainingData:
    """All a training loop reads, in memory.

    Expression is log1p of counts per 10,000, float32 [rows, modelled genes]; the other arrays hold
    its row numbers.
    """

    expression: Tensor
    ids: Ints
    """Token ids of the modelled genes."""
    perturbations: list[str]
    """Labels by code; code 0 is the control."""
    targets: list[Targets]
    """By code."""
    train_rows: Ints
    train_codes: Ints
    basal: dict[str, Ints]
    """Rows of the control cells that serve as input, by cell line."""
    line_of_row: NDArray[np.str_]
    reference_mean: dict[str, NDArray[np.float64]]
    """Mean expression of the reference controls, by cell line, [modelled genes]."""
    validation: list[ValidationSet]

    def unflagged(self) -> list[str]:
        """Return the trained perturbations of which the model cannot be told."""
        trained = np.unique(self.train_codes)
        return [self.perturbations[c] for c in trained if c and not self.targets[c].flagged]
