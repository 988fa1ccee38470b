"""Whether a predictions file holds the cells that the splits say it may hold."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.evaluate.pair import Pair
from components.shared.artifact import Artifact
from components.shared.errors import InputError, shortlist
from components.shared.splits import CONTROL_BOTH, CONTROL_REFERENCE, TEST, Splits


def check_same_splits(predictions: Artifact, splits: Splits) -> None:
    """Check that the predictions were made with these splits.

    Raises:
        InputError: they were made with others.
    """
    made_with = predictions.provenance["inputs"].get("splits", {}).get("sha256")
    if made_with not in (None, splits.artifact.digest):
        raise InputError(
            f"{predictions.path}: made with other splits (sha256 {made_with[:12]}) than "
            f"{splits.artifact.path} ({splits.artifact.digest[:12]}); run the predict task again"
        )


def check_cells(pair: Pair, splits: Splits, where: str) -> None:
    """Check every cell's role: test cells of the test line, and its reference controls.

    With controls of a training line, a prediction that knows nothing scores a pearson_delta of
    0.92; with controls that were a model's input, reference and input share their noise.

    Raises:
        InputError: a cell the splits do not have, one in another role or with another label, or
            a test perturbation that was not predicted.
    """
    table = splits.table.set_index("cell").reindex(pair.obs.index)
    labels, control = pair.labels, pair.labels == pair.control
    _refuse(table["role"].isna(), pair, where, "is not in the cells that were split")
    lines = table["cell_line"].to_numpy(str)
    _refuse(
        lines != splits.test_line,
        pair,
        where,
        f"is of line {_first(lines, lines != splits.test_line)}, but deltas in the test line "
        f"'{splits.test_line}' need its own cells",
    )
    other = table["perturbation"].to_numpy(str)
    _refuse(labels != other, pair, where, f"is {_first(other, labels != other)} in the splits")
    for kind, rows, roles in (
        ("a control", control, (CONTROL_REFERENCE, CONTROL_BOTH)),
        ("a perturbed cell", ~control, (TEST,)),
    ):
        wrong = rows & ~table["role"].isin(roles).to_numpy()
        role = _first(table["role"].to_numpy(str), wrong)
        _refuse(wrong, pair, where, f"has role {role}, but {kind} here must be '{roles[0]}'")
    wanted = set(splits.table.loc[splits.table["role"] == TEST, "perturbation"])
    if missing := sorted(wanted - set(pair.perturbations)):
        raise InputError(
            f"{where}: no cells of test perturbation {shortlist(missing)}; every one must be "
            "predicted, run the predict task again"
        )


def _first(values: NDArray[np.str_], wrong: NDArray[np.bool_]) -> str:
    return f"'{values[wrong][0]}'" if wrong.any() else ""


def _refuse(wrong: "pd.Series | NDArray[np.bool_]", pair: Pair, where: str, why: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong))
    if len(rows):
        name, label = pair.obs.index[rows[0]], pair.labels[rows[0]]
        more = f" (and {len(rows) - 1} more cells)" if len(rows) > 1 else ""
        raise InputError(f"{where}: cell '{name}' of '{label}' {why}{more}")
