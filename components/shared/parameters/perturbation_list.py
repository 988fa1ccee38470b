"""Which perturbations are requested: named one by one, or listed in a file."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import canonical_name
from components.shared.storage.documents import read_text
from components.shared.storage.downloads import shown
from components.shared.storage.files import SHA256, fetched
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, refusing

ENDINGS = (".txt", ".csv", ".tsv")
HEADERS = ("perturbation", "perturbations", "gene", "genes", "target_gene", "symbol")
"""Titles that the first line of a list may have; no gene has one of these names."""
LONGEST = 200
"""Characters of a label; a double of two long symbols has 30."""
MOST = 100_000
"""Perturbations in one run: more than all pairs that screens have tried."""


def read_perturbations(given: str | Sequence[str]) -> list[str]:
    """Return the perturbations that a parameter names, each once, in the order given.

    They are labels such as ``MYC`` or ``KLF1+MAP2K6``; or paths or URIs of text or csv files with
    one per line (of a table the first column; a title such as ``gene`` and lines that begin with #
    are left out). A single string is one of either.

    Raises:
        InputError: a file that cannot be read, or a label that cannot be one.
    """
    entries = [given] if isinstance(given, str) else given
    labels: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise InputError(
                f"perturbations: {entry!r} is not text; expected gene symbols such as MYC, A+B for "
                "two at once, or a file that lists them"
            )
        if names_a_file(entry):
            with fetched(entry) as path:
                labels += _listed(path, shown(entry))
        elif entry.strip():
            labels.append(canonical(entry, "perturbations"))
    found = list(dict.fromkeys(labels))
    if len(found) > MOST:
        raise InputError(f"perturbations: {len(found):,} requested; expected at most {MOST:,}")
    return found


def names_a_file(entry: str) -> bool:
    """Tell the path or URI of a list from a label: by a scheme, a slash or its ending."""
    bare = entry.partition(SHA256)[0].partition("?")[0].partition("@")[0]
    return bool(scheme_of(entry)) or "/" in bare or PurePosixPath(bare).suffix.lower() in ENDINGS


def canonical(label: str, where: str) -> str:
    """Return a label without blanks around its genes, which are sorted, each once.

    Raises:
        InputError: it names no gene, is the control's, is too long, or holds characters that are
            not to be seen.
    """
    text = canonical_name(label)
    hidden = any(unicodedata.category(character).startswith("C") for character in label)
    if not genes_of(text) or text == CONTROL or len(text) > LONGEST or hidden:
        raise InputError(
            f"{where}: {label[:60]!r} is not a perturbation; expected a gene symbol such as "
            "MYC, or A+B for two at once"
        )
    return text


def _listed(path: Path, name: str) -> list[str]:
    text = read_text(path, name, "expected one perturbation per line")
    between = "\t" if "\t" in text else ","
    lines = filter(str.strip, text.splitlines())
    with refusing(csv.Error, f"{name}: is not a list", "; expected one per line"):
        # Each line by itself: a quotation mark that is not closed would take the next ones too.
        rows = [next(csv.reader([line], delimiter=between, strict=True)) for line in lines]
    if len(rows) == 1 and len(rows[0]) > 1:
        raise InputError(f"{name}: has {len(rows[0])} fields in its only line; expected one a line")
    first = [row[0].strip() for row in rows if row[0].strip()]
    labels = [label for label in first if not label.startswith("#")]
    if labels and labels[0].lower() in HEADERS:
        del labels[0]
    if not labels:
        raise InputError(f"{name}: lists no perturbation; expected one per line")
    return [canonical(label, name) for label in labels]
