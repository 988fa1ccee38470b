"""Which tokens stand for a screen's genes and for its perturbations' targets, and in what windows.

All cells of a batch share one window of tokens: measured genes first, then one token for each
target that is in the vocabulary but not measured (value 0, never an expression target).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.shared.artifacts.perturbation import genes_of
from components.shared.model.devices import moved
from components.shared.model.transformer import PERTURBED
from components.shared.model.vocabulary import Vocabulary, token_ids
from components.shared.telling.errors import InputError, shortlist

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """Where a perturbation's genes are: among the measured genes, or only in the vocabulary."""

    measured: Ints
    """Positions among the modelled genes."""
    unmeasured: Ints
    """Token ids."""

    @property
    def flagged(self) -> bool:
        """Whether the model can be told of this perturbation at all."""
        return bool(len(self.measured) + len(self.unmeasured))


@dataclass(frozen=True)
class GeneTokens:
    """The measured genes that have a token: their columns in X and their token ids, [genes]."""

    columns: Ints
    ids: Ints
    vocabulary: Vocabulary
    position: dict[str, int]

    @classmethod
    def of(
        cls, genes: Sequence[str], vocabulary: Vocabulary, trained: Collection[str] | None = None
    ) -> "GeneTokens":
        """Align the genes of a cells artifact to a vocabulary.

        ``trained`` are the genes that a finished model was trained on, the only ones it can
        predict; None = all.

        Raises:
            InputError: no gene is in the vocabulary, or none was trained on.
        """
        ids = token_ids(vocabulary, genes)
        columns = np.flatnonzero(ids >= 0)
        if trained is not None and len(columns):
            columns = columns[[genes[column] in trained for column in columns.tolist()]]
            if not len(columns):
                raise InputError(
                    f"none of the {len(genes)} genes ({shortlist(genes, 3)}) is among those that "
                    f"the model was trained on ({shortlist(sorted(trained), 3)})"
                )
        if not len(columns):
            raise InputError(
                f"none of the {len(genes)} genes ({shortlist(genes, 3)}) is in the vocabulary "
                f"({shortlist(vocabulary, 3)}); expected gene symbols in the var index"
            )
        position = {genes[column]: i for i, column in enumerate(columns.tolist())}
        return cls(columns, ids[columns], vocabulary, position)

    def targets(self, perturbation: str, *, token_for_unmeasured: bool) -> Targets:
        """Return where the genes of ``perturbation`` are to be flagged."""
        genes = genes_of(perturbation)
        measured = [self.position[gene] for gene in genes if gene in self.position]
        unmeasured = [
            self.vocabulary[gene]
            for gene in genes
            if token_for_unmeasured and gene not in self.position and gene in self.vocabulary
        ]
        return Targets(np.array(measured, np.int64), np.array(unmeasured, np.int64))


@dataclass(frozen=True)
class Window:
    """The tokens a batch shares: measured genes, then unmeasured targets."""

    genes: Ints
    """Positions among the modelled genes, [window]."""
    extra: Ints
    """Token ids of unmeasured targets, [extra]."""


def union(parts: Iterable[Ints]) -> Ints:
    """Return the sorted distinct numbers of several arrays."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _room(size: int, n_genes: int, n_extra: int) -> int:
    """Return how many genes fit beside ``n_extra`` targets: half the window whatever they are."""
    return max(size - n_extra, (size + 1) // 2) if size else n_genes


def training_window(
    n_genes: int, size: int, targets: Iterable[Targets], rng: np.random.Generator, *, keep: bool
) -> Window:
    """Draw the window of a training batch, ``size`` tokens (0 = all genes) where targets allow it.

    ``keep`` puts every measured target in the window; without it a target is there by luck, as in
    scGPT's own perturbation training.
    """
    targets = list(targets)
    extra = union(t.unmeasured for t in targets)
    room = _room(size, n_genes, len(extra))
    if room >= n_genes:
        return Window(np.arange(n_genes), extra)
    kept = union(t.measured for t in targets) if keep else np.empty(0, np.int64)
    rest = np.setdiff1d(np.arange(n_genes), kept, assume_unique=True)
    drawn = rng.choice(rest, size=max(room - len(kept), 0), replace=False)
    return Window(np.sort(np.concatenate([kept, drawn])), extra)


def prediction_windows(
    n_genes: int, size: int, targets: Iterable[Targets], order: Ints
) -> Iterator[tuple[Window, Ints]]:
    """Cover all genes with windows of ``size`` tokens (0 = all in one), with every target in each.

    Windows are cut from ``order``, a permutation of the genes. With each come the gene positions
    whose prediction is to be taken from it; over all windows each position comes once.
    """
    targets = list(targets)
    extra = union(t.unmeasured for t in targets)
    kept = union(t.measured for t in targets)
    rest = order[~np.isin(order, kept)]
    room = _room(size, n_genes, len(extra))
    step = max(room - len(kept), (room + 1) // 2)
    for start in range(0, max(len(rest), 1), step):
        fresh = rest[start : start + step]
        taken = np.concatenate([kept, fresh]) if start == 0 else fresh
        yield Window(np.sort(np.concatenate([kept, fresh])), extra), np.sort(taken)


@dataclass(frozen=True)
class Batch:
    """One batch as scGPT's model takes it: B cells, S = G genes + E unmeasured targets tokens."""

    ids: Tensor
    """Token ids, int64 [S], shared by all cells."""
    values: Tensor
    """Control expression, log1p of counts per 10,000, float32 [B, S]; 0 for unmeasured targets."""
    flags: Tensor
    """1 on perturbed tokens, else 0, int64 [B, S]; [1, S] where all cells share them."""
    effects: Tensor | None = None
    """The known change under the perturbation, float32 [B, S] or [1, S]; 0 for unmeasured targets.
    Only for a model that was given effects."""


def gathered(expression: Tensor, rows: Ints, genes: Ints) -> Tensor:
    """Return the cells at ``rows`` and the columns at ``genes`` alone, where ``expression`` is."""
    index = moved(torch.from_numpy(rows), expression.device)[:, None]
    return expression[index, moved(torch.from_numpy(genes), expression.device)]


def assemble(
    basal: Tensor,
    targets: Sequence[Targets],
    window: Window,
    ids: Ints,
    device: torch.device,
    effects: Tensor | None = None,
) -> Batch:
    """Build the batch of control cells under perturbations; nothing waits for the device.

    Args:
        basal: their expression of the window's genes, log1p of counts per 10,000, of any precision,
            on any device, [B, genes of the window].
        targets: the perturbation of each cell; or others, to be paired with the cells one by one,
            by their rows of the flags.
        window: the tokens.
        ids: token ids of the modelled genes.
        device: where the model is.
        effects: what is known of the window's genes, [B or 1, genes of the window], if the model
            takes it.
    """
    width, extra = len(window.genes), len(window.extra)
    flags = np.zeros((len(targets), width + extra), dtype=np.int64)
    slot = np.full(len(ids), -1)
    slot[window.genes] = np.arange(width)
    for row, target in enumerate(targets):
        there = slot[target.measured]
        flags[row, there[there >= 0]] = PERTURBED
        flags[row, width + np.searchsorted(window.extra, target.unmeasured)] = PERTURBED
    values = F.pad(moved(basal, device).float(), (0, extra))
    known = None if effects is None else F.pad(moved(effects, device).float(), (0, extra))
    tokens = torch.from_numpy(np.concatenate([ids[window.genes], window.extra]))
    return Batch(moved(tokens, device), values, moved(torch.from_numpy(flags), device), known)
