"""Deltas of lines with the same true effects."""

import numpy as np

from components.finetune.deltas import LineDeltas

LABELS = ["non-targeting", "A", "B", "C", "D", "E", "A+B", "Z"]
GENES = 30


def screens(seed=0, lines=("one", "two", "three"), noise=0.1, missing=("A+B", "Z")):
    """Lines with the same true effects, each with noise of its own."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1, (len(LABELS), GENES)) * (rng.random((len(LABELS), GENES)) < 0.2)
    true[0] = 0
    change = true + rng.normal(0, noise, (len(lines), *true.shape))
    there = np.array([[label not in ("non-targeting", *missing) for label in LABELS]] * len(lines))
    change[~there] = 0
    return true, LineDeltas(list(lines), change, np.full_like(change, noise**2), there)
