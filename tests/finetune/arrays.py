"""Training data as arrays: two lines, two perturbations."""

import numpy as np
import torch

from components.finetune.data import TrainingData, ValidationSet
from components.shared.model.tokens import Targets

CPU = torch.device("cpu")
LINES = ("k562", "jurkat")
GENES = 12
MOVED = 3
"""The gene that perturbation 1 raises, by much."""


def training_data(seed: int = 0, cells: int = 9, controls: int = 14) -> TrainingData:
    """Two lines, two perturbations; the second is held out in jurkat."""
    rng = np.random.default_rng(seed)
    rows, labels, lines = [], [], []
    for line in LINES:
        base = rng.gamma(2.0, 0.7, GENES)
        for code, count in ((0, controls), (1, cells), (2, cells + 2)):
            change = np.zeros(GENES)
            change[MOVED] = 2.0 * (code == 1)
            for _ in range(count):
                rows.append(np.maximum(base + change + rng.normal(0, 0.3, GENES), 0))
                labels.append(code)
                lines.append(line)
    codes, names = np.array(labels), np.array(lines)
    held_out = (codes == 2) & (names == "jurkat")
    train = np.flatnonzero((codes > 0) & ~held_out)
    of = {line: np.flatnonzero((codes == 0) & (names == line)) for line in LINES}
    expression = torch.tensor(np.array(rows), dtype=torch.float32)
    none = np.empty(0, np.int64)
    return TrainingData(
        expression=expression,
        ids=np.arange(GENES),
        perturbations=["non-targeting", "A", "B"],
        targets=[Targets(none, none), Targets(np.array([1]), none), Targets(np.array([5]), none)],
        train_rows=train,
        train_codes=codes[train],
        basal={line: pool[::2] for line, pool in of.items()},
        controls=of,
        line_of_row=names,
        reference_mean={
            line: expression[pool[1::2]].double().mean(0).numpy() for line, pool in of.items()
        },
        validation=[ValidationSet("jurkat", "B", np.flatnonzero(held_out))],
    )
