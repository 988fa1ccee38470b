"""Effects of perturbations in one line, estimated from all other lines.

The same perturbation's pseudobulk delta in the training lines, carried to another line, is the
baseline that deep models rarely beat. Here it is given to the model: as an input channel, and as
what is added to its output. A sample of a line sees the deltas of other lines alone. How those are
put together is learned from the lines themselves (`parts`).

A perturbation without cells in other lines gets the sum of its genes' deltas (a double), else that
of perturbations near by in a gene prior (`near_by`), else the mean delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.effect_parts import (
    COMMON,
    COPIED,
    Estimates,
    SourceLine,
    estimates_from,
)
from components.finetune.effect_sizes import NO_ESTIMATES, Sizes
from components.finetune.effect_weights import Compared, Weights, weights_of
from components.finetune.near_by import near_by
from components.shared.artifacts.confidence import MEAN, MEASURED, NEAR_BY, SUMMED
from components.shared.artifacts.gene_prior import OtherEffects
from components.shared.artifacts.known_effects import NearBy
from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import line_key
from components.shared.model.vocabulary import Vocabulary
from components.shared.telling.errors import InputError
from components.shared.telling.progress import bar


@dataclass(frozen=True)
class Effects:
    """Effects as each line may know them."""

    change: Tensor
    """Float32 [lines + 1, perturbations, genes], log1p units: for each training line from the
    others, and last for a new line from all."""
    origins: list[list[str]]
    """Where each perturbation's effect is from, for each of these lines."""
    near: NearBy | None
    """For perturbations that are not among them, where the prior's vectors help in a new line."""
    weights: Weights
    """The weight of each way to estimate an effect in a new line (`effect_weights`)."""
    sizes: Sizes
    """Of all training lines that can be estimated from others."""

    @property
    def origin(self) -> list[str]:
        """Where each perturbation's effect in a new line is from."""
        return self.origins[-1]


def known_effects(
    labels: Sequence[str],
    deltas: Sequence[LineDeltas],
    vectors: Floats | None,
    *,
    centre: bool = False,
) -> Effects:
    """Return the effects that each line of ``deltas[0]`` may know.

    Args:
        labels: perturbations, the control first.
        deltas: of the training lines, and of other screens; where a line of those is a training
            line by `line_key`, that line does not see it. One line must have perturbations.
        vectors: a gene prior's, [perturbations, width], a row of zeros = none.
        centre: whether lines are put together without their own mean effects (`estimates_from`).
    """
    own = deltas[0].lines
    every = others_of(None, deltas)
    if not every:
        raise InputError(
            "prior 'effects': no line has a perturbation with training cells; train on more lines, "
            "hold out less of them, or give a screen of another (effects:<uri>)"
        )
    tables, origins, near, weights = [], [], None, {}
    # Each set of lines is estimated from once.
    estimate, sizes = cache(partial(estimates_from, centre=centre)), NO_ESTIMATES
    with bar(total=len(own) + 1, what="effects in other lines", unit=" lines") as progress:
        for number, line in enumerate((*own, None)):
            others = others_of(line, deltas)
            if others:
                # One line has none to leave out: weights are those between lines of this screen.
                alone = len({line_key(part.lines[i]) for part, i in others}) == 1
                weights = weights_of(every if alone else others, estimate)
                change, origin, near = carried(labels, estimate(others), weights, vectors)
            else:
                change, origin = _alone(deltas[0], number)
            if others and line is not None:
                sizes += Sizes.of(Compared.of(estimate(others), (deltas[0], number)), weights)
            tables.append(torch.from_numpy(change).float())
            origins.append(origin)
            progress.update()
    return Effects(torch.stack(tables), origins, near, weights, sizes)


def _alone(own: LineDeltas, number: int) -> tuple[Floats, list[str]]:
    """Return what is known of effects in the only line: of each the mean of all its others."""
    change, there = own.change[number], own.there[number]
    others = there.sum() - there.astype(int)[:, None]
    summed = change[there].sum(axis=0) - np.where(there[:, None], change, 0.0)
    mean = np.divide(summed, others, out=np.zeros_like(summed), where=others > 0)
    mean[0] = 0.0  # the control
    return mean, [MEAN] * len(there)


