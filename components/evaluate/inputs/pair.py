"""A predictions file, checked, and of what was measured the pair that cell-eval compares."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import issparse

from components.evaluate.inputs.rows import BLOCK, Chosen, Matrix, dense, matrix_of
from components.shared.artifacts.perturbation_names import is_bare
from components.shared.artifacts.predictions import MEASURED, TRUTH
from components.shared.storage.text_columns import is_text
from components.shared.telling.errors import InputError, nearest, shortlist

HIGHEST = 15.0
"""cell-eval (`utils.guess_is_lognorm`) refuses log1p values from here up."""


@dataclass(frozen=True)
class Predicted:
    """Predicted cells of every requested perturbation, with real controls of the test line."""

    predicted: Matrix
    """CSR or dense, in memory or `OnDisk`, [cells, genes], log1p of counts per 10,000; control rows
    hold the measured ones."""
    obs: pd.DataFrame
    """One row a cell, index = cell names, with is_control and seen_in_training as booleans."""
    genes: list[str]
    perturbation_column: str
    control: str

    @property
    def labels(self) -> NDArray[np.str_]:
        """Perturbation of every cell, shape [cells]."""
        return self.obs[self.perturbation_column].to_numpy(str)

    @property
    def perturbations(self) -> list[str]:
        """Perturbations without the control, sorted as cell-eval sorts them."""
        return [label for label in np.unique(self.labels).tolist() if label != self.control]

    @cached_property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the cells of each label, the control's among them."""
        cells = pd.Series(self.labels, dtype=object)
        found = cells.groupby(cells).indices
        return {str(label): np.asarray(rows) for label, rows in found.items()}

    def means(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return means of the controls, then of each perturbation, [1 + perturbations, genes]."""
        groups = (self.rows[label] for label in (self.control, *self.perturbations))
        return np.array([dense(matrix[rows]).mean(axis=0, dtype=np.float64) for rows in groups])


@dataclass(frozen=True)
class Pair(Predicted):
    """Predicted and measured expression of the same cells, log1p of counts per 10,000."""

    measured: Matrix
    """CSR or dense, in memory or `OnDisk`, [cells, genes]."""

    def with_prediction(self, predicted: Matrix) -> "Pair":
        """Return this pair with another prediction in the place of the model's."""
        return replace(self, predicted=predicted)

    def anndata(self) -> tuple[AnnData, AnnData]:
        """Return (predicted, measured) as the two AnnData cell-eval takes, all in memory."""
        # Fresh categories: pdex makes a group of every category, even of one without cells.
        labels = pd.Categorical(self.labels)
        obs = pd.DataFrame({self.perturbation_column: labels}, index=self.obs.index)
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=str))
        predicted, measured = (matrix[:] for matrix in (self.predicted, self.measured))
        return AnnData(predicted, obs=obs.copy(), var=var.copy()), AnnData(measured, obs, var)


def pair_of(adata: AnnData, where: str) -> Pair:
    """Check the content of a predictions file and return what of it was measured."""
    _, pair = predicted_of(adata, where)
    if pair is None:
        raise InputError(
            f"{where}: no perturbed cell was measured, so there is nothing to compare with"
        )
    return pair


def predicted_of(adata: AnnData, where: str) -> tuple[Predicted, Pair | None]:
    """Check the content of a predictions file; return all of it, and what of it was measured.

    That is the cells of the perturbations that were measured, with the controls: the same object
    where that is all, None where it is no perturbation.

    Raises:
        InputError: a missing column, layer or `uns` entry, a label that is not bare, no control
            or no perturbed cell, a perturbation that is measured in part, or values that are no
            log1p of counts per 10,000.
    """
    column, control = _names(adata, where)
    labels = adata.obs[column].astype(str).to_numpy(str)
    _check_labels(labels, control, f"{where}, obs column '{column}'")
    flags = adata.obs["is_control"].to_numpy(bool)
    if (wrong := np.flatnonzero(flags != (labels == control))).size:
        raise InputError(
            f"{where}: cell '{adata.obs_names[wrong[0]]}' has perturbation '{labels[wrong[0]]}' "
            f"but is_control {flags[wrong[0]]}; is_control must be true for '{control}' alone"
        )
    known = _measured(adata, labels, flags, where)
    scored = bool((known & ~flags).any())
    if adata.X is None or (scored and TRUTH not in adata.layers):
        raise InputError(f"{where}: no layer '{TRUTH}' or no X; run the predict task again")
    predicted = matrix_of(adata.X)
    truth = matrix_of(adata.layers[TRUTH]) if scored else None
    _check_values(predicted, truth, flags, adata, where)
    obs, genes = adata.obs.assign(**{column: labels}), [str(gene) for gene in adata.var_names]
    if truth is None:
        return Predicted(predicted, obs, genes, column, control), None
    if known.all():
        pair = Pair(predicted, obs, genes, column, control, truth)
        return pair, pair
    rows = np.flatnonzero(known)
    sides = Chosen(predicted, rows), Chosen(truth, rows)
    pair = Pair(sides[0], obs.iloc[rows], genes, column, control, sides[1])
    return Predicted(predicted, obs, genes, column, control), pair


