"""Training data: dense arrays in memory, and the row numbers that give them meaning."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.shared.model.devices import moved
from components.shared.model.tokens import Ints, Targets, gathered

Floats = NDArray[np.float64]
WillRead = Callable[[Ints], None]
"""Is given the rows that are used next."""

ROWS_AT_ONCE = 1024
"""Cells that are turned into 64 bits together, for memory."""


def in_memory(_: Ints) -> None:
    """Do nothing for rows that are in memory."""


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
    controls: dict[str, Ints]
    """Rows of all control cells, by cell line in the same order."""
    line_of_row: NDArray[np.str_]
    reference_mean: dict[str, Floats]
    """Mean expression of the reference controls, by cell line, [modelled genes]."""
    validation: list[ValidationSet]
    effects: Tensor | None = None
    """What each line may know of each perturbation's effect from other lines, float32 [lines,
    perturbations, genes], log1p units; lines in the order of `controls`."""
    batch_of_row: NDArray[np.str_] | None = None
    """Where cells are to stand against controls of their own batch."""
    will_read: WillRead = in_memory
    """Rows that are in a file (see `room`) are read from it side by side, those given together."""

    def window(self, rows: Ints, genes: Ints) -> Tensor:
        """Return the cells at ``rows`` and some of their genes, [rows, genes]."""
        self.will_read(rows)
        return gathered(self.expression, rows, genes)

    def cells(self, rows: Ints) -> Tensor:
        """Return the cells at ``rows``, float32 [rows, genes]."""
        self.will_read(rows)
        return self.expression[torch.from_numpy(rows).to(self.expression.device)].float()

    def moments(self, rows: Ints) -> tuple[Floats, Floats]:
        """Return mean and variance of the cells at ``rows``, see `moments`."""
        return moments(self.expression, rows, self.will_read)

    def known(self, lines: Ints, codes: Ints, genes: Ints) -> Tensor | None:
        """Return known effects on some genes for each pair of line and perturbation, [B, G]."""
        if self.effects is None:
            return None
        there = self.effects.device
        place = (lines[:, None], codes[:, None], genes[None])
        return self.effects[tuple(moved(torch.from_numpy(part), there) for part in place)]

    def seen(self) -> list[ValidationSet]:
        """Return the held-out sets whose perturbation has training cells, in another line."""
        trained = {self.perturbations[code] for code in np.unique(self.train_codes)}
        return [held_out for held_out in self.validation if held_out.perturbation in trained]

    def unflagged(self) -> list[str]:
        """Return the trained perturbations of which the model cannot be told."""
        codes = np.unique(self.train_codes)
        return [self.perturbations[c] for c in codes if c and not self.targets[c].flagged]

    def line_numbers(self, rows: Ints) -> Ints:
        """Return the place of each row's cell line in `controls`."""
        lines = list(self.controls)
        names, places = np.unique(self.line_of_row[rows], return_inverse=True)
        return np.array([lines.index(name) for name in names], np.int64)[places]


def moments(
    expression: Tensor, rows: Ints, will_read: WillRead = in_memory
) -> tuple[Floats, Floats]:
    """Return mean and variance of cells at ``rows`` of ``expression`` [cells, genes], each [genes].

    A few cells are copied at a time. The variance is NaN for one cell, both are for none.
    """
    device = expression.device
    total = torch.zeros(expression.shape[1], dtype=torch.float64, device=device)
    squares = torch.zeros_like(total)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        will_read(part)
        cells = expression[torch.from_numpy(part).to(device)].double()
        total += cells.sum(0)
        squares += cells.square().sum(0)
    n = len(rows)
    mean = total / n
    variance = (squares - n * mean**2).clamp(min=0) / (n - 1)
    return mean.cpu().numpy(), variance.cpu().numpy()