def others_of(line: str | None, deltas: Sequence[LineDeltas]) -> tuple[SourceLine, ...]:
    """Return the lines that ``line`` may be estimated from, None = a new line: all.

    One without cells is no source, as a training line that is held out whole to validate.
    """
    rows = [(part, i) for part in deltas for i, there in enumerate(part.there) if there.any()]
    return tuple(
        (part, i) for part, i in rows if line is None or line_key(part.lines[i]) != line_key(line)
    )


def of_other_screens(
    other: OtherEffects, labels: Sequence[str], genes: Sequence[str], own: LineDeltas, without: str
) -> LineDeltas:
    """Put the deltas of a gene prior's other screens in the order of a training set's.

    Where they have no errors, they are taken to be those of the training lines (``own``), on
    average over perturbations. Modelled ``genes`` that they lack are not known from them. They are
    ``without`` the test line, whose own deltas would give away what is to be predicted.
    """
    lines = sorted(line for line in set(other.lines) if line_key(line) != line_key(without))
    row = {label: i for i, label in enumerate(labels)}
    there = np.zeros((len(lines), len(labels)), bool)
    change = np.zeros((*there.shape, len(genes)))
    variance = np.full_like(change, np.inf)
    column = {gene: i for i, gene in enumerate(other.genes)}
    found = np.array([column.get(gene, -1) for gene in genes])
    usual = own.variance[own.there].mean(axis=0)
    for i, (label, line) in enumerate(zip(other.perturbations, other.lines, strict=True)):
        if label not in row or line not in lines:
            continue
        place = lines.index(line), row[label]
        there[place] = True
        change[place] = np.where(found >= 0, other.delta[i, found], 0.0)
        spread = usual if other.error is None else np.square(other.error[i, found])
        variance[place] = np.where((found >= 0) & np.isfinite(spread), spread, np.inf)
    return LineDeltas(lines, change, variance, there, own.targets)


def vectors_of(labels: Sequence[str], table: Tensor, vocabulary: Vocabulary) -> Floats:
    """Return each perturbation's vector, the sum over its genes, [perturbations, width].

    ``table`` is a gene prior's vector of each token, [tokens, width].
    """
    vectors = np.zeros((len(labels), table.shape[1]))
    for i, label in enumerate(labels):
        ids = [vocabulary[gene] for gene in genes_of(label) if gene in vocabulary]
        vectors[i] = table[ids].double().sum(0).numpy()
    return vectors


def carried(
    labels: Sequence[str], estimates: Estimates, weights: Weights, vectors: Floats | None
) -> tuple[Floats, list[str], NearBy | None]:
    """Carry the estimates from some lines over to another; see `known_effects`.

    Returns effects [perturbations, genes], where each is from, and how others follow from a prior.
    """
    there = estimates.there
    # What is held back of the mean effect is so to tell these apart; the others are told from all.
    whole = weights | {COMMON: max(weights[COMMON], 0.0)}
    effects = np.zeros((len(there), estimates.parts[COPIED].shape[1]))
    effects[there] = estimates.combined(whole)
    origin = [MEASURED if known else MEAN for known in there]
    effects[~there] = effects[there].mean(axis=0) if there.any() else 0.0
    near = None if vectors is None else near_by(effects[there], vectors[there])
    if vectors is not None and near is not None:
        found = ~there & vectors.any(axis=1)
        effects[found] = near.of(vectors[found])
        origin = [NEAR_BY if new else old for new, old in zip(found, origin, strict=True)]
    place = {label: i for i, label in enumerate(labels) if there[i]}
    for i, label in enumerate(labels):
        genes = genes_of(label)
        if not there[i] and len(genes) > 1 and all(gene in place for gene in genes):
            effects[i] = effects[[place[gene] for gene in genes]].sum(axis=0)
            origin[i] = SUMMED
    effects[there] = estimates.combined(weights)
    effects[[label == CONTROL for label in labels]] = 0.0
    return effects, origin, near
