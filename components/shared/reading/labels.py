"""From a source's own columns to perturbation, cell_line, is_control and batch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import commonest, is_bare, line_key, text_of
from components.shared.reading.controls import as_labels, controls_among, entries_of, matching
from components.shared.reading.doubts import (
    ENSEMBL,
    NAMED,
    check_doubles,
    check_doubts,
    check_like_controls,
)
from components.shared.reading.names import Reader, is_missing, names_of, one_name_each
from components.shared.reading.source import Reading, Source
from components.shared.reading.tables import Tables
from components.shared.telling.addresses import hides
from components.shared.telling.errors import InputError, nearest, shortlist

MOST_LISTED = 50


@dataclass(frozen=True)
class Labels:
    """Which cells are kept and what they are."""

    kept: NDArray[np.bool_]
    """Shape [cells of the source]."""
    obs: pd.DataFrame
    """One row a kept cell: perturbation, cell_line, is_control and, if requested, batch."""
    facts: dict[str, Any] = field(default_factory=dict)
    spellings: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Column to name to what the source calls it, where that is not the name alone."""
    said: list[str] = field(default_factory=list)
    """Notes on the labels for the user."""


def column_of(source: Source, name: str, parameter: str) -> "pd.Series[Any]":
    """Return a column of obs; one that is not there is refused with the nearest."""
    if not source.columns:
        raise InputError(f"{source.name}: obs has no column '{name}', nor any other")
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
        present = [text_of(value) for value in column.categories]
        allowed = []
        for value in wanted if isinstance(wanted, list) else [wanted]:
            text = text_of(value)
            # 2 is also meant where the column holds 2.0, or '2'.
            same = [i for i, v in enumerate(column.categories) if v == value or present[i] == text]
            if not same:
                raise InputError(
                    f"{source.name}: obs_filter: no cell has '{value}' in column '{name}'"
                    f"{nearest(text, present)} (values: {shortlist(present)})"
                )
            allowed += same
        kept &= np.isin(column.codes, allowed)
    return kept


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


def _check_seen(texts: Iterable[Any], where: str) -> None:
    """Check that texts hold nothing that steers a terminal or turns the direction of text."""
    if hidden := [text for text in texts if isinstance(text, str) and hides(text)]:
        raise InputError(
            f"{where}: {shortlist(hidden)} has control characters, such as a newline or a mark of "
            "direction; clean the names, as in text.replace('\\n', ' ')"
        )


def _as_text(column: "pd.Series[Any]") -> "pd.Categorical[str]":
    """Return a column as text, one category a text, without a string a cell; code -1 = missing."""
    category = pd.Categorical(column).remove_unused_categories()
    return _merged(category, [text_of(label) for label in category.categories])


def _merged(
    category: "pd.Categorical[Any]", names: "list[str] | list[str | None]"
) -> "pd.Categorical[str]":
    """Give categories other names, of which several may become one, and None is missing."""
    merged = sorted({name for name in names if name is not None})
    number: dict[str | None, int] = {name: i for i, name in enumerate(merged)} | {None: -1}
    code = np.array([*(number[name] for name in names), -1], dtype=np.int64)
    return pd.Categorical.from_codes(code[category.codes], pd.Index(merged, dtype=object))


def _check_controls(source: Source, obs: pd.DataFrame) -> None:
    controls = obs.groupby("cell_line", observed=True)["is_control"].sum()
    without = [str(line) for line in controls.index[controls == 0]]
    if without:
        raise InputError(
            f"{source.name}: no control cells in cell line {shortlist(without)} after filtering; "
            f"every line needs controls, leave the line out with obs_filter or give its controls"
        )


def _label_counts(column: "pd.Categorical[str]") -> dict[str, int]:
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.categories))
    found = zip(column.categories, counts.tolist(), strict=True)
    return {str(label): n for label, n in sorted(found, key=lambda item: -item[1]) if n}


def _line_names(counts: Mapping[str, int]) -> dict[str, str | None]:
    """Return label -> line: of spellings that differ by case or punctuation that of most cells."""
    by_key: dict[str, dict[str, int]] = {}
    for label, n in counts.items():
        by_key.setdefault(line_key(label), {})[label] = n
    names: dict[str, str | None] = {
        label: commonest(found) for found in by_key.values() for label in found
    }
    return names | {label: None for label in counts if is_missing(label)}


def with_one_name_each(obs: pd.DataFrame, measured: Collection[str]) -> pd.DataFrame:
    """Return `obs` of several sources with one spelling of each cell line and perturbation.

    Lines are spelt as most cells have it; perturbations see `one_name_each`.
    """
    line = pd.Categorical(obs["cell_line"])
    lines = _line_names(_label_counts(line))
    perturbation = pd.Categorical(obs["perturbation"])
    named = one_name_each(_label_counts(perturbation), measured)
    return obs.assign(
        cell_line=_merged(line, [lines.get(str(x)) for x in line.categories]),
        perturbation=_merged(perturbation, [named.get(str(x)) for x in perturbation.categories]),
    )


