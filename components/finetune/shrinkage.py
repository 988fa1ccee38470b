"""A delta's noise taken out of it: adaptive shrinkage, gene by gene.

The posterior mean under a mixture of normals with its point mass at zero, the mixture weights of a
perturbation drawn towards those of all (Stephens 2017, "False discovery rates: a new deal"). The
noise goes, the size stays: what is left is scaled to the norm that the delta has without its noise.
"""

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import Floats

SCALES = 12
LEAST_SCALE, MOST_SCALE = 0.3, 2.0
"""Of the normals, from a share of the median noise to a multiple of the largest delta."""
POOLED = 20.0
"""Genes that the weights of all perturbations count for beside a perturbation's own."""
ROUNDS = 30
"""Of expectation and maximisation; the weights no longer move in the third digit."""
MOST_SCALED = 3.0
"""Where hardly a gene stands out of the noise, the norm without it is hardly known either."""
UNKNOWN = 1e6
"""Variance of a delta of which nothing is known."""
ROWS_AT_ONCE = 8
POOLED_FROM = 128
"""Most perturbations that the weights of all are taken from."""


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
    slab = torch.from_numpy(np.concatenate([[0.0], scales**2])).float()[:, None]
    parts = torch.from_numpy(delta).float(), torch.from_numpy(variance).float()
    some = slice(None, None, -(-len(delta) // POOLED_FROM))
    likelihood = _likelihood(parts[0][some], parts[1][some], slab)
    pooled = torch.full((SCALES,), 1 / SCALES)
    for _ in range(ROUNDS):
        found = _summed_shares(likelihood, pooled.expand(len(likelihood), -1))
        pooled = found.sum(0) / delta[some].size
    blocks = zip(*(part.split(ROWS_AT_ONCE) for part in parts), strict=True)
    return np.concatenate([_posterior(block, noise, slab, pooled) for block, noise in blocks])


def _posterior(delta: Tensor, variance: Tensor, slab: Tensor, pooled: Tensor) -> Floats:
    """Return some perturbations' posterior means, scaled to the norm of their deltas' signal."""
    likelihood = _likelihood(delta, variance, slab)
    weights = pooled.expand(len(delta), -1)
    for _ in range(ROUNDS):
        found = _summed_shares(likelihood, weights) + POOLED * pooled
        weights = found / found.sum(1, keepdim=True)
    joint = likelihood.mul_(weights[..., None])
    kept = joint * (slab / (slab + variance[:, None]))
    mean = kept.sum(1) / joint.sum(1) * delta
    known = (variance < UNKNOWN).float()
    signal = ((delta.square() - variance) * known).sum(1, keepdim=True).clamp(min=0)
    scale = (signal / mean.square().sum(1, keepdim=True).clamp(min=1e-12)).sqrt()
    return (mean * scale.clamp(1.0, MOST_SCALED)).numpy()


def _likelihood(delta: Tensor, variance: Tensor, slab: Tensor) -> Tensor:
    """Return how likely each delta is under each normal, up to a factor.

    Genes lie side by side, so that what is summed over normals is read in long rows.

    Args:
        delta: [perturbations, genes].
        variance: of the same shape.
        slab: variance of each normal, [normals, 1].

    Returns:
        [perturbations, normals, genes].
    """
    total = slab + variance[:, None]
    log = torch.addcdiv(total.log(), delta.square()[:, None], total).mul_(-0.5)
    return log.sub_(log.amax(1, keepdim=True)).exp_()


def _summed_shares(likelihood: Tensor, weights: Tensor) -> Tensor:
    """Return the posterior shares of each normal, summed over genes, [perturbations, normals].

    As products of matrices: shares gene by gene would be as many numbers as the likelihood has.
    """
    joint = torch.bmm(weights[:, None], likelihood)
    return weights * torch.bmm(likelihood, joint.reciprocal_().transpose(1, 2))[..., 0]
