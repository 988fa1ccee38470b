"""A generated screen's test line: what its cells measured, and what is true of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from components.finetune.selection import discrimination, pearson
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.splits import TEST, Splits

TRAIN_LINES, TEST_LINE = ["k562", "jurkat", "hepg2"], "rpe1"

Floats = NDArray[np.float64]
Scores = dict[str, float]


@dataclass(frozen=True)
class TestLine:
    """What the test line's cells say, and what is true of it."""

    perturbations: list[str]
    control: Floats
    """Mean of the basal controls, [genes], log1p of counts per 10,000, as are the next."""
    reference: Floats
    """Mean of the reference controls, [genes]."""
    measured: Floats
    """Mean change against the reference controls, [perturbations, genes]."""
    true: Floats
    """True change, [perturbations, genes]."""
    targets: list[NDArray[np.int64]]
    """Columns of each perturbation's own genes."""

    @classmethod
    def of(cls, cells: Cells, splits: Splits) -> "TestLine":
        """Read a generated screen."""
        labels = splits.table["perturbation"].to_numpy(str)
        test, line = splits.rows(TEST), splits.test_line
        names = np.unique(labels[test]).tolist()
        groups = np.full(len(labels), -1)
        groups[test] = np.searchsorted(names, labels[test])
        groups[splits.reference(line)] = len(names)
        *means, reference = cells.group_means(groups, len(names) + 1)
        # A pass of its own: a control can be basal and reference too.
        pool = np.full(len(labels), -1)
        pool[splits.basal(line)] = 0
        [control] = cells.group_means(pool, 1)
        truth = np.load(cells.artifact.path / "truth.npz")
        rows = [truth["perturbations"].tolist().index(name) for name in names]
        place = {gene: i for i, gene in enumerate(cells.genes)}
        return cls(
            names,
            control,
            reference,
            np.array(means) - reference,
            truth["effects"][truth["lines"].tolist().index(line)][rows].astype(float),
            [np.array([place[g] for g in genes_of(name) if g in place], int) for name in names],
        )

    def scores(self, means: Floats) -> Scores:
        """Score predicted means [perturbations, genes] as cell-eval does, and against the truth."""
        means = np.maximum(means, 0.0)
        change = means - self.reference
        true = [pearson(a, b) for a, b in zip(means - self.control, self.true, strict=True)]
        return {
            "pearson_delta": mean(map(pearson, change, self.measured)),
            "discrimination": mean(discrimination(change, self.measured, self.targets)),
            "mae_delta": float(np.abs(change - self.measured).mean()),
            "pearson_true": mean(true),
        }

    def only(self, rows: NDArray[np.bool_]) -> "TestLine":
        """Return it with some of its perturbations, [perturbations]."""
        return replace(
            self,
            perturbations=[p for p, mine in zip(self.perturbations, rows, strict=True) if mine],
            measured=self.measured[rows],
            true=self.true[rows],
            targets=[t for t, mine in zip(self.targets, rows, strict=True) if mine],
        )


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are finite, NaN where there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
