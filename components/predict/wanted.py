"""What is predicted: which perturbations, their cells, and what stands behind each prediction."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import Confidence, control_similarity
from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.predictions import MEASURED, PERTURBATION_COLUMNS
from components.shared.artifacts.splits import TEST, Splits
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.model.tokens import Ints
from components.shared.telling.errors import InputError


@dataclass(frozen=True)
class Requested:
    """The requested perturbations: which were measured, and which can be predicted."""

    measured: list[str]
    """With cells in the test line, sorted; always predicted, so that all can be scored."""
    unmeasured: list[str]
    """Without, sorted."""
    unknown: list[str]
    """Those of which the model knows nothing; they are left out."""

    @property
    def predicted(self) -> list[str]:
        """All that are predicted, sorted."""
        return sorted([*self.measured, *self.unmeasured])


@dataclass(frozen=True)
class Wanted:
    """The cells to predict, those of one perturbation together, perturbations sorted."""

    labels: NDArray[np.str_]
    """Perturbation of each, [cells]."""
    rows: Ints
    """The measured cell that each stands for, a row of the cells artifact; -1 = none, [cells]."""


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
    """Return `obs` of the cells to predict, whose names no cell of the data may have, [cells].

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


def perturbation_table(
    wanted: Wanted,
    genes: Sequence[str],
    control: NDArray[np.floating],
    *,
    flagged: Callable[[str], bool],
    training: TrainingEffects | None,
    confidence: Confidence | None,
    origin: Callable[[str], str] | None,
) -> pd.DataFrame:
    """Return the columns `PERTURBATION_COLUMNS` of each perturbation of ``wanted``, sorted.

    ``genes`` are the measured ones, ``control`` is the mean of the test line's basal controls,
    [genes]; the others are what the model tells, where it brings that along: ``origin`` how it
    knows the effect of a perturbation.
    """
    labels, cells = np.unique(wanted.labels, return_counts=True)
    there = wanted.rows >= 0
    table = pd.DataFrame({"perturbation": labels.astype(object), "cells": cells})
    table["measured_cells"] = [int(there[wanted.labels == label].sum()) for label in labels]
    lines = [training.lines_of(str(label)) if training else [] for label in labels]
    table["training_lines"] = [", ".join(names) for names in lines]
    table["training_cells"] = 0
    table["flagged"] = [flagged(str(label)) for label in labels]
    measured = set(genes)
    table["target_measured"] = [set(genes_of(str(label))) <= measured for label in labels]
    if training:
        counted = pd.Series(training.cells.sum(axis=0), training.perturbations)
        table["training_cells"] = counted.reindex(labels, fill_value=0).to_numpy(np.int64)
        similarity = control_similarity(control, genes, training)
        table["control_similarity"] = similarity
        if confidence:
            known = [origin(str(label)) for label in labels] if origin else None
            expected = confidence.expected(table["perturbation"].tolist(), similarity, known)
            table = table.join(expected.reset_index(drop=True))
    table = table.reindex(columns=list(PERTURBATION_COLUMNS))
    table["known"] = table["known"].fillna("").astype(str)
    return table
