"""Whether a predictions file holds the cells that the splits say it may hold, and their means."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from components.evaluate.inputs.pair import Pair, Predicted
from components.evaluate.inputs.rows import Chosen
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.predictions import CELLS_KIND, MEANS, MEASURED, PERTURBATIONS
from components.shared.artifacts.splits import CONTROL_BOTH, CONTROL_REFERENCE, TEST, Splits
from components.shared.model.rank_cells import PREDICTED_CELLS
from components.shared.telling.errors import InputError, shortlist

SAME = 1e-5
"""Means that differ by less are the same: both are stored in 32 bits."""


def check_same_splits(predictions: Artifact, splits: Splits) -> None:
    """Check that the predictions were made with these splits."""
    made_with = predictions.provenance["inputs"].get("splits", {}).get("sha256")
    if made_with not in (None, splits.artifact.digest):
        raise InputError(
            f"{predictions.path}: made with other splits (sha256 {made_with[:12]}) than "
            f"{splits.artifact.path} ({splits.artifact.digest[:12]}); run the predict task again"
        )


def check_cells(
    given: Predicted, pair: Pair | None, splits: Splits, asked: Collection[str] | None, where: str
) -> None:
    """Check every cell's role: test cells of the test line, and its reference controls.

    With controls of a training line, a prediction that knows nothing scores a pearson_delta of
    0.92; with controls that were a model's input, reference and input share their noise. Cells of
    perturbations that were not measured are in no split.

    ``pair`` is what was measured, with the controls, None = no perturbed cell was; ``asked`` are
    the requested perturbations, None = every one of the test cells.

    Raises:
        InputError: a cell the splits do not have, one in another role or with another label, one
            that is said to be measured or not against what the splits say, or a perturbation that
            was requested and not predicted.
    """
    _refuse(given.obs.index.duplicated(), given, where, "is there twice")
    measured = set(pair.perturbations) if pair else set()
    _check_roles(pair or _controls_of(given), splits, where)
    _check_not_real(given, ~np.isin(given.labels, [given.control, *measured]), splits, where)
    test = set(splits.table.loc[splits.table["role"] == TEST, "perturbation"])
    wanted = test if asked is None else set(asked)
    if missing := sorted(wanted - set(given.perturbations)):
        raise InputError(
            f"{where}: no cells of test perturbation {shortlist(missing)}; every one that was "
            "requested must be predicted, run the predict task again"
        )
    if hidden := sorted(test & set(given.perturbations) - measured):
        raise InputError(
            f"{where}: {shortlist(hidden)} has test cells in the splits, but here none is "
            f"measured, by obs column '{MEASURED}'; run the predict task again"
        )


def _check_not_real(given: Predicted, rows: NDArray[np.bool_], splits: Splits, where: str) -> None:
    """Check cells that were not measured: of the test line, and no real cell's name."""
    lines = given.obs["cell_line"].to_numpy(str)
    foreign = rows & (lines != splits.test_line)
    what = f"is of line {_first(lines, foreign)}, but the test line is '{splits.test_line}'"
    _refuse(foreign, given, where, what)
    real = rows & given.obs.index.isin(splits.table["cell"])
    _refuse(real, given, where, f"is a real cell, but obs column '{MEASURED}' says otherwise")


def _controls_of(given: Predicted) -> Predicted:
    rows = given.rows[given.control]
    return replace(given, predicted=Chosen(given.predicted, rows), obs=given.obs.iloc[rows])


def _check_roles(pair: Predicted, splits: Splits, where: str) -> None:
    """Check real cells: that the splits have them, with this label, in the role they need."""
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


def check_genes(pair: Predicted, genes: list[str], where: str) -> None:
    """Check that every gene is one of the cells artifact, once; their order does not matter.

    Raises:
        InputError: a gene the cells do not have, or one that comes twice.
    """
    index = pd.Index(pair.genes)
    if twice := sorted(set(index[index.duplicated()])):
        raise InputError(f"{where}: gene {shortlist(twice)} comes twice; name each gene once")
    if unknown := sorted(set(index) - set(genes)):
        raise InputError(
            f"{where}: gene {shortlist(unknown)} is not in the cells artifact, whose baselines the "
            "model is compared with; predict its genes alone"
        )


def check_means(adata: AnnData, pair: Predicted, where: str) -> str:
    """Check that each perturbation's cells have the mean that was predicted for it.

    Metrics of means are computed from the cells; only so are they the predicted means'. Returns
    what the predicted cells are, one of `PREDICTED_CELLS`.

    Raises:
        InputError: means or kind of the cells are missing, or cells with another mean.
    """
    kind, labels = adata.uns.get(CELLS_KIND), adata.uns.get(PERTURBATIONS)
    if (
        not isinstance(kind, str)
        or kind not in PREDICTED_CELLS
        or labels is None
        or MEANS not in adata.varm
    ):
        raise InputError(
            f"{where}: no varm '{MEANS}', or uns lacks '{PERTURBATIONS}' or '{CELLS_KIND}' "
            f"({' or '.join(PREDICTED_CELLS)}); run the predict task again"
        )
    found, labels = pair.means(pair.predicted)[1:], [str(label) for label in labels]
    predicted = np.asarray(adata.varm[MEANS], dtype=np.float64).T
    if labels != pair.perturbations or predicted.shape != found.shape:
        raise InputError(
            f"{where}: uns '{PERTURBATIONS}' must name the perturbations of the cells, sorted, one "
            f"a column of varm '{MEANS}'; run the predict task again"
        )
    if (off := np.argwhere(~(np.abs(found - predicted) < SAME))).size:
        row, gene = off[0]
        raise InputError(
            f"{where}: the cells of '{labels[row]}' have mean {found[row, gene]:.6g} in gene "
            f"'{pair.genes[gene]}', but varm '{MEANS}' says {predicted[row, gene]:.6g}"
        )
    return str(kind)


def _first(values: NDArray[np.str_], wrong: NDArray[np.bool_]) -> str:
    return f"'{values[wrong][0]}'" if wrong.any() else ""


def _refuse(wrong: "pd.Series | NDArray[np.bool_]", pair: Predicted, where: str, why: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong))
    if len(rows):
        name, label = pair.obs.index[rows[0]], pair.labels[rows[0]]
        others = len(rows) - 1
        more = f" (and {others} more cell{'s' * (others > 1)})" if others else ""
        raise InputError(f"{where}: cell '{name}' of '{label}' {why}{more}")
