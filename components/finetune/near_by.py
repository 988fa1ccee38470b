"""Effects of perturbations by those near by in a gene prior: kernel ridge on its vectors."""

from dataclasses import dataclass

import numpy as np

from components.finetune.data import Floats
from components.shared.artifacts.known_effects import NearBy, unit

PENALTIES = np.geomspace(1e-3, 1e3, 25)
"""That the ridge chooses from, in units of a kernel whose diagonal is 1."""


def near_by(effects: Floats, vectors: Floats) -> NearBy | None:
    """Learn effects [known, genes] from vectors [known, width], a row of zeros = none.

    By kernel ridge on their cosine; None where that is no help. The penalty is the one with the
    least squared error when one perturbation is left out at a time (in closed form); a prior that
    does not beat the mean effect so is left alone.
    """
    ridge = Ridge.fitted(effects, vectors)
    if ridge is None:
        return None
    dual = (ridge.axes * ridge.inverse) @ ridge.turned
    return NearBy(ridge.centre, ridge.left, dual, ridge.mean)


@dataclass(frozen=True)
class Ridge:
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
    def fitted(cls, effects: Floats, vectors: Floats) -> "Ridge | None":
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

    def missed(self) -> Floats:
        """Return by how much each effect is missed when it is left out, [n, genes]."""
        scaled = self.axes * self.inverse
        leverage = (self.axes * scaled).sum(axis=1)
        n = len(leverage)
        return scaled @ self.turned / leverage[:, None] * n / (n - 1)
