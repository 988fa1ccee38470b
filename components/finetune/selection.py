"""Scores of held-out sets, which epoch they keep, and how much the network counts by them.

Held-out sets are few and noisy, so the best of many epochs is often best by luck. A set counts as
much as what it measured is no noise. The last epoch is kept unless another leads it significantly.
Where known effects are given, the network's own change counts as far as held-out sets ask for it
beyond chance. Scores of predicted deltas are as cell-eval defines them.
"""

from collections.abc import Sequence

import numpy as np
import torch

from components.finetune.data import Floats
from components.shared.model.tokens import Ints

NAN = float("nan")
SIGNIFICANT = 0.05
"""The usual level, divided by the number of epochs that are looked at."""
LEAST_SETS = 2
"""Of fewer no chance can be told."""
STEPS = 10_000
"""Of a sum in place of an integral: the fifth digit of a probability of 0.001 holds."""


def pearson(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation, NaN where either side does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else NAN


def discrimination(predicted: Floats, measured: Floats, targets: list[Ints]) -> list[float]:
    """Return how far up its own measured delta comes among all, nearest first (l1 distance).

    1 if none is nearer, 1/n if all others are, about 0.5 by chance: cell-eval's
    `discrimination_score_l1`. The perturbation's own genes (positions ``targets``) do not count.
    Deltas are [n, genes]; NaN where there is but one, or what is predicted is not finite.
    """
    n = len(predicted)
    if n < 2:
        return [NAN] * n
    distances = torch.cdist(torch.from_numpy(predicted), torch.from_numpy(measured), p=1).numpy()
    scores = []
    for own, (distance, target) in enumerate(zip(distances, targets, strict=True)):
        distance = distance - np.abs(predicted[own, target] - measured[:, target]).sum(1)
        nearer = float((distance < distance[own]).sum())
        scores.append(1 - nearer / n if np.isfinite(distance[own]) else NAN)
    return scores


def reliability(change: Floats, variance: Floats) -> float:
    """Return the share of a change's square that is no noise, from 0 to 1.

    A measured change and its sampling variance are [genes]; 0 where that is not known, as beside a
    single control.
    """
    if not np.isfinite(variance).any():
        return 0.0
    total = float(np.square(change - change.mean()).sum())
    return float(np.clip(1 - np.nansum(variance) / total, 0.0, 1.0)) if total > 0 else 0.0


def weighted_mean(values: Floats, weights: Floats) -> float:
    """Return the mean of finite values, NaN where there is none; all count alike if none weighs."""
    finite = np.isfinite(values)
    if not finite.any():
        return NAN
    own = weights[finite]
    return float(np.average(values[finite], weights=own if own.sum() > 0 else None))


def leads(
    one: Sequence[float], other: Sequence[float], weights: Sequence[float], tests: int
) -> bool:
    """Return whether ``one`` is better on the same sets, by a paired t test at 5 %.

    Sets (NaN = no score) count by their weights, and as many as those are worth (Kish's effective
    sample size). ``tests`` is how many were looked at, for Bonferroni's correction: the best of
    many leads by luck.
    """
    lead = np.array(one) - np.array(other)
    weight = np.where(np.isfinite(lead), np.array(weights), 0.0)
    if not weight.any():
        return False
    share = weight / weight.sum()
    lead = np.where(share > 0, lead, 0.0)
    mean, effective = float(share @ lead), 1 / float(share @ share)
    if effective < LEAST_SETS - 1e-9 or mean <= 0:
        return False
    variance = float(np.square(share) @ np.square(lead - mean)) * effective / (effective - 1)
    score = mean / np.sqrt(variance) if variance > 0 else np.inf
    return student_tail(score, effective - 1) * max(tests, 1) < SIGNIFICANT


def student_tail(score: float, freedom: float) -> float:
    """Return how likely Student's t with ``freedom`` (1 or more) is to be above ``score``.

    The density in the angle whose tangent is t / sqrt(freedom), summed over a fine grid: training
    needs no more than torch and numpy.
    """
    middles = (np.arange(STEPS) + 0.5) / STEPS
    start = np.arctan(score / np.sqrt(freedom))
    above = start + middles * (np.pi / 2 - start)
    every = (middles - 0.5) * np.pi
    tail = (np.cos(above) ** (freedom - 1)).mean() * (np.pi / 2 - start)
    return float(tail / ((np.cos(every) ** (freedom - 1)).mean() * np.pi))


def network_weight(known: Floats, change: Floats, measured: Floats, weights: Floats) -> float:
    """Return how much of the network's own change to add to known effects, from 0 to 1.

    What was measured is regressed on both, all [sets, genes], every set scaled to one size. The
    network's share is then drawn towards 0 by how unsure it is over sets (the positive part of
    James and Stein's estimate, of one number), so that what chance may have made counts for little
    or nothing. ``weights`` are [sets].
    """
    norm = np.linalg.norm(centred(measured), axis=1, keepdims=True)
    scale = np.sqrt(weights)[:, None] * np.divide(
        1.0, norm, out=np.zeros_like(norm), where=norm > 0
    )
    k, c, m = (centred(each) * scale for each in (known, change, measured))
    sums = np.array([[(a * b).sum(axis=1) for b in (k, c, m)] for a in (k, c)])
    used = int(np.count_nonzero(scale))
    whole = _share(sums.sum(axis=2))
    if used < LEAST_SETS or whole <= 0:
        return 0.0
    without = np.array([_share(sums.sum(axis=2) - sums[:, :, i]) for i in np.flatnonzero(scale)])
    # The jackknife's variance (Efron and Stein 1981).
    variance = (used - 1) / used * float(np.square(without - without.mean()).sum())
    return float(np.clip(whole * max(1 - variance / whole**2, 0.0), 0.0, 1.0))


def _share(sums: Floats) -> float:
    """Return the network's coefficient as a share of that of known effects.

    ``sums`` of products: rows known and change, columns known, change and measured, [2, 3].
    """
    gram, target = sums[:, :2], sums[:, 2]
    determinant = float(np.linalg.det(gram))
    if determinant <= 1e-9 * gram[0, 0] * gram[1, 1]:
        return 0.0
    known, change = np.linalg.solve(gram, target)
    if change <= 0:
        return 0.0
    return float(change / known) if known > 0 else 1.0


def centred(values: Floats) -> Floats:
    """Return rows less their mean."""
    return values - values.mean(axis=1, keepdims=True)
