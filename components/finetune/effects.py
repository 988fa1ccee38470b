"""What is known of each perturbation's effect in a line from all other lines.

The same perturbation's pseudobulk delta in the training lines, carried to another line, is the
baseline that deep models rarely beat. Here it is given to the model: as an input channel, and as
what is added to its output. A sample of a line sees the deltas of other lines alone.

Of each other line's delta the noise is known (`deltas`), so it is taken out: the posterior mean
under a mixture of normals with its point mass at zero, the mixture weights of a perturbation drawn
towards those of all (adaptive shrinkage; Stephens 2017, "False discovery rates: a new deal"). The
noise goes, the size stays: what is left is scaled to the norm that the delta has without its noise.

A perturbation without cells in other lines gets the sum of its genes' deltas (a double), else that
of perturbations near by in a gene prior (kernel ridge, its penalty chosen by leaving out one
perturbation at a time), else the mean delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.shared.confidence import MEAN, MEASURED, NEAR_BY, SUMMED
from components.shared.effects import NearBy, unit
from components.shared.errors import InputError
from components.shared.gene_prior import OtherEffects
from components.shared.perturbation import CONTROL, genes_of
from components.shared.progress import bar
from components.shared.vocabulary import Vocabulary

SCALES = 12
LEAST_SCALE, MOST_SCALE = 0.3, 2.0
"""Of the normals, from a share of the median noise to a multiple of the largest delta."""
POOLED = 20.0
"""Genes that the weights of all perturbations count for beside a perturbation's own."""
ROUNDS = 30
MOST_SCALED = 3.0
PENALTIES = np.geomspace(1e-3, 1e3, 25)
LEAST_VARIANCE, UNKNOWN = 1e-6, 1e6
"""Of a delta: less is a gene that does not vary, which tells nothing; as much says the same."""
ROWS_AT_ONCE = 64
POOLED_FROM = 128
"""Most perturbations that the weights of all are taken from."""


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

    @property
    def origin(self) -> list[str]:
        """Where each perturbation's effect in a new line is from."""
        return self.origins[-1]


def known_effects(
    labels: Sequence[str], deltas: Sequence[LineDeltas], vectors: Floats | None
) -> Effects:
    """Return the effects that each line of ``deltas[0]`` may know.

    Args:
        labels: perturbations, the control first.
        deltas: of the training lines, and of other screens; where a line of those is a training
            line by `line_key`, that line does not see it.
        vectors: a gene prior's vector of each perturbation, a row of zeros = none, [perturbations,
            width].

    Raises:
        InputError: there is a training line that no other line can tell anything.
    """
    own = deltas[0].lines
    tables, origins = [], []
    with bar(total=len(own) + 1, what="effects in other lines", unit=" lines") as progress:
        for line in (*own, None):
            others = others_of(line, deltas)
            if not others:
                raise InputError(
                    "prior 'effects': a line knows what others tell, and there is none but "
                    f"'{line}' with training cells; train on more lines, hold out less of them, "
                    "or give a screen of another (effects:<uri>)"
                )
            change, origin, near = carried(labels, others, vectors)
            tables.append(torch.from_numpy(change).float())
            origins.append(origin)
            progress.update()
    return Effects(torch.stack(tables), origins, near)


def others_of(line: str | None, deltas: Sequence[LineDeltas]) -> list[tuple[LineDeltas, int]]:
    """Return the lines that may tell ``line`` something, None = a new line: all.

    One without cells tells nothing, as a training line that is held out whole to validate. Each
    comes as the deltas it is part of and its place in them.
    """
    rows = [(part, i) for part in deltas for i, there in enumerate(part.there) if there.any()]
    return [
        (part, i) for part, i in rows if line is None or line_key(part.lines[i]) != line_key(line)
    ]


def line_key(name: str) -> str:
    """Return what is the same in the spellings of a cell line's name, as of K-562 and k562."""
    return "".join(filter(str.isalnum, name.casefold()))


