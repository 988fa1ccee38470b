"""From a perturbation column's labels to names: genes sorted, each once, without fillers."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import FILLER, commonest, joined, plain
from components.shared.reading.controls import looks_like_control

JOINT = "+"
MISSING = frozenset(
    ("", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "nil", "missing", "no label")
)
"""Texts, in small letters, that stand for a missing label."""
NOTHING = MISSING.union(
    ["unassigned", "not assigned", "unknown", "undetermined", "undefined", "unmapped"],
    ["unlabelled", "unlabeled", "nothing", "noguide", "no guide", "no guides", "no sgrna"],
    ["no grna", "nocall", "no call", "not available", "ambiguous", "mixed", "multiple"],
    ["multiple guides", "multiple grnas", "multiple sgrnas", "multi", "multiplet", "multiplets"],
    ["doublet", "doublets", "several", "tbd"],
)
"""Texts that name no perturbation: no guide was found, or several."""


def is_missing(label: str) -> bool:
    """Return whether a label is a text for a missing one: ``nan``, ``None``, empty."""
    return label.casefold() in MISSING


def means_nothing(label: str) -> bool:
    """Return whether a label names no perturbation: ``nan``, ``multiple``, ``*``."""
    words = re.sub(r"[-_ ]+", " ", label.casefold()).strip()
    return is_missing(label) or words in NOTHING or not any(map(str.isalnum, label))


def cut(label: str, separators: Collection[str], known: Collection[str]) -> list[str]:
    """Return the parts of a label, longest known name first: ``HLA-A-KLF1`` is HLA-A and KLF1."""
    if label in known:
        return [label]
    between = re.compile("|".join(re.escape(mark) for mark in separators))
    ends = [(found.start(), found.end()) for found in between.finditer(label)]
    for stop, after in reversed(ends):
        if plain(label[:stop]) in known:
            return [plain(label[:stop]), *cut(plain(label[after:]), separators, known)]
    if not ends:
        return [label]
    stop, after = ends[0]
    return [plain(label[:stop]), *cut(plain(label[after:]), separators, known)]


@dataclass(frozen=True)
class Reader:
    """Reads labels of one column."""

    genes: frozenset[str]
    """The measured ones."""
    controls: frozenset[str]
    """Labels of controls."""
    separator: str = ""
    """Separator of two genes, in addition to a plus sign; empty = none."""
    missing_is_control: bool = False
    left_out: frozenset[str] = frozenset()
    """Labels whose cells are not wanted."""

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        """Measured genes by their letters in small, where these are one gene's alone."""
        found: dict[str, str] = {}
        for gene in self.genes:
            key = gene.casefold()
            found[key] = "" if key in found else gene
        return {key: gene for key, gene in found.items() if gene}

    def parts(self, label: str) -> list[str]:
        """Return what a label is put together from, fillers among it."""
        separators = {JOINT, self.separator} - {""}
        return cut(label, separators, self.genes | self.controls)

    def is_filler(self, part: str) -> bool:
        """Return whether a part stands for no second gene: ``ctrl``, the control, ``NT-1``."""
        if part in self.controls or part in (CONTROL, FILLER):
            return True
        return part not in self.genes and (looks_like_control(part) or is_missing(part))

    def spelt(self, gene: str) -> str:
        """Return a gene as the var index spells it, where letters' case alone differs."""
        return gene if gene in self.genes else self._by_fold.get(gene.casefold(), gene)

    def genes_of(self, label: str) -> tuple[str, ...] | None:
        """Return the genes that a label names, none for a control; None if it names nothing."""
        if label in self.controls:
            return ()
        if label in self.left_out:
            return None
        parts = self.parts(label)
        if label not in self.genes and (means_nothing(label) or all(map(is_missing, parts))):
            return () if self.is_control(label) else None
        unclear = [part for part in parts if part not in self.genes and not self.is_filler(part)]
        if any(means_nothing(part) for part in unclear):
            return None
        return tuple(self.spelt(part) for part in parts if not self.is_filler(part))

    def is_control(self, label: str) -> bool:
        """Return whether a label without genes is one of the controls', or missing as they are."""
        parts = self.parts(label)
        missing = self.missing_is_control and all(map(is_missing, parts))
        return missing or any(part in self.controls for part in parts)


Names = Mapping[str, str | None]
"""Label to name; None: its cells are left out."""


def names_of(counts: Mapping[str, int], reader: Reader) -> tuple[Names, list[str]]:
    """Return the names of labels, and the labels without a gene that are not the controls'."""
    read = {label: reader.genes_of(label) for label in counts}
    spelling = _spellings(read, counts, reader.genes)
    names: dict[str, str | None] = {}
    like_controls = []
    for label, genes in read.items():
        if genes:
            names[label] = joined(spelling.get(gene, gene) for gene in genes)
        elif genes is None or reader.is_control(label):
            names[label] = None if genes is None else CONTROL
        else:
            like_controls.append(label)
    return names, like_controls


def _spellings(
    read: Mapping[str, Iterable[str] | None], counts: Mapping[str, int], measured: Collection[str]
) -> dict[str, str]:
    """Return one spelling, that of most cells, of genes that differ by letters' case alone."""
    by_fold: dict[str, dict[str, int]] = {}
    for label, genes in read.items():
        for gene in genes or ():
            if gene not in measured:
                found = by_fold.setdefault(gene.casefold(), {})
                found[gene] = found.get(gene, 0) + counts[label]
    return {gene: commonest(found) for found in by_fold.values() for gene in found}


def one_name_each(counts: Mapping[str, int], measured: Collection[str]) -> dict[str, str]:
    """Return names of perturbations of several sources with what each is called in all of them.

    Genes that differ by letters' case alone are one: as a source measures it, else as most cells
    have it. ``counts`` has the cells of each name, ``measured`` the genes of all sources.
    """
    reader = Reader(frozenset(measured), frozenset([CONTROL]))
    read = {name: tuple(map(reader.spelt, genes_of(name))) for name in counts}
    spelling = _spellings(read, counts, measured)
    return {
        name: joined(spelling.get(gene, gene) for gene in genes) if genes else name
        for name, genes in read.items()
    }
