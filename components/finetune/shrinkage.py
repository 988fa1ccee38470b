"""A delta's noise taken out of it: adaptive shrinkage, gene by gene.

The posterior mean under a mixture of normals with its point mass at zero, the mixture weights of a
perturbation drawn towards those of all (Stephens 2017, "False discovery rates: a new deal"). The
noise goes, the size stays: what is left is scaled to the norm that the delta has without its noise.

The constants are no fits: with others, a fourth to four times as large, correlation with what was
measured moves by less than 0.004 and discrimination by 0.002 at most, but where it is said below
(one cell type of OP3 and two generated screens of benchmarks/transfer.py).

Shapes, which names of tensors end in: P perturbations, K normals, G genes.
"""

import numpy as np
import torch
from torch import Tensor

from components.finetune.data import Floats

SCALES = 12
"""The point mass and eleven normals, each up to twice as wide as the one before."""
LEAST_SCALE, MOST_SCALE = 0.3, 2.0
"""Of the normals, from a share of the median noise to a multiple of the largest delta."""
POOLED = 20.0
"""Genes that the weights of all perturbations count for beside a perturbation's own."""
ROUNDS = 30
"""Of expectation and maximisation; 100 gain 0.002 at most."""
MOST_SCALED = 3.0
"""Where hardly a gene stands out of the noise, the norm without it is hardly known either. Scaling
back is worth 0.05 in discrimination; this bound is seldom met."""
UNKNOWN = 1e6
"""Variance of a delta of which nothing is known."""
ROWS_AT_ONCE = 8
"""Perturbations whose likelihoods, K x G numbers each, are in memory together."""
POOLED_FROM = 128
"""Most perturbations that the weights of all are taken from."""


def shrunk(delta: Floats, variance: Floats) -> Floats:
    """Return deltas with their noise taken out, [perturbations, genes].

    ``variance`` is their sampling variance, `UNKNOWN` where nothing is known.
    """
    known = variance[variance < UNKNOWN]
    least = float(np.sqrt(np.median(known))) if known.size else 1.0
    largest = max(float(np.abs(delta).max()), least)
    scales = np.geomspace(LEAST_SCALE * least, MOST_SCALE * largest, SCALES - 1)
    slab = torch.from_numpy(np.concatenate([[0.0], scales**2])).float()[:, None]
    parts = torch.from_numpy(delta).float(), torch.from_numpy(variance).float()
    some = slice(None, None, -(-len(delta) // POOLED_FROM))
    likelihood = _likelihood(parts[0][some], parts[1][some], slab)
    # Empirical Bayes: the weights of the mixture are those under which the deltas are likeliest.
    pooled = torch.full((SCALES,), 1 / SCALES)
    for _ in range(ROUNDS):
        found = _summed_shares(likelihood, pooled.expand(len(likelihood), -1))
        pooled = found.sum(0) / delta[some].size
    blocks = zip(*(part.split(ROWS_AT_ONCE) for part in parts), strict=True)
    return np.concatenate([_posterior(block, noise, slab, pooled) for block, noise in blocks])


def _posterior(delta_PG: Tensor, variance_PG: Tensor, slab_K1: Tensor, pooled_K: Tensor) -> Floats:
    """Return some perturbations' posterior means, scaled to the norm of their deltas' signal."""
    likelihood_PKG = _likelihood(delta_PG, variance_PG, slab_K1)
    weights_PK = pooled_K.expand(len(delta_PG), -1)
    for _ in range(ROUNDS):
        found_PK = _summed_shares(likelihood_PKG, weights_PK) + POOLED * pooled_K
        weights_PK = found_PK / found_PK.sum(1, keepdim=True)
    joint_PKG = likelihood_PKG.mul_(weights_PK[..., None])
    kept_PKG = joint_PKG * (slab_K1 / (slab_K1 + variance_PG[:, None]))
    mean_PG = kept_PKG.sum(1) / joint_PKG.sum(1) * delta_PG
    known_PG = (variance_PG < UNKNOWN).float()
    # A delta's square is that of the effect plus its noise's, on average.
    signal_P1 = ((delta_PG.square() - variance_PG) * known_PG).sum(1, keepdim=True).clamp(min=0)
    scale_P1 = (signal_P1 / mean_PG.square().sum(1, keepdim=True).clamp(min=1e-12)).sqrt()
    return (mean_PG * scale_P1.clamp(1.0, MOST_SCALED)).numpy()


def _likelihood(delta: Tensor, variance: Tensor, slab: Tensor) -> Tensor:
    """Return how likely each delta is under each normal, up to a factor, [P, K, G].

    Deltas and variance are [P, G], the normals' variance [K, 1]. Genes lie side by side, so that
    what is summed over normals is read in long rows.
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
