"""Training batches: which control cell is paired with which perturbation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import TrainingData
from components.finetune.objective import Deltas, Sets, sets_of
from components.shared.artifacts.matched_controls import matched
from components.shared.model.devices import moved
from components.shared.model.tokens import Batch, Ints, Window, assemble, training_window
from components.shared.parameters.recipe import Recipe


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
    """Cells that go through the model at once, and what they are to become."""

    batch: Batch
    measured: Tensor
    """Measured expression of the gene tokens, float32 [B, G]."""
    codes: Ints
    sets: Sets | None
    """The sets its cells make up, where the recipe trains on them."""
    share: float = 1.0
    """Of the cells of its training step."""

    @property
    def inputs(self) -> Tensor:
        """Expression of the control cells at the gene tokens, float32 [B, G]."""
        return self.batch.values[:, : self.measured.shape[1]]


@dataclass(frozen=True)
class Step:
    """The cells of one training step, set by set, and the window of genes they share."""

    data: TrainingData
    pairs: Pairs
    deltas: Deltas | None
    window: Window
    sets: list[Ints]
    """Positions in ``pairs``."""

    @property
    def codes(self) -> Ints:
        """Perturbation of each cell."""
        return self.pairs.codes[np.concatenate(self.sets)]

    def part(self, sets: Sequence[Ints], device: torch.device) -> TrainingBatch:
        """Put the cells of some of its sets together; only the window is copied."""
        data, window = self.data, self.window
        chosen = np.concatenate(sets)
        codes = self.pairs.codes[chosen]
        targets = [data.targets[code] for code in codes]
        basal = data.window(self.pairs.inputs[chosen], window.genes)
        outputs = self.pairs.outputs[chosen]
        measured = data.window(outputs, window.genes)
        known = data.known(data.line_numbers(outputs), codes, window.genes)
        return TrainingBatch(
            assemble(basal, targets, window, data.ids, device, known),
            moved(measured, device).float(),
            codes,
            self._sets(self.deltas, sets, device) if self.deltas else None,
            len(chosen) / sum(map(len, self.sets)),
        )

    def _sets(self, deltas: Deltas, sets: Sequence[Ints], device: torch.device) -> Sets:
        heads = np.array([cells[0] for cells in sets])
        return sets_of(
            deltas,
            self.data.line_numbers(self.pairs.outputs[heads]),
            self.pairs.codes[heads],
            np.array([len(cells) for cells in sets]),
            self.window.genes,
            device,
        )


def draw_pairs(data: TrainingData, recipe: Recipe, rng: np.random.Generator) -> Pairs:
    """Pair every training cell with a random control cell of its own line, and batch if so asked.

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
        chosen = np.flatnonzero(lines == line)
        for _, against, places in matched(rows[chosen], pool, data.batch_of_row):
            partners[chosen[places]] = rng.choice(against, size=len(places))
    return partners


def epoch_pairs(data: TrainingData, recipe: Recipe, seed: int, epoch: int) -> Pairs:
    """Return the pairs of an epoch: drawn once for all, or anew each epoch."""
    draw = epoch if recipe.redraw_controls else 0
    return draw_pairs(data, recipe, np.random.default_rng([seed, 1, draw]))


def steps(
    data: TrainingData,
    pairs: Pairs,
    recipe: Recipe,
    seed: int,
    epoch: int,
    deltas: Deltas | None = None,
    *,
    first: int = 0,
) -> Iterator[Step]:
    """Yield the steps of one epoch in random order, each with a window of genes of its own.

    Where the recipe has a set size, the cells of a step come in sets of one (line, perturbation).
    The ``first`` ones are drawn but not yielded, to resume within an epoch.
    """
    rng = np.random.default_rng([seed, 2, epoch])
    lines = data.line_numbers(pairs.outputs)
    for number, sets in enumerate(_drawn(pairs, lines, recipe, rng)):
        distinct = [data.targets[code] for code in np.unique(pairs.codes[np.concatenate(sets)])]
        window = training_window(
            len(data.ids), recipe.max_genes, distinct, rng, keep=recipe.targets_in_window
        )
        if number >= first:
            yield Step(data, pairs, deltas, window, sets)


def divided(sets: Sequence[Ints], parts: int) -> list[list[Ints]]:
    """Divide sets among ``parts`` of about as many cells each; a part may be empty."""
    lengths = np.array([len(cells) for cells in sets])
    middles = np.cumsum(lengths) - lengths / 2
    owner = (middles * parts / lengths.sum()).astype(np.int64)
    return [
        [cells for cells, mine in zip(sets, owner == part, strict=True) if mine]
        for part in range(parts)
    ]


def _drawn(
    pairs: Pairs, lines: Ints, recipe: Recipe, rng: np.random.Generator
) -> Iterator[list[Ints]]:
    """Yield the positions in ``pairs`` of each batch, set by set; each cell comes once.

    Without a set size each cell is a set. All batches but the last are full: a set that reaches
    beyond its batch is parted, so a few sets are smaller, as are those of a group's last cells.
    """
    order = rng.permutation(len(pairs))
    number = np.arange(len(order))
    if recipe.set_size:
        sets = _cut(order, lines * (pairs.codes.max() + 1) + pairs.codes, recipe.set_size)
        sets = [sets[i] for i in rng.permutation(len(sets))]
        order = np.concatenate(sets)
        number = np.repeat(np.arange(len(sets)), [len(cells) for cells in sets])
    for start in range(0, len(order), recipe.batch_size):
        part = slice(start, start + recipe.batch_size)
        yield np.split(order[part], np.flatnonzero(np.diff(number[part])) + 1)


def _cut(order: Ints, groups: Ints, size: int) -> list[Ints]:
    """Cut ``order`` into sets of at most ``size`` positions that are of one group each."""
    by_group = order[np.argsort(groups[order], kind="stable")]
    counts = np.unique(groups, return_counts=True)[1]
    starts = np.cumsum(counts) - counts
    cuts = [np.arange(s, s + c, size) for s, c in zip(starts, counts, strict=True)]
    return np.split(by_group, np.concatenate(cuts)[1:])
