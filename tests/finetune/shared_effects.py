"""Deltas of lines that share some of their effects."""

import numpy as np

from components.finetune.deltas import LineDeltas

PERTURBATIONS = 40
GENES = 150


def screen(
    seed: int = 0,
    *,
    lines: int = 3,
    pathways: int = 0,
    common: float = 0.0,
    own: float = 0.5,
    noise: float = 0.5,
    missing: float = 0.0,
) -> tuple[np.ndarray, LineDeltas]:
    """Return the effects that lines share, and lines that have them beside their own and noise.

    With ``pathways`` the shared effects are combinations of so many directions.
    """
    rng = np.random.default_rng(seed)
    shape = (PERTURBATIONS + 1, GENES)
    rank = pathways or PERTURBATIONS
    loadings = rng.normal(size=(shape[0], rank)) / np.sqrt(rank)
    shared = (loadings @ rng.normal(size=(rank, GENES))) if pathways else rng.normal(size=shape)
    shared = shared + common * rng.normal(size=GENES)
    change = shared + own * rng.normal(size=(lines, *shape))
    change += noise * rng.normal(size=change.shape)
    there = rng.random((lines, shape[0])) >= missing
    shared[0], change[:, 0], there[:, 0] = 0.0, 0.0, False
    change[~there] = 0.0
    names = [f"line{i}" for i in range(lines)]
    return shared, LineDeltas(names, change, np.full_like(change, noise**2), there)


def tellers(deltas: LineDeltas) -> list[tuple[LineDeltas, int]]:
    return [(deltas, i) for i in range(len(deltas.lines))]
