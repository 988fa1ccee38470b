"""The splits artifact: one role a cell in `splits.parquet`, and which perturbations to predict.

`asked.json` lists the perturbations to predict, as the user requested them. Cells of the test line
with one of these perturbations have role ``test``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.artifact import SPLITS, Artifact, opening
from components.shared.artifacts.cells import Cells
from components.shared.storage.documents import Shape, read_json
from components.shared.storage.parquet import read_parquet
from components.shared.telling.errors import InputError

SPLITS_FILE = "splits.parquet"
SUMMARY_FILE = "summary.json"
REQUEST_FILE = "asked.json"

TRAIN = "train"
VAL = "val"
TEST = "test"
CONTROL_BASAL = "control_basal"
"""Control cells that serve as a model's input."""
CONTROL_REFERENCE = "control_reference"
"""Control cells that deltas are measured against."""
CONTROL_BOTH = "control_both"
"""Control cells that serve as both, where the pools are not halved (as the reference run does)."""
UNUSED = "unused"

COLUMNS = ("cell", "cell_line", "perturbation", "role")
AGAIN = "run the split task again"
ROLES = (TRAIN, VAL, TEST, CONTROL_BASAL, CONTROL_REFERENCE, CONTROL_BOTH, UNUSED)
REQUEST: Shape = {"perturbations": [str], "other_names": {str: [str]}}


@dataclass(frozen=True)
class Splits:
    """An opened splits artifact, row for row in the order of its cells artifact."""

    artifact: Artifact
    table: pd.DataFrame
    """Columns cell, cell_line, perturbation, role; one row a cell."""

    @classmethod
    def open(cls, path: Path | str, cells: Cells) -> "Splits":
        """Check the artifact at ``path``, and that it was made from ``cells`` and no others.

        Raises:
            InputError: not a splits artifact, damaged, or made from other cells.
        """
        artifact = opening(path, SPLITS)
        made_from = artifact.provenance["inputs"]["cells"]["sha256"]
        if made_from != cells.artifact.digest:
            raise InputError(
                f"{path}: made from other cells (sha256 {made_from[:12]}) than "
                f"{cells.artifact.path} ({cells.artifact.digest[:12]}); run the split task again"
            )
        name = f"{path}/{SPLITS_FILE}"
        table = read_parquet(artifact.path / SPLITS_FILE, COLUMNS, name, AGAIN)
        _check_rows(table, cells.obs, name)
        return cls(artifact, table)

    @property
    def test_line(self) -> str:
        """The cell line that is predicted."""
        return str(self.artifact.summary["test_line"])

    @property
    def train_lines(self) -> list[str]:
        """The cell lines whose perturbed cells are trained on, in the order given."""
        return list(self.artifact.summary["train_lines"])

    @property
    def requested(self) -> list[str]:
        """The perturbations to predict, sorted; none = all that the model was trained on."""
        return self._requests["perturbations"]

    @property
    def other_names(self) -> dict[str, list[str]]:
        """Perturbations that a requested gene may stand for under another name."""
        return self._requests["other_names"]

    @property
    def _requests(self) -> dict[str, Any]:
        file = self.artifact.path / REQUEST_FILE
        return read_json(file, str(file), AGAIN, REQUEST)

    def rows(self, *roles: str, line: str | None = None) -> NDArray[np.int64]:
        """Return row numbers of the cells in any of ``roles``, in ``line`` if given, ascending."""
        kept = self.table["role"].isin(roles)
        if line is not None:
            kept &= self.table["cell_line"] == line
        return np.flatnonzero(kept)

    def basal(self, line: str) -> NDArray[np.int64]:
        """Return row numbers of the control cells of ``line`` that may be a model's input."""
        return self.rows(CONTROL_BASAL, CONTROL_BOTH, line=line)

    def reference(self, line: str) -> NDArray[np.int64]:
        """Return row numbers of the control cells of ``line`` that deltas are measured against."""
        return self.rows(CONTROL_REFERENCE, CONTROL_BOTH, line=line)

    def training_perturbations(self) -> set[str]:
        """Return the perturbations with at least one training cell."""
        return set(self.table.loc[self.table["role"] == TRAIN, "perturbation"])


def _check_rows(table: pd.DataFrame, obs: pd.DataFrame, name: str) -> None:
    """Check that a table has a role for each cell, and says of it what the cells do."""
    if len(table) != len(obs):
        raise InputError(f"{name}: has {len(table)} rows for {len(obs)} cells; {AGAIN}")
    if unknown := set(table["role"].unique()) - set(ROLES):
        raise InputError(
            f"{name}: has the role '{min(unknown):.60}'; one of {', '.join(ROLES)}; {AGAIN}"
        )
    there = {"cell": obs.index, "cell_line": obs["cell_line"], "perturbation": obs["perturbation"]}
    for column, wanted in there.items():
        odd = np.flatnonzero(table[column].to_numpy(object) != wanted.to_numpy(object))
        if odd.size:
            raise InputError(
                f"{name}: {column} '{table[column].iloc[odd[0]]:.60}' is not that of cell "
                f"'{obs.index[odd[0]]:.60}'; {AGAIN}"
            )
