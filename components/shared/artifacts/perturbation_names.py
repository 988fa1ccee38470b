"""One name for one thing: how labels of perturbations and cell lines are spelt in every artifact.

Sources and parameters spell one thing in several ways: with blanks around it, as bytes, as a number
(KFP turns 1 into 1.0), a double in either order. What is compared here is what they name.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.shared.telling.addresses import hides
from components.shared.telling.errors import InputError, nearest, shortlist

BYTES_AS_TEXT = re.compile(r"""b(['"])(.*)\1""", re.DOTALL)
WHOLE = re.compile(r"([-+]?\d+)\.0+")
BETWEEN_DIGITS = re.compile(r"(?<=\d)[\W_]+(?=\d)")
PUNCTUATION = re.compile(r"(?!^-\d|-$)[^\w\0+]|_")
FILLER = "ctrl"
"""Placeholder of GEARS for the second gene of a single perturbation."""


def plain(text: str) -> str:
    """Return ``text`` without blanks at its ends, double blanks and characters not to be seen."""
    text = unicodedata.normalize("NFC", text)
    seen = (" " if c.isspace() else c for c in text)
    return " ".join("".join(c for c in seen if unicodedata.category(c)[0] != "C").split())


def text_of(value: Any) -> str:
    """Return a column's entry, or a parameter's, as text: ``1`` for 1, 1.0 and b'1'.

    A text that holds the printed form of bytes (``b'KLF1'``) is what it prints.
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bytes):
        return plain(value.decode("utf-8", errors="backslashreplace"))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = plain(str(value))
    printed = BYTES_AS_TEXT.fullmatch(text)
    return plain(printed[2]) if printed else text


def joined(genes: Iterable[str]) -> str:
    """Return the name of a perturbation of these genes: sorted, each once."""
    return "+".join(sorted(set(genes)))


def canonical_name(name: str) -> str:
    """Return the one name of what ``name`` perturbs: ``B + A`` is ``A+B``, ``A+A`` is ``A``."""
    return joined(filter(None, map(plain, name.split("+")))) or plain(name)


def is_bare(name: str) -> bool:
    """Return whether a name is made of gene symbols alone: nothing hidden, no ``ctrl``."""
    parts = name.split("+")
    return all(
        part and part == part.strip() and part != FILLER and not hides(part) for part in parts
    )


def line_key(name: str) -> str:
    """Return what names of one cell line have in common: ``K-562`` and ``k562`` are one line.

    Punctuation counts where it tells apart: between digits (``1.1`` is not ``11``), as the sign of
    a number, and as a marker's sign (``CD4+`` is not ``CD4-``).
    """
    text = plain(name).casefold()
    text = BETWEEN_DIGITS.sub("\0", WHOLE.sub(r"\1", text) if WHOLE.fullmatch(text) else text)
    return PUNCTUATION.sub("", text) or text


def line_named(given: Any, lines: Iterable[str]) -> str:
    """Return the line that a parameter means, or the parameter as text where there is none.

    Args:
        given: what the user gave; KFP may have made a number of it.
        lines: the lines there are.
    """
    lines, text = list(lines), text_of(given)
    if text in lines:
        return text
    same = [line for line in lines if line_key(line) == line_key(text)]
    return same[0] if len(same) == 1 else text


def known_line(given: Any, lines: Sequence[str], where: str) -> str:
    """Return the line that a parameter means (`line_named`), or refuse one that is not there."""
    line = line_named(given, lines)
    if line not in lines:
        raise InputError(
            f"{where}: cell line '{line}' is not in the cells{nearest(line, lines)}; "
            f"lines: {shortlist(lines, 12)}"
        )
    return line


def same_things(names: Iterable[str], key: Any) -> list[list[str]]:
    """Return groups of names, sorted, that are two or more names of one thing by ``key``."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def commonest(counts: Mapping[str, int]) -> str:
    """Return the name with most cells; of several the first in order."""
    return min(counts, key=lambda name: (-counts[name], name))
