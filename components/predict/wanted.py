"""The cells to predict: one for each measured cell, some for each perturbation without any."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.predict.perturbations import Requested
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import MEASURED
from components.shared.artifacts.splits import TEST, Splits
from components.shared.model.tokens import Ints
from components.shared.telling.errors import InputError


@dataclass(frozen=True)
class Wanted:
    """The cells to predict, those of one perturbation together, perturbations sorted."""

    labels: NDArray[np.str_]
    """Perturbation of each, [cells]."""
    rows: Ints
    """The measured cell that each stands for, a row of the cells artifact; -1 = none, [cells]."""

    @property
    def any_measured(self) -> bool:
        """Whether any of them stands for a measured cell."""
        return bool((self.rows >= 0).any())


def wanted_cells(requested: Requested, splits: Splits, cells_each: int) -> Wanted:
    """Return the cells to predict."""
    test = splits.rows(TEST, line=splits.test_line)
    of_test = splits.table["perturbation"].to_numpy(str)[test]
    measured = set(requested.measured)
    parts = [
        test[of_test == label] if label in measured else np.full(cells_each, -1)
        for label in requested.predicted
    ]
    labels = np.repeat(np.array(requested.predicted, dtype=str), [len(part) for part in parts])
    return Wanted(labels, np.concatenate(parts).astype(np.int64))


def predicted_obs(
    cells: Cells, splits: Splits, wanted: Wanted, seen: Collection[str]
) -> pd.DataFrame:
    """Return `obs` of the cells to predict, [cells].

    Raises:
        InputError: a cell of the data already has the name of one that is to be made.
    """
    there = wanted.rows >= 0
    found = cells.obs.iloc[wanted.rows[there]]
    numbers = pd.Series(wanted.labels).groupby(wanted.labels).cumcount().to_numpy()
    names = np.char.add(np.char.add(wanted.labels, "-"), (numbers + 1).astype(str)).astype(object)
    names[there] = found.index.to_numpy(object)
    index = pd.Index(names)
    if taken := sorted(set(names[~there]) & set(cells.obs.index)):
        raise InputError(
            f"{cells.file}: a cell is called '{taken[0]}', which a predicted cell would be; "
            "rename it"
        )
    obs = found.reindex(columns=cells.obs.columns).set_axis(index[there]).reindex(index)
    obs["perturbation"] = wanted.labels
    obs["cell_line"] = splits.test_line
    if "batch" in obs:
        obs["batch"] = obs["batch"].astype(object).where(there, "").astype(str)
    return _flagged(obs, there, seen)


def control_obs(cells: Cells, reference: Ints) -> pd.DataFrame:
    """Return `obs` of the reference controls."""
    obs = cells.obs.iloc[reference].copy()
    if "batch" in obs:
        obs["batch"] = obs["batch"].astype(str)
    return _flagged(obs, np.ones(len(obs), bool), ())


def _flagged(obs: pd.DataFrame, measured: NDArray[np.bool_], seen: Collection[str]) -> pd.DataFrame:
    return obs.assign(
        is_control=(obs["perturbation"] == CONTROL).to_numpy(bool),
        seen_in_training=obs["perturbation"].isin(seen).to_numpy(bool),
        **{MEASURED: measured},
    )
