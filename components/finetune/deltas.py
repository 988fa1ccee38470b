"""Changes under each perturbation in each training line, with their variances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.finetune.data import Floats, TrainingData
from components.shared.artifacts.matched_controls import matched
from components.shared.model.tokens import Ints


@dataclass(frozen=True, eq=False)
class LineDeltas:
    """Pseudobulk deltas of some lines, log1p units; rows without cells are 0 and not `there`."""

    lines: list[str]
    change: Floats
    """Mean of a perturbation's cells less that of its line's controls, [lines, perturbations,
    genes]."""
    variance: Floats
    """Sampling variance of the change, same shape."""
    there: NDArray[np.bool_]
    """Which perturbations a line has, [lines, perturbations]."""
    targets: Sequence[Ints] = ()
    """Positions of each perturbation's own genes; none where perturbations are no genes."""


def line_deltas(data: TrainingData) -> LineDeltas:
    """Measure every (line, perturbation) that has training cells, against the line's controls.

    To match batches, each cell is compared with the controls of its own (`matched_controls`).
    The control (code 0) changes nothing and is not there.
    """
    shape = (len(data.controls), len(data.perturbations), data.expression.shape[1])
    change, variance = np.zeros(shape), np.zeros(shape)
    there = np.zeros(shape[:2], bool)
    lines = data.line_numbers(data.train_rows)
    for number, controls in enumerate(data.controls.values()):
        known: dict[str, tuple[Floats, Floats]] = {}
        own = np.flatnonzero(lines == number)
        own = own[np.argsort(data.train_codes[own], kind="stable")]
        codes, starts = np.unique(data.train_codes[own], return_index=True)
        for code, cells in zip(codes, np.split(own, starts)[1:], strict=True):
            rows = data.train_rows[cells]
            for batch, against, places in matched(rows, controls, data.batch_of_row):
                if batch not in known:
                    known[batch] = data.moments(against)
                mean, spread = known[batch]
                own_mean, own_spread = data.moments(rows[places])
                share = len(places) / len(rows)
                change[number, code] += share * (own_mean - mean)
                # A rare gene may not vary among a few cells: it varies as in controls, at least.
                noise = np.fmax(own_spread, spread) / len(places)
                variance[number, code] += share**2 * (noise + spread / len(against))
            there[number, code] = True
    own_genes = [target.measured for target in data.targets]
    return LineDeltas(list(data.controls), change, variance, there, own_genes)
