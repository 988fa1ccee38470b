"""Genes under other names: old symbols, synonyms and Ensembl ids, matched without guessing."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.shared.storage.columns import read_columns
from components.shared.telling.errors import InputError

SYMBOL = "symbol"
OTHER_NAMES = ("alias", "alias_symbol", "prev_symbol", "ensembl_id", "ensembl_gene_id")
"""Columns of other names, as in HGNC's complete set: several in a field have | between."""


@dataclass(frozen=True)
class Aliases:
    """Other names of genes and what they may stand for."""

    symbols: frozenset[str] = frozenset()
    """Approved symbols; each stands for itself, whatever else uses it as an alias."""
    meanings: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Other name to the symbols it was used for."""


@dataclass(frozen=True)
class Match:
    """Which name of a table belongs to which gene of the vocabulary."""

    gene_of: dict[str, str]
    """Name in the table to gene of the vocabulary; no gene comes twice."""
    by_alias: dict[str, str]
    """The part of `gene_of` that another name led to."""
    ambiguous: list[str]
    """Names that are left out because they may mean several genes, or share one with others."""


def read_aliases(path: Path, name: str) -> Aliases:
    """Read a table of other names; messages call it ``name``.

    It is csv, tsv or parquet (see `columns`), with the column `symbol` and one or more of
    OTHER_NAMES.

    Raises:
        InputError: another format, or none of these columns.
    """
    columns = read_columns(path, name, (SYMBOL,), optional=OTHER_NAMES)
    others = [column for column in OTHER_NAMES if column in columns]
    if not others:
        raise InputError(f"{name}: has no column of other names; expected {', '.join(OTHER_NAMES)}")
    symbols = frozenset(filter(None, columns[SYMBOL]))
    meanings: dict[str, set[str]] = defaultdict(set)
    for column in others:
        for symbol, text in zip(columns[SYMBOL], columns[column], strict=True):
            for alias in map(str.strip, text.strip('"').split("|")):
                if symbol and alias and alias not in symbols:
                    meanings[alias].add(symbol)
    return Aliases(symbols, {alias: frozenset(found) for alias, found in meanings.items()})


def match(names: Iterable[str], genes: Collection[str], aliases: Aliases) -> Match:
    """Match the names of a table to the genes of a vocabulary.

    A name that is in the vocabulary means that gene. Of the others, a name and a gene belong
    together when both stand for the same approved symbol, and no other name without a gene and no
    other gene without a name does. Either may be the old name.
    """
    names = list(names)
    exact = {name: name for name in names if name in genes}
    left = defaultdict(list)
    ambiguous = []
    for name in names:
        if name not in exact:
            meanings = meanings_of(name, aliases)
            if len(meanings) > 1:
                ambiguous.append(name)
            else:
                left[next(iter(meanings))].append(name)
    free = defaultdict(list)
    taken = {next(iter(meanings)) for n in exact if len(meanings := meanings_of(n, aliases)) == 1}
    for gene in genes:
        meanings = meanings_of(gene, aliases)
        if gene not in exact and len(meanings) == 1:
            free[next(iter(meanings))].append(gene)
    by_alias = {}
    for symbol, found in left.items():
        if symbol in free and symbol not in taken:
            if len(found) == len(free[symbol]) == 1:
                by_alias[found[0]] = free[symbol][0]
            else:
                ambiguous += found
    return Match(exact | by_alias, by_alias, sorted(ambiguous))


def meanings_of(name: str, aliases: Aliases) -> frozenset[str]:
    """Return the approved symbols that a name may stand for; itself if nothing is known of it."""
    if name in aliases.symbols:
        return frozenset({name})
    if name.startswith("ENSG"):
        name = name.partition(".")[0]
    return aliases.meanings.get(name, frozenset({name}))