def _other_spellings(raw: "pd.Series[Any]", named: "pd.Categorical[str]") -> dict[str, list[str]]:
    """Return name -> what the source calls it, where it spells it otherwise or several ways."""
    category = pd.Categorical(raw)
    pairs = pd.DataFrame({"raw": category.codes, "name": named.codes}).drop_duplicates()
    found: dict[str, set[str]] = {}
    for code, name in pairs.itertuples(index=False):
        if code >= 0 and name >= 0:
            label = category.categories[code]
            shown = label if isinstance(label, str) else str(text_of(label))
            found.setdefault(str(named.categories[name]), set()).add(shown)
    return {name: sorted(labels) for name, labels in sorted(found.items()) if labels != {name}}


def _columns_with_genes(source: Source, other_than: str) -> dict[str, str]:
    """Return the columns of obs most of whose values are measured genes, with one of them."""
    genes, found = set(source.genes), {}
    for name in source.columns:
        if name != other_than and not pd.api.types.is_float_dtype(column := source.column(name)):
            labels = [text_of(label) for label in pd.Categorical(column).categories[:1000]]
            known = [label for label in labels if label in genes]
            if 2 * len(known) > len(labels):
                found[name] = known[0]
    return found


def _named(
    source: Source,
    column: "pd.Categorical[str]",
    kept: NDArray[np.bool_],
    reader: Reader,
    name: str,
) -> "tuple[pd.Categorical[str], list[str]]":
    """Return the perturbation of every cell, code -1 = none, and what is to be said of them."""
    where = f"{source.name}: column '{name}'"
    names, like_controls = names_of(_label_counts(column[kept]), reader)
    check_like_controls(like_controls, names, reader.controls, where)
    check_doubles(names, reader, where)
    if loose := [label for label, found in names.items() if found and not is_bare(found)]:
        raise InputError(
            f"{where}: {shortlist(loose)} is not made of gene symbols; expected a symbol, or A+B"
        )
    said = check_doubts(names, reader.genes, lambda: _columns_with_genes(source, name), where)
    named = _merged(column, [names.get(str(label)) for label in column.categories])
    if reader.missing_is_control:
        named = named if CONTROL in named.categories else named.add_categories([CONTROL])
        named[column.codes < 0] = CONTROL
        named = named.reorder_categories(sorted(named.categories))
    return named, said


def labels_of(source: Source, how: Reading) -> Labels:
    """Return what each cell is; cells without a perturbation or line are left out and counted.

    A line without control cells, and labels that are not what they would be taken for, are refused.
    """
    how = replace(how, control=as_labels(how.control))
    raw, raw_line, raw_batch = _columns(source, how)
    own, control = how.perturbation_column, how.control
    if own.startswith("="):
        control = _control_of_all(source, own, control)
    passed = passing(source, how.obs_filter)
    perturbation, line = _as_text(raw), _as_text(raw_line)
    reader = _reader(source, how, control, perturbation)
    if not passed.any():
        raise InputError(
            f"{source.name}: no cell is left of {len(passed)}; loosen obs_filter "
            f"({dict(how.obs_filter)})"
        )
    named, said = _named(source, perturbation, passed, reader, own)
    lines = _line_names(_label_counts(line[passed]))
    line_named = _merged(line, [lines.get(str(label)) for label in line.categories])
    labelled = (named.codes >= 0) & (line_named.codes >= 0)
    kept = passed & labelled
    if not kept.any():
        raise InputError(
            f"{source.name}: no cell is left of {len(kept)} that has a perturbation and a line; "
            f"check '{own}', '{how.cell_line_column}' and obs_filter"
        )
    obs = pd.DataFrame(index=source.cells[kept])
    obs["perturbation"] = named[kept].remove_unused_categories()
    obs["cell_line"] = line_named[kept].remove_unused_categories()
    obs["is_control"] = (obs["perturbation"] == CONTROL).to_numpy()
    if raw_batch is not None:
        obs["batch"] = pd.Categorical(_as_text(raw_batch[kept]).astype(object).astype(str))
    _check_controls(source, obs)
    spellings = {
        "perturbation": _other_spellings(raw[kept], obs["perturbation"].array),
        "cell_line": _other_spellings(raw_line[kept], obs["cell_line"].array),
    }
    dropped = _label_counts(perturbation[passed & (named.codes < 0)])
    facts = {
        "control_label": _said(how.control),
        "control_labels": sorted(reader.controls),
        "cells_in_source": len(kept),
        "cells_filtered_out": int((~passed).sum()),
        "cells_without_label": int((passed & ~labelled).sum()),
        "cells_without_label_by_text": dict(list(dropped.items())[:MOST_LISTED]),
        "other_spellings": {what: len(found) for what, found in spellings.items()},
    }
    return Labels(kept, obs, facts, spellings, [*said, *_told(spellings, dropped)])


