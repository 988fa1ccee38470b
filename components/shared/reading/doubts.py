"""Labels that are taken for genes and are not measured: what they look like, and what to do."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.reading.controls import pattern_of
from components.shared.reading.names import JOINT, Names, Reader, cut
from components.shared.telling.errors import InputError, shortlist

NAMED = 5
SEPARATORS = ("_", ",", "|", ";", "/", "&", ":", "~", " and ", "-", " ", ".")
ENSEMBL = r"ENS[A-Z]*G\d{6,}(?:\.\d+)?"
NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
SYMBOL = r"[A-Za-z][A-Za-z0-9.\-@/()']{0,39}"
"""No symbol has an underscore."""
ANTISENSE = r"(?:AS|OT|IT|DT|PS|HG)\d*"
GUIDE = r"(?:sgrna|grna|guide|sg|g)?[-_ .]?(?:\d+|[acgtACGT]{15,25}|P1|P2|P1P2)(?:[-_ .].*)?"


def looks_of(part: str, genes: Collection[str]) -> str:
    """Return what a part that is not measured looks like; empty if it can be a gene symbol."""
    if re.fullmatch(NUMBER, part, re.IGNORECASE):
        return "a number"
    if re.fullmatch(ENSEMBL, part):
        return "an Ensembl id"
    for found in re.finditer(r"[-_.|: ]", part):
        head, rest = part[: found.start()], part[found.end() :]
        loose = found[0] not in "-." and not re.fullmatch(ANTISENSE, rest)
        if head in genes and (loose or re.fullmatch(GUIDE, rest, re.IGNORECASE)):
            return f"a guide of {head}"
    bare = re.sub(r"^(?:sg|sh|si|g)[-_ ]?|[-_ ](?:sg|ko|kd|oe|KO|KD|OE)$", "", part)
    if bare != part and bare in genes:
        return f"a guide of {bare}"
    return "" if re.fullmatch(SYMBOL, part) else "no gene symbol"


def double_of(label: str, known: Collection[str], reader: Reader) -> str:
    """Return what separates genes, or a gene and a filler, in a label; empty if nothing does."""
    for mark in SEPARATORS:
        parts = cut(label, (mark,), known) if mark in label else []
        genes = [part for part in parts if part in known]
        if len(parts) > 1 and genes and all(p in known or reader.is_filler(p) for p in parts):
            return mark
    return ""


def check_like_controls(
    like_controls: Collection[str], labels: Iterable[str], controls: Collection[str], where: str
) -> None:
    """Check that no label that looks like a control is left beside the controls and others."""
    if not like_controls:
        return
    said = shortlist(sorted(controls), NAMED) if controls else "cells without a label"
    alike = [*sorted(controls), *like_controls]
    every = pattern_of(alike, {*alike, *labels})
    raise InputError(
        f"{where}: {shortlist(like_controls, NAMED)} would be taken for genes, but look like "
        f"controls, and the controls are {said}; set control_label to all of them ('{every}'), or "
        "name those to leave out in left_out of ingest_options"
    )


def check_doubles(names: Names, reader: Reader, where: str) -> None:
    """Check that no label that is taken for one gene is two known genes with a mark between.

    Raises:
        InputError: some are, and no separator was given; names them and the mark.
    """
    if reader.separator:
        return
    single = {name for name in names.values() if name and JOINT not in name}
    marks = re.compile("|".join(map(re.escape, SEPARATORS)))
    known = reader.genes | reader.controls | {name for name in single if not marks.search(name)}
    found: dict[str, list[str]] = {}
    for label, name in names.items():
        if name and name != CONTROL and name not in reader.genes:
            mark = double_of(label, known, reader)
            found.setdefault(mark, []).append(label)
    found.pop("", None)
    # A hyphen or a dot is part of many symbols: one label alone may be a gene.
    for mark in ("-", "."):
        if len(found.get(mark, ())) < 2:
            found.pop(mark, None)
    if found:
        mark = max(found, key=lambda key: len(found[key]))
        raise InputError(
            f"{where}: {shortlist(found[mark], NAMED)} would be taken for one gene each, but look "
            f"like genes, or a gene and a control, with '{mark}' between; set label_separator "
            f"'{mark}' in ingest_options, or '+' if they are single genes"
        )


def doubts_of(names: Iterable[str], genes: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the names that cannot be genes and what they look like, and those not measured."""
    doubts, unmeasured = {}, []
    for name in sorted(names):
        parts = [part for part in genes_of(name) if part not in genes]
        looks = next((found for part in parts if (found := looks_of(part, genes))), "")
        if looks:
            doubts[name] = looks
        elif parts:
            unmeasured.append(name)
    return doubts, unmeasured


def check_doubts(
    names: Names, genes: Collection[str], columns: Callable[[], Mapping[str, str]], where: str
) -> list[str]:
    """Check that most names can be genes; return what to say of those that cannot."""
    perturbations = {name for name in names.values() if name and name != CONTROL}
    doubts, unmeasured = doubts_of(perturbations, genes)
    said = []
    if doubts:
        listed = ", ".join(f"'{name}' ({looks})" for name, looks in [*doubts.items()][:NAMED])
        more = f" and {len(doubts) - NAMED} more" if len(doubts) > NAMED else ""
        text = f"{len(doubts)} of {len(perturbations)} perturbations are not genes: {listed}{more}"
        if 2 * len(doubts) > len(perturbations):
            raise InputError(f"{where}: {text}; {_advice(columns())}")
        said.append(f"WARNING: {where}: {text}; they are kept, but no model can identify them")
    if unmeasured:
        many = 2 * len(unmeasured) > len(perturbations)
        said.append(
            f"{f'WARNING: {where}' if many else 'note'}: {len(unmeasured)} of "
            f"{len(perturbations)} perturbations have a gene that is not among the measured ones: "
            f"{shortlist(unmeasured, NAMED)}" + ("; are they gene symbols?" if many else "")
        )
    return said


def _advice(columns: Mapping[str, str]) -> str:
    if columns:
        found = ", ".join(f"'{name}' (such as '{gene}')" for name, gene in columns.items())
        return f"columns of obs that hold measured genes: {found}; set perturbation_column"
    return "expected gene symbols as in the var index (A+B for two): name the column that has them"
