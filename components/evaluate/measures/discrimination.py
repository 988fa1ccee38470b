"""cell-eval's discrimination scores, from one matrix of distances each.

cell-eval (`discrimination_score`) copies all measured effects for each perturbation, less its
target gene, to find how many are nearer to the predicted effect than its own. Here all distances
are computed at once and the target gene's share is taken off. Where another measured effect is as
near as its own to within rounding, the rank is found by cell-eval's own steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances

Floats = NDArray[np.float64]
Distances = Callable[[int, NDArray[np.int64]], Floats]
"""(perturbation, columns to leave out) to distances of all measured effects to its prediction."""


def discrimination_scores(
    real: NDArray[np.floating],
    predicted: NDArray[np.floating],
    perturbations: Sequence[str],
    genes: Sequence[str],
    metric: str,
) -> dict[str, float]:
    """Return 1 - rank / n of each perturbation's own measured effect, nearest first.

    Effects are means less that of the controls, [perturbations, genes]; the gene of a
    perturbation's name is left out for it. ``metric``: l1, l2 or cosine.
    """
    made, rounding = METRICS[metric]
    distances = made(real.astype(np.float64), predicted.astype(np.float64))
    names = np.asarray(genes)
    scores = {}
    for own, label in enumerate(perturbations):
        target = np.flatnonzero(names == label)
        if len(target) == len(names):
            scores[label] = np.nan  # nothing is left to compare
            continue
        found = distances(own, target)
        if (np.abs(found - found[own]) > rounding * found.mean()).sum() < len(found) - 1:
            kept = np.flatnonzero(names != label)
            found = pairwise_distances(
                real[:, kept], predicted[own, kept].reshape(1, -1), metric=metric
            ).ravel()
        rank = np.flatnonzero(np.argsort(found) == own)[0]
        scores[label] = 1 - rank / len(perturbations)
    return scores


def _l1(real: Floats, predicted: Floats) -> Distances:
    whole = cdist(real, predicted, "cityblock")
    return lambda own, out: whole[:, own] - np.abs(real[:, out] - predicted[own, out]).sum(axis=1)


def _squared_l2(real: Floats, predicted: Floats) -> Distances:
    squares = (real**2).sum(axis=1)[:, None] + (predicted**2).sum(axis=1)
    whole = squares - 2 * real @ predicted.T
    return lambda own, out: whole[:, own] - ((real[:, out] - predicted[own, out]) ** 2).sum(axis=1)


def _cosine(real: Floats, predicted: Floats) -> Distances:
    products, r2, p2 = real @ predicted.T, (real**2).sum(axis=1), (predicted**2).sum(axis=1)

    def without(own: int, out: NDArray[np.int64]) -> Floats:
        product = products[:, own] - real[:, out] @ predicted[own, out]
        norms = (r2 - (real[:, out] ** 2).sum(axis=1)) * (
            p2[own] - (predicted[own, out] ** 2).sum()
        )
        # What is nothing but rounding is as far as cell-eval has a zero vector: 1.
        some = norms > 1e-20 * r2 * p2[own]
        return 1 - np.where(some, product, 0) / np.sqrt(np.where(some, norms, 1))

    return without


METRICS: dict[str, tuple[Callable[[Floats, Floats], Distances], float]] = {
    "l1": (_l1, 1e-9),
    "l2": (_squared_l2, 1e-6),
    "cosine": (_cosine, 2e-6),
}
"""How distances are computed (squared for l2: they order alike), and which share of their mean is
rounding: cell-eval's own are in the precision of the cells."""