def _columns(
    source: Source, how: Reading
) -> "tuple[pd.Series[Any], pd.Series[Any], pd.Series[Any] | None]":
    """Return what a source itself says of each cell's perturbation, line and batch.

    The texts are checked for what no name has.
    """
    own, of_line, batch = how.perturbation_column, how.cell_line_column, how.batch_column
    hint = f"'={_said(how.control)}' if all are controls"
    raw = _column_or_name(source, own, "perturbation_column", hint)
    hint = "'=jurkat' if all cells are of one line"
    raw_line = _column_or_name(source, of_line, "cell_line_column", hint)
    raw_batch = column_of(source, batch, "batch_column") if batch else None
    for name, column in ((own, raw), (of_line, raw_line), (batch, raw_batch)):
        if column is not None:
            _check_seen(pd.Categorical(column).categories, f"{source.name}: column '{name}'")
    return raw, raw_line, raw_batch


def _said(control: str | Sequence[str]) -> str:
    return control if isinstance(control, str) else ", ".join(control)


def _reader(
    source: Source, how: Reading, control: str | Sequence[str], column: "pd.Categorical[str]"
) -> Reader:
    """Return what reads perturbations, with the labels that are controls and those left out."""
    everywhere = _label_counts(column)
    where = f"{source.name}: column '{how.perturbation_column}'"
    genes = frozenset(source.genes)
    missing = int((column.codes < 0).sum()) + sum(
        n for label, n in everywhere.items() if is_missing(label)
    )
    controls = controls_among(
        control, everywhere, genes, where, missing=missing, optional=how.missing_is_control
    )
    if how.missing_is_control and not missing:
        raise InputError(
            f"{where}: missing_is_control is set, but every cell has a label; leave it out"
        )
    if controls and CONTROL in everywhere and CONTROL not in controls:
        said = _said(how.control)
        raise InputError(
            f"{where} has both '{said}' and '{CONTROL}'; give both as control_label "
            f"('{said}, {CONTROL}'), or one in left_out of ingest_options"
        )
    unwanted = _left_out(how.left_out, everywhere, where)
    return Reader(genes, controls, how.label_separator, how.missing_is_control, unwanted)


def _control_of_all(source: Source, column: str, control: str | Sequence[str]) -> str:
    """Return the name of all cells in a perturbation column ``=name``, which must be a control."""
    name = text_of(column[1:])
    entries = entries_of(control, [name])
    if not any(matching(entry, [name]) for entry in [*entries, CONTROL]):
        raise InputError(
            f"{source.name}: perturbation_column '{column}' makes perturbed cells of all, and "
            f"every line needs controls; write '={entries[0] or CONTROL}' if all are controls"
        )
    return name


def _left_out(entries: Sequence[str], present: Collection[str], where: str) -> frozenset[str]:
    """Return the labels that are not wanted."""
    found: list[str] = []
    for entry in map(text_of, entries):
        fits = matching(entry, present)
        if not fits:
            raise InputError(
                f"{where}: left_out: no cell is labelled '{entry}'{nearest(entry, present)}"
            )
        found += fits
    return frozenset(found)


def _told(
    spellings: Mapping[str, Mapping[str, list[str]]], dropped: Mapping[str, int]
) -> list[str]:
    """Return what is to be said of names that the source spells otherwise, and of texts."""
    said = []
    for what, found in spellings.items():
        shown = [
            f"{shortlist(labels, 3)} {'is' if len(labels) == 1 else 'are'} '{name}'"
            for name, labels in sorted(found.items(), key=lambda item: -len(item[1]))
        ]
        if shown:
            more = f"; and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
            said.append(f"note: {what}: {'; '.join(shown[:NAMED])}{more}")
    if dropped:
        listed = ", ".join(f"{n} '{label}'" for label, n in list(dropped.items())[:NAMED])
        more = f" and {len(dropped) - NAMED} more" if len(dropped) > NAMED else ""
        said.append(f"note: left out, as no perturbation or not wanted: {listed}{more}")
    return said


def check_names(source: Source, cells: "pd.Index[str]") -> None:
    """Check that genes are symbols and that no gene, and no kept cell, is there twice.

    Raises:
        InputError: duplicates (some are named), Ensembl ids or numbers instead of symbols.
    """
    genes = pd.Index(source.genes, dtype=object)
    if len(genes) == 0:
        raise InputError(f"{source.name}: var is empty; expected one row per gene")
    for what, index in (("gene", genes), ("cell", cells)):
        _check_seen(index, f"{source.name}: {what} names")
        double = index[index.duplicated()].unique()
        if len(double):
            raise InputError(
                f"{source.name}: {len(double)} {what} names occur more than once "
                f"({shortlist(map(str, double))}); make them unique"
            )
    for pattern, what in ((ENSEMBL, "Ensembl ids"), (r"\d+", "numbers")):
        if genes.str.fullmatch(pattern).mean() > 0.5:
            where, hint = "the var index", ""
            if isinstance(source, Tables):
                where, hint = source.genes_said, f", {source.symbols_hint()}"
            raise InputError(
                f"{source.name}: {where} holds {what} such as '{genes[0]}'; expected gene symbols"
                f"{hint}"
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
