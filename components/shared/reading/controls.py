"""Which labels are the controls', and which look like it."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from os.path import commonprefix
from typing import Any

import numpy as np

from components.shared.artifacts.perturbation_names import text_of
from components.shared.telling.errors import InputError, nearest, shortlist

_WORDS = (
    r"non[-_ .]?target(?:ing|ed)?|no[-_ .]?target|safe[-_ .]?(?:harbou?r|target(?:ing|ed)?)|"
    r"(?:neg(?:ative)?|pos(?:itive)?|non[-_ .]?targeting)?[-_ .]?(?:controls?|ctrl|ctl)|negative|"
    r"ntc|scrambled?|mock|dmso|vehicle|unperturbed|untreated|untransduced|wild[-_ .]?type|"
    r"luciferase|lacz|e?gfp|intergenic"
)
_SUFFIX = r"(?:[-_ .#:]*(?:sgrna|grna|guide|sg|g|rep)?[-_ .#:]*\d{0,6}(?:[-_ .#:]+[^\W_]+)*)"
_GUIDE = r"(?:(?:sgrna|grna|sg)[-_ .]?)?"
_SHORT = r"(?:nt|wt|scr|neg)(?:[-_ .#:]+[^\W_]+)*|(?:nt|neg)\d+"
LOOKS = re.compile(rf"{_GUIDE}(?:{_WORDS}){_SUFFIX}|{_SHORT}")
"""Short words need a separator: WT1 and NT5E are genes."""


def looks_like_control(label: str) -> bool:
    """Return whether a label, which is no measured gene's, reads like a control's: ``NT-1``."""
    return LOOKS.fullmatch(label.casefold()) is not None


def as_labels(given: Any) -> str | list[str]:
    """Return a parameter that names labels, a text or a list, with numbers in it as text."""
    if isinstance(given, str):
        return given
    return [text_of(entry) for entry in given] if np.iterable(given) else text_of(given)


def entries_of(given: str | Sequence[str], present: Collection[str]) -> list[str]:
    """Return the labels and patterns that a parameter names: a list, or a text with commas."""
    if not isinstance(given, str):
        return [text_of(entry) for entry in given]
    whole = text_of(given)
    return [whole] if whole in present else [text_of(part) for part in given.split(",")]


def matching(entry: str, present: Iterable[str]) -> list[str]:
    """Return the labels that are ``entry``, or where none is and it has a * or ?, fit it."""
    present = list(present)
    if entry in present:
        return [entry]
    return [x for x in present if fnmatchcase(x, entry)] if re.search(r"[*?]", entry) else []


def pattern_of(labels: Collection[str], present: Iterable[str]) -> str:
    """Return what ``control_label`` must be to mean these labels: a pattern, or all of them."""
    prefix = commonprefix(list(labels))  # noqa: RUF071  of letters, not of folders
    fits = {label for label in present if label.startswith(prefix)}
    if len(labels) > 1 and len(prefix) > 1 and fits == set(labels):
        return f"{prefix}*"
    return ", ".join(list(labels)[:5]) + (", …" if len(labels) > 5 else "")


def controls_among(
    given: str | Sequence[str],
    present: Mapping[str, int],
    genes: Collection[str],
    where: str,
    *,
    missing: int,
    optional: bool,
) -> frozenset[str]:
    """Return the labels among ``present`` (with their cells) that ``given`` means as the controls.

    No hint proposes one of the measured ``genes``. So many cells are ``missing`` a label; where
    they are the controls, others are ``optional``. A pattern must not take genes for controls.
    """
    found: set[str] = set()
    for entry in entries_of(given, present):
        fits = matching(entry, present)
        if not fits and not optional:
            raise InputError(
                f"{where}: no cell is labelled '{entry}'{_hint(entry, present, genes, missing)}"
            )
        if len(fits) > 1 and (taken := [label for label in fits if label in genes]):
            raise InputError(
                f"{where}: control label '{entry}' takes measured genes for controls "
                f"({shortlist(taken)}); give a narrower pattern"
            )
        found.update(fits)
    return frozenset(found)


def _hint(label: str, present: Mapping[str, int], genes: Collection[str], missing: int) -> str:
    """Return what may be meant and what to set; a gene is never proposed as the control."""
    others = {name: n for name, n in present.items() if name not in genes}
    usual = [name for name in others if looks_like_control(name)]
    if len(usual) > 1:
        return (
            f", but labels that look like controls are {shortlist(usual)}; "
            f"set control_label '{pattern_of(usual, present)}'"
        )
    if usual:
        return f", nearest: '{usual[0]}'; set control_label to it"
    if missing:
        return (
            f", and {missing} cells have no label: if they are the controls, set "
            "missing_is_control in ingest_options"
        )
    if not others:
        return ", and every label is a measured gene; set perturbation_column to one with controls"
    near = nearest(label, others) or f" (labels: {shortlist(others)})"
    return f"{near}; set control_label, or perturbation_column to one with controls"
