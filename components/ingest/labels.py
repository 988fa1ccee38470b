"""From a source's own columns to perturbation, cell_line, is_control and batch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.ingest.source import Source
from components.shared.errors import InputError, nearest, shortlist
from components.shared.perturbation import CONTROL, genes_of

USUAL_CONTROLS = ("non-targeting", "control", "ctrl", "nt", "ntc", "negctrl", "dmso", "unperturbed")
ENSEMBL = r"ENS[A-Z]*G\d{6,}(?:\.\d+)?"


@dataclass(frozen=True)
class Labels:
    """Which cells are kept and what they are."""

    kept: NDArray[np.bool_]
    """Shape [cells of the source]."""
    obs: pd.DataFrame
    """One row a kept cell: perturbation, cell_line, is_control and, where asked for, batch."""
    facts: dict[str, Any] = field(default_factory=dict)


def column_of(source: Source, name: str, parameter: str) -> "pd.Series[Any]":
    """Return a column of obs.

    Raises:
        InputError: there is no such column; names the nearest.
    """
    if name not in source.columns:
        raise InputError(
            f"{source.name}: obs has no column '{name}'{nearest(name, source.columns)} "
            f"(columns: {shortlist(source.columns, 12)}); set {parameter}"
        )
    return source.column(name)


def passing(source: Source, obs_filter: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which cells have an allowed value in every column of ``obs_filter``.

    Raises:
        InputError: unknown column or a value no cell has.
    """
    kept = np.ones(len(source.cells), dtype=bool)
    for name, wanted in obs_filter.items():
        column = pd.Categorical(column_of(source, name, "obs_filter"))
        present = [str(value) for value in column.categories]
        allowed = []
        for value in wanted if isinstance(wanted, list) else [wanted]:
            # 2 is also meant where the column holds 2.0.
            same = [
                i for i, v in enumerate(column.categories) if v == value or str(v) == str(value)
            ]
            if not same:
                raise InputError(
                    f"{source.name}: obs_filter: no cell has '{value}' in column '{name}'"
                    f"{nearest(str(value), present)} (values: {shortlist(present)})"
                )
            allowed += same
        kept &= np.isin(column.codes, allowed)
    return kept


def perturbation_name(label: str) -> str:
    """Return the label without GEARS's ``ctrl``: ``KLF1+ctrl`` and ``ctrl+KLF1`` are ``KLF1``."""
    return "+".join(genes_of(label)) or label


def nearest_control(label: str, present: Mapping[str, int]) -> str:
    """Return a hint at the label that may be meant: a usual name, one like it, the commonest."""
    usual = [name for name in present if name.casefold() in USUAL_CONTROLS]
    if usual:
        return f", nearest: '{usual[0]}'"
    commonest = max(present, key=lambda name: present[name])
    return nearest(label, present) or f", most common label: '{commonest}'"


def _column_or_name(source: Source, name: str, parameter: str, hint: str) -> "pd.Series[Any]":
    """Return a column of obs, or for ``=name`` that name for every cell."""
    if name.startswith("="):
        if not name[1:].strip():
            raise InputError(f"{parameter} '=': no name after '='; write {hint}")
        return pd.Series(pd.Categorical([name[1:]]).repeat(len(source.cells)))
    try:
        return column_of(source, name, parameter)
    except InputError as error:
        raise InputError(f"{error} ({hint})") from None


def _renamed(column: "pd.Series[Any]", names: Mapping[str, str]) -> "pd.Categorical[str]":
    """Rename labels, of which several may become one, without a string a cell."""
    category = pd.Categorical(column).remove_unused_categories()
    renamed = [names[str(label)] for label in category.categories]
    merged = sorted(set(renamed))
    number = {name: i for i, name in enumerate(merged)}
    code = np.array([number[name] for name in renamed], dtype=np.int64)
    return pd.Categorical.from_codes(code[category.codes], pd.Index(merged))


def _check_controls(source: Source, obs: pd.DataFrame) -> None:
    controls = obs.groupby("cell_line", observed=True)["is_control"].sum()
    without = [str(line) for line in controls.index[controls == 0]]
    if without:
        raise InputError(
            f"{source.name}: no control cells in cell line {shortlist(without)} after filtering; "
            f"every line needs controls, leave the line out with obs_filter or give its controls"
        )


def _label_counts(column: "pd.Series[Any]") -> dict[str, int]:
    counts = pd.Categorical(column).remove_unused_categories().value_counts()
    return {str(label): int(n) for label, n in counts.items() if n}


