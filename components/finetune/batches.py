"""What a training step sees: which control cell stands under which perturbation, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import TrainingData
from components.finetune.recipe import Recipe
from components.shared.tokens import Batch, Ints, assemble, training_window


@dataclass(frozen=True)
class Pairs:
    """Training samples: an input control cell, a perturbation, the cell to be predicted."""

    inputs: Ints
    codes: Ints
    outputs: Ints

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class TrainingBatch:
    """A batch and the measured expression of its gene tokens, float32 [B, G]."""

    batch: Batch
    measured: Tensor
    codes: Ints


def draw_pairs(data: TrainingData, recipe: Recipe, rng: np.random.Generator) -> Pairs:
    """Pair every training cell with a random control cell of its own line.

    Control cells are samples too: their input is another control, or (as the reference run has it)
    themselves, or they are left out.
    """
    inputs = [_partners(data, data.train_rows, rng)]
    codes = [data.train_codes]
    outputs = [data.train_rows]
    if recipe.control_partner != "none":
        controls = np.concatenate(list(data.basal.values()))
        own = recipe.control_partner == "self"
        inputs.append(controls if own else _partners(data, controls, rng))
        codes.append(np.zeros(len(controls), np.int64))
        outputs.append(controls)
    return Pairs(np.concatenate(inputs), np.concatenate(codes), np.concatenate(outputs))


def _partners(data: TrainingData, rows: Ints, rng: np.random.Generator) -> Ints:
    lines = data.line_of_row[rows]
    partners = np.empty(len(rows), np.int64)
    for line, pool in data.basal.items():
        chosen = lines == line
        partners[chosen] = rng.choice(pool, size=int(chosen.sum()))
    return partners


def epoch_pairs(data: TrainingData, recipe: Recipe, seed: int, epoch: int) -> Pairs:
    """Return the pairs of an epoch: drawn once for all, or anew each epoch."""
    draw = epoch if recipe.redraw_controls else 0
    return draw_pairs(data, recipe, np.random.default_rng([seed, 1, draw]))


def batches(
    data: TrainingData,
    pairs: Pairs,
    recipe: Recipe,
    seed: int,
    epoch: int,
    device: torch.device,
    *,
    first: int = 0,
) -> Iterator[TrainingBatch]:
    """Yield the batches of one epoch in random order, each with a window of genes of its own.

    The ``first`` ones are drawn but not yielded, to go on where an epoch was left.
    """
    rng = np.random.default_rng([seed, 2, epoch])
    order = rng.permutation(len(pairs))
    for step, start in enumerate(range(0, len(order), recipe.batch_size)):
        chosen = order[start : start + recipe.batch_size]
        codes = pairs.codes[chosen]
        targets = [data.targets[code] for code in codes]
        distinct = [data.targets[code] for code in np.unique(codes)]
        window = training_window(
            len(data.ids), recipe.max_genes, distinct, rng, keep=recipe.targets_in_window
        )
        if step < first:
            continue
        basal = data.expression[torch.from_numpy(pairs.inputs[chosen])]
        measured = data.expression[torch.from_numpy(pairs.outputs[chosen])]
        yield TrainingBatch(
            assemble(basal, targets, window, data.ids, device),
            measured[:, torch.from_numpy(window.genes)].to(device),
            codes,
        )
