"""Scores of predicted deltas against measured ones, as cell-eval defines them."""

import numpy as np
import torch

from components.finetune.data import Floats
from components.shared.model.tokens import Ints

NAN = float("nan")


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