def _names(source: Source, present: Iterable[str], control: str, column: str) -> dict[str, str]:
    """Return label -> name; every name but the control's has a gene."""
    if control != CONTROL and CONTROL in present:
        raise InputError(
            f"{source.name}: column '{column}' has both '{control}' and '{CONTROL}'; only one can "
            f"be the control, leave the other out with obs_filter or rename it"
        )
    names = {label: perturbation_name(label) for label in present} | {control: CONTROL}
    for label, name in names.items():
        if name != CONTROL and not genes_of(name):
            raise InputError(
                f"{source.name}: label '{label}' in column '{column}' names no gene; if it is a "
                f"control, set the control label"
            )
    return names


def labels_of(
    source: Source,
    *,
    perturbation_column: str,
    cell_line_column: str,
    control: str,
    batch_column: str,
    obs_filter: Mapping[str, Any],
) -> Labels:
    """Return what each cell is; cells without a perturbation or line are left out and counted.

    Raises:
        InputError: missing column, unknown filter value, nothing left, no such control label, or
            a line without control cells.
    """
    perturbation = _column_or_name(
        source, perturbation_column, "perturbation_column", f"'={control}' if all are controls"
    )
    line = _column_or_name(
        source, cell_line_column, "cell_line_column", "'=jurkat' if all cells are of one line"
    )
    batch = column_of(source, batch_column, "batch_column") if batch_column else None
    passed = passing(source, obs_filter)
    labelled = (perturbation.notna() & line.notna()).to_numpy()
    kept = passed & labelled
    everywhere = _label_counts(perturbation)
    if control not in everywhere:
        raise InputError(
            f"{source.name}: no cell is labelled '{control}' in column '{perturbation_column}'"
            f"{nearest_control(control, everywhere) if everywhere else ''}; set the control label"
        )
    if not kept.any():
        raise InputError(
            f"{source.name}: no cell is left of {len(kept)}; loosen obs_filter ({dict(obs_filter)})"
        )
    names = _names(source, _label_counts(perturbation[kept]), control, perturbation_column)
    obs = pd.DataFrame(index=source.cells[kept])
    obs["perturbation"] = _renamed(perturbation[kept], names)
    obs["cell_line"] = _renamed(line[kept], {name: name for name in _label_counts(line)})
    obs["is_control"] = (obs["perturbation"] == CONTROL).to_numpy()
    if batch is not None:
        obs["batch"] = pd.Categorical(batch[kept].astype(str))
    _check_controls(source, obs)
    facts = {
        "control_label": control,
        "cells_in_source": len(kept),
        "cells_filtered_out": int((~passed).sum()),
        "cells_without_label": int((passed & ~labelled).sum()),
    }
    return Labels(kept, obs, facts)


def check_names(
    source: Source, cells: "pd.Index[str]", where: str = "the var index", hint: str = ""
) -> None:
    """Check that genes are symbols and that no gene or cell is there twice.

    Args:
        source: its genes.
        cells: names of the cells that are kept.
        where: where the genes' names come from, and
        hint: where symbols may be, both for the message.

    Raises:
        InputError: duplicates (some are named), Ensembl ids or numbers instead of symbols.
    """
    genes = pd.Index(source.genes, dtype=object)
    if len(genes) == 0:
        raise InputError(f"{source.name}: var is empty; expected one row a gene")
    for what, index in (("gene", genes), ("cell", cells)):
        double = index[index.duplicated()].unique()
        if len(double):
            raise InputError(
                f"{source.name}: {len(double)} {what} names occur more than once "
                f"({shortlist(map(str, double))}); make them unique"
            )
    for pattern, what in ((ENSEMBL, "Ensembl ids"), (r"\d+", "numbers")):
        if genes.str.fullmatch(pattern).mean() > 0.5:
            raise InputError(
                f"{source.name}: {where} holds {what} such as '{genes[0]}'; expected gene symbols"
                f"{f', {hint}' if hint else ''}"
            )


def counts_of(obs: pd.DataFrame, genes: Iterable[str]) -> dict[str, Any]:
    """Return the counts that go into the summary of a cells artifact."""
    perturbations = [str(name) for name in obs["perturbation"].cat.categories if name != CONTROL]
    perturbed = {gene for name in perturbations for gene in genes_of(name)}
    controls = obs.loc[obs["is_control"], "cell_line"].value_counts()
    return {
        "cells": len(obs),
        "lines": {str(line): int(n) for line, n in obs["cell_line"].value_counts().items()},
        "controls": {str(line): int(n) for line, n in controls.items()},
        "perturbations": len(perturbations),
        "doubles": sum(len(genes_of(name)) > 1 for name in perturbations),
        "perturbed_genes": len(perturbed),
        "perturbed_genes_not_measured": len(perturbed - set(genes)),
    }
