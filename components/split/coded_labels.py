"""The cells' labels as numbers, and random draws that depend on names, not on the order of rows."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.perturbation import CONTROL

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """Names of cells, lines and perturbations; the last two sorted, and as codes of every cell."""

    cells: NDArray[np.object_]
    """Names, [cells]."""
    lines: list[str]
    perturbations: list[str]
    """The control among them, where there are control cells."""
    line_of: Ints
    """Code of each cell's line, [cells]."""
    perturbation_of: Ints
    """Code of each cell's perturbation, [cells]."""

    @classmethod
    def of(cls, obs: pd.DataFrame) -> "Labels":
        """Take the labels from the `obs` of a cells artifact."""
        line_of, lines = pd.factorize(obs["cell_line"].to_numpy(object), sort=True)
        perturbation_of, perturbations = pd.factorize(
            obs["perturbation"].to_numpy(object), sort=True
        )
        cells = obs.index.astype(str).to_numpy(object)
        return cls(cells, list(lines), list(perturbations), line_of, perturbation_of)

    @cached_property
    def counts(self) -> Ints:
        """Cells of each line and perturbation, [lines, perturbations]."""
        shape = (len(self.lines), len(self.perturbations))
        flat = self.line_of * shape[1] + self.perturbation_of
        return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)

    @cached_property
    def is_control(self) -> NDArray[np.bool_]:
        """Which cells are controls, [cells]."""
        return np.isin(self.perturbations, [CONTROL])[self.perturbation_of]

    def perturbations_of(self, line: str) -> list[str]:
        """Return the perturbations (the control is none) with cells in ``line``, sorted."""
        if line not in self.lines:
            return []
        cells = zip(self.perturbations, self.counts[self.lines.index(line)], strict=True)
        return [name for name, n in cells if n and name != CONTROL]


def generator(seed: int, *what: str) -> np.random.Generator:
    """Return the random generator of one draw, named by ``what`` (its purpose, its cell line).

    A draw of its own for each line keeps a line's halves the same whatever other lines are used.
    """
    digest = hashlib.sha256("\0".join(what).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