def _measured(
    adata: AnnData, labels: NDArray[np.str_], control: NDArray[np.bool_], where: str
) -> NDArray[np.bool_]:
    """Return which rows of the truth are a measurement, [cells]; without the column, all are."""
    if MEASURED not in adata.obs:
        return np.ones(len(labels), bool)
    known = adata.obs[MEASURED].to_numpy(bool)
    if (control & ~known).any():
        raise InputError(
            f"{where}: obs column '{MEASURED}' is false of a control; controls are real cells, run "
            "the predict task again"
        )
    if parted := sorted(set(labels[known]) & set(labels[~known])):
        raise InputError(
            f"{where}: some cells of {shortlist(parted)} are measured and others are not, by obs "
            f"column '{MEASURED}'; run the predict task again"
        )
    return known


def _names(adata: AnnData, where: str) -> tuple[str, str]:
    """Return the label column and the control label, as `uns` names them."""
    for key in ("perturbation_column", "control"):
        if key not in adata.uns:
            raise InputError(f"{where}: uns has no '{key}'; run the predict task again")
    column, control = str(adata.uns["perturbation_column"]), str(adata.uns["control"])
    for needed in (column, "cell_line", "is_control", "seen_in_training"):
        if needed not in adata.obs:
            have = [str(name) for name in adata.obs.columns]
            raise InputError(f"{where}: no obs column '{needed}'{nearest(needed, have)}")
    for labels in (column, "cell_line"):
        if not is_text(adata.obs[labels]):
            raise InputError(
                f"{where}: obs column '{labels}' is not text in every row; run the predict task "
                "again"
            )
    return column, control


def _check_labels(labels: NDArray[np.str_], control: str, where: str) -> None:
    unique = np.unique(labels).tolist()
    if control not in unique:
        raise InputError(
            f"{where}: no control cells labelled '{control}'{nearest(control, unique)}; "
            "deltas need at least one"
        )
    if len(unique) < 2:
        raise InputError(f"{where}: no perturbed cells, only '{control}'; nothing to evaluate")
    bad = [label for label in unique if not is_bare(label)]
    if bad:
        raise InputError(
            f"{where}: {shortlist(bad)} is not a bare gene symbol; drop '+ctrl' and blanks, or "
            "cell-eval cannot exclude the target gene"
        )


def _check_values(
    predicted: Matrix,
    measured: Matrix | None,
    control: NDArray[np.bool_],
    adata: AnnData,
    where: str,
) -> None:
    """Check that both are finite, within [0, 15) and not counts, and have the same controls."""
    sides = {"X": predicted} | ({f"layer '{TRUTH}'": measured} if measured is not None else {})
    fractions = dict.fromkeys(sides, False)
    for start in range(0, len(control), BLOCK):
        blocks = [matrix[start : start + BLOCK] for matrix in sides.values()]
        for name, block in zip(fractions, blocks, strict=True):
            values = block.data if issparse(block) else block
            if values.size and not (values.min() >= 0 and values.max() < HIGHEST):
                row, gene = _place(block)
                raise InputError(
                    f"{where}, {name}: {block[row, gene]} in cell "
                    f"'{adata.obs_names[start + row]}', gene '{adata.var_names[gene]}'; expected "
                    "log1p of normalised counts, within [0, 15)"
                )
            fractions[name] = fractions[name] or _has_fraction(values)
        rows = control[start : start + BLOCK]
        controls = [dense(block[rows]) for block in blocks]
        if not np.array_equal(controls[0], controls[-1]):
            raise InputError(
                f"{where}: X differs from layer '{TRUTH}' in control cells; both must hold the "
                "measured controls, or the two sides' deltas have different references"
            )
    for name, found in fractions.items():
        if not found:  # cell-eval would take them for counts and normalise them without a word
            raise InputError(
                f"{where}, {name}: only whole numbers; expected log1p of normalised counts, not "
                "counts"
            )


def _has_fraction(values: NDArray[np.floating]) -> bool:
    """Return whether a value is none that cell-eval takes for a whole number."""
    flat = values.reshape(-1)
    parts = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
    return any((np.modf(part)[0] > 1e-3).any() for part in parts)  # most often the first


def _place(block: Matrix) -> tuple[int, int]:
    """Return (row, column) of the first value that is not finite and within [0, 15)."""
    values = block.data if issparse(block) else block
    at = int(np.argmin(np.isfinite(values) & (values >= 0) & (values < HIGHEST)))
    if issparse(block):
        return int(np.searchsorted(block.indptr, at, side="right")) - 1, int(block.indices[at])
    return divmod(at, block.shape[1])