def of_other_screens(
    other: OtherEffects, labels: Sequence[str], genes: Sequence[str], own: LineDeltas, without: str
) -> LineDeltas:
    """Put the deltas of other screens in the order of a training set's.

    Args:
        other: as the gene prior artifact holds them. Where it has no errors, they are taken to be
            those of the training lines, on average over perturbations.
        labels: perturbations.
        genes: modelled genes; those that other screens lack are not known from them.
        own: the deltas of the training lines.
        without: the test line, whose own deltas would give away what is to be predicted.
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
    return LineDeltas(lines, change, variance, there)


def vectors_of(labels: Sequence[str], table: Tensor, vocabulary: Vocabulary) -> Floats:
    """Return each perturbation's vector, the sum over its genes, [perturbations, width].

    Args:
        labels: perturbations.
        table: a gene prior's vector of each token, [tokens, width].
        vocabulary: token to id.
    """
    vectors = np.zeros((len(labels), table.shape[1]))
    for i, label in enumerate(labels):
        ids = [vocabulary[gene] for gene in genes_of(label) if gene in vocabulary]
        vectors[i] = table[ids].double().sum(0).numpy()
    return vectors


def carried(
    labels: Sequence[str], lines: Sequence[tuple[LineDeltas, int]], vectors: Floats | None
) -> tuple[Floats, list[str], NearBy | None]:
    """Carry the deltas of ``lines`` over to another line.

    Arguments are those of `known_effects`; a line comes as the deltas it is part of and its place
    in them.

    Returns:
        Effects [perturbations, genes], where each is from, and how others follow from the prior.
    """
    change = np.array([part.change[i] for part, i in lines])
    precision = _precision(lines)
    total = precision.sum(axis=0)
    there = total.any(axis=1)
    effects = np.zeros(change.shape[1:])
    if there.any():
        summed, weight = (precision * change).sum(axis=0)[there], total[there]
        # A gene that no other line measures is known to be nothing in particular.
        mean = np.divide(summed, weight, out=np.zeros_like(summed), where=weight > 0)
        effects[there] = shrunk(mean, 1 / np.maximum(weight, 1 / UNKNOWN))
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
    effects[[label == CONTROL for label in labels]] = 0.0
    return effects, origin, near


def _precision(lines: Sequence[tuple[LineDeltas, int]]) -> Floats:
    """Return the weight of each line's deltas, 0 where there are none, [lines, ...].

    It is one over their variance, but no line passes for surer than lines are on average: a gene
    that is hardly expressed in one varies little there, and says little of where it is. Of a gene
    that does not vary at all nothing is known.
    """
    variance = np.array([part.variance[i] for part, i in lines])
    there = np.array([part.there[i] for part, i in lines])[..., None]
    usable = there & np.isfinite(variance) & (variance > LEAST_VARIANCE)
    variance[~usable] = 0.0
    average = variance.sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    floored = np.maximum(variance, average)
    return np.divide(1.0, floored, out=np.zeros_like(floored), where=usable)


def shrunk(delta: Floats, variance: Floats) -> Floats:
    """Return deltas with their noise taken out, [perturbations, genes].

    Args:
        delta: as measured, [perturbations, genes].
        variance: its sampling variance, same shape; `UNKNOWN` where nothing is known.
    """
    known = variance[variance < UNKNOWN]
    least = float(np.sqrt(np.median(known))) if known.size else 1.0
    largest = max(float(np.abs(delta).max()), least)
    scales = np.geomspace(LEAST_SCALE * least, MOST_SCALE * largest, SCALES - 1)
    slab = torch.from_numpy(np.concatenate([[0.0], scales**2])).float()
    parts = torch.from_numpy(delta).float(), torch.from_numpy(variance).float()
    some = slice(None, None, -(-len(delta) // POOLED_FROM))
    likelihood = _likelihood(parts[0][some], parts[1][some], slab)
    pooled = torch.full((SCALES,), 1 / SCALES)
    every = likelihood.flatten(0, 1)
    for _ in range(ROUNDS):
        pooled = _summed_shares(every[None], pooled[None])[0] / len(every)
    blocks = zip(*(part.split(ROWS_AT_ONCE) for part in parts), strict=True)
    return np.concatenate([_posterior(block, noise, slab, pooled) for block, noise in blocks])


def _posterior(delta: Tensor, variance: Tensor, slab: Tensor, pooled: Tensor) -> Floats:
    """Return some perturbations' posterior means, scaled to the norm of their deltas' signal."""
    likelihood = _likelihood(delta, variance, slab)
    weights = pooled.expand(len(delta), -1)
    for _ in range(ROUNDS):
        found = _summed_shares(likelihood, weights) + POOLED * pooled
        weights = found / found.sum(1, keepdim=True)
    kept = _shares(likelihood, weights[:, None]) * slab / (slab + variance[..., None])
    mean = kept.sum(-1) * delta
    known = (variance < UNKNOWN).float()
    signal = ((delta.square() - variance) * known).sum(1, keepdim=True).clamp(min=0)
    scale = (signal / mean.square().sum(1, keepdim=True).clamp(min=1e-12)).sqrt()
    return (mean * scale.clamp(1.0, MOST_SCALED)).numpy()


def _likelihood(delta: Tensor, variance: Tensor, slab: Tensor) -> Tensor:
    """Return how likely each delta is under each normal, up to a factor, [..., normals]."""
    total = slab + variance[..., None]
    log = -0.5 * (total.log() + delta.square()[..., None] / total)
    return (log - log.amax(-1, keepdim=True)).exp()


def _summed_shares(likelihood: Tensor, weights: Tensor) -> Tensor:
    """Return the posterior shares of each normal, summed over genes, [perturbations, normals].

    As products of matrices: shares gene by gene would be as many numbers as the likelihood has.
    """
    joint = torch.bmm(likelihood, weights[..., None])
    return weights * torch.bmm(likelihood.transpose(1, 2), 1 / joint)[..., 0]


def _shares(likelihood: Tensor, weights: Tensor) -> Tensor:
    """Return the posterior share of each normal, [..., normals]."""
    joint = likelihood * weights
    return joint / joint.sum(-1, keepdim=True)


def near_by(effects: Floats, vectors: Floats) -> NearBy | None:
    """Learn effects from vectors by kernel ridge on their cosine; None where that is no help.

    The penalty is the one with the least squared error when one perturbation is left out at a time
    (in closed form); a prior that does not beat the mean effect so is left alone.

    Args:
        effects: of the perturbations to learn from, [known, genes].
        vectors: of the same, a row of zeros = none, [known, width].
    """
    ridge = _Ridge.fitted(effects, vectors)
    if ridge is None:
        return None
    dual = (ridge.axes * ridge.inverse) @ ridge.turned
    return NearBy(ridge.centre, ridge.left, dual, ridge.mean)


def left_out_near_by(effects: Floats, vectors: Floats) -> Floats | None:
    """Predict each known effect as `near_by` would without it; None where that is no help.

    Arguments are those of `near_by`.

    Returns:
        Effects of the same perturbations, NaN where one has no vector, [known, genes].
    """
    ridge = _Ridge.fitted(effects, vectors)
    if ridge is None:
        return None
    found = np.full_like(effects, np.nan)
    usable = vectors.any(axis=1)
    found[usable] = effects[usable] - ridge.left_out()
    return found


@dataclass(frozen=True)
class _Ridge:
    """Kernel ridge from vectors to effects, n of them, with the penalty that leaves out best."""

    centre: Floats
    mean: Floats
    left: Floats
    """Directions of the known vectors from their centre, [n, width]."""
    axes: Floats
    """Eigenvectors of the kernel, columns."""
    turned: Floats
    """Effects less their mean, along the axes, [n, genes]."""
    inverse: Floats
    """One over eigenvalue and penalty, [n]."""

    @classmethod
    def fitted(cls, effects: Floats, vectors: Floats) -> "_Ridge | None":
        """Choose the penalty; None where no penalty beats the mean effect."""
        usable = vectors.any(axis=1)
        if usable.sum() < 3:
            return None
        known, target = vectors[usable], effects[usable]
        centre, mean = known.mean(axis=0), target.mean(axis=0)
        left = np.asarray(unit(known - centre), np.float64)
        values, axes = np.linalg.eigh(left @ left.T)
        turned = axes.T @ (target - mean)
        best, found = float(np.square(target - mean).sum()), None
        products = turned @ turned.T
        for penalty in PENALTIES:
            inverse = 1 / (np.maximum(values, 0.0) + penalty)
            scaled = axes * inverse
            leverage = (axes * scaled).sum(axis=1)
            error = float((((scaled @ products) * scaled).sum(axis=1) / leverage**2).sum())
            # Both sides would be n / (n - 1) larger, since the mean is left out as well.
            if error < best:
                best, found = error, cls(centre, mean, left, axes, turned, inverse)
        return found

    def left_out(self) -> Floats:
        """Return by how much each effect is missed when it is left out, [n, genes]."""
        scaled = self.axes * self.inverse
        leverage = (self.axes * scaled).sum(axis=1)
        n = len(leverage)
        return scaled @ self.turned / leverage[:, None] * n / (n - 1)
