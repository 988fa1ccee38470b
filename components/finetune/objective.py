"""The training loss: the squared error of cells, and of the mean change of sets of cells.

The squared error of single cells is nearly all noise, which no prediction can lower, so predicting
no effect costs next to nothing. The mean over a set of cells of one (line, perturbation) has little
of that noise left: its distance from the measured change of the pseudobulk is what is asked for. A
weight on the genes that move keeps the many that do not from drowning them (Mejia et al. 2025,
"Diversity by design": WMSE).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import TrainingData
from components.finetune.deltas import LineDeltas
from components.shared.model.devices import moved
from components.shared.model.tokens import Ints

LEAST_SCORE, MOST_SCORE = 1.0, 5.0
"""A gene's weight follows the size of its t-score between these: what may be noise counts as much
as noise does, and no gene counts more than five times that. Of the weights tried on generated
screens at a small size these did best."""


@dataclass(frozen=True)
class Deltas:
    """Changes under each perturbation in each line, measured on training cells alone.

    The arrays are float32 [lines, perturbations, genes], in the order of `TrainingData.controls`
    and `TrainingData.perturbations`. The control (code 0) changes nothing.
    """

    change: Tensor
    """Mean of the training cells less the mean of all the line's controls, log1p units."""
    weight: Tensor
    """Weight of each gene, 1 on average over the genes."""


@dataclass(frozen=True)
class Sets:
    """The sets that the B cells of a batch make up, and what is wanted of them."""

    shares: Tensor
    """Share of each cell in its set's mean, 0 in the others', float32 [sets, B]."""
    sizes: Tensor
    """The set's share of the batch's cells, float32 [sets]."""
    change: Tensor
    """Measured change, float32 [sets, G]."""
    weight: Tensor
    """Weight of each gene, float32 [sets, G]."""


def measured_deltas(data: TrainingData, deltas: LineDeltas) -> Deltas:
    """Return the change and the weights of every (line, perturbation) that has training cells.

    A weight follows the gene's t-score between the perturbation's cells and the line's controls,
    within `LEAST_SCORE` and `MOST_SCORE`; a gene that varies on neither side scores 0.
    """
    score = np.zeros_like(deltas.change)
    np.divide(np.abs(deltas.change), np.sqrt(deltas.variance), out=score, where=deltas.variance > 0)
    score = np.clip(score, LEAST_SCORE, MOST_SCORE)
    weight = score / score.mean(axis=2, keepdims=True)
    where = data.expression.device
    parts = (torch.from_numpy(part).to(where, torch.float32) for part in (deltas.change, weight))
    return Deltas(*parts)


def sets_of(
    deltas: Deltas, lines: Ints, codes: Ints, lengths: Ints, genes: Ints, device: torch.device
) -> Sets:
    """Describe the sets of a batch whose cells come set by set.

    Line, perturbation and number of cells are of each set, [sets]; ``genes`` are positions of the
    window's genes among the modelled ones, [G].
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    shares = (owner == np.arange(len(lengths))[:, None]) / lengths[:, None]
    there = deltas.change.device
    place = (lines[:, None], codes[:, None], genes[None])
    index = tuple(moved(torch.from_numpy(part), there) for part in place)
    return Sets(
        moved(torch.from_numpy(shares).float(), device),
        moved(torch.from_numpy(lengths / lengths.sum()).float(), device),
        moved(deltas.change[index], device),
        moved(deltas.weight[index], device),
    )


def delta_loss(output: Tensor, inputs: Tensor, sets: Sets) -> Tensor:
    """Return the weighted squared error of the sets' mean change, averaged over cells.

    Predicted expression and the control cells it is from are float32 [B, G].
    """
    change = sets.shares @ (output - inputs)
    return ((sets.weight * (change - sets.change) ** 2).mean(1) * sets.sizes).sum()
