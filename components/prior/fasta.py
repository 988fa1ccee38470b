"""Protein sequences by gene symbol, from a FASTA file, gzipped or not.

The gene of a record is what follows `GN=` in its header (UniProt) or `gene_symbol:` (Ensembl), else
the header's first word. Of several records of a gene one is taken: reviewed ones (`>sp|`) before
others, canonical sequences before isoforms (`P04637-2`), then the longest, then the first by name.
Records of another organism than human (UniProt's `OX=`) and UniProt's records that name no gene are
left out.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from components.shared.telling.errors import InputError, refusing

HUMAN = "9606"
MOST_RESIDUES = 500_000_000
LONGEST_LINE = 2**20
"""Bounds of memory; all human proteins of UniProt with isoforms have about 80 million letters."""
UNIPROT = re.compile(r"(sp|tr)\|([^|\s]+)\|")
RESIDUES = re.compile(r"[A-Z]+")


@dataclass
class Proteins:
    """One sequence a gene."""

    sequences: dict[str, str]
    """Gene symbol to residues, upper case."""
    facts: dict[str, int]
    """Counts for `prior.json`."""
    uniprot: bool
    """Whether every record is in UniProt's form."""


class _Record(NamedTuple):
    gene: str
    """Symbol of the gene, empty if UniProt knows none."""
    is_foreign: bool
    is_uniprot: bool
    rank: tuple[bool, bool, int, str]
    """Sorts the record to take first."""
    sequence: str


def read_fasta(path: Path, name: str) -> Proteins:
    """Read protein sequences, one per gene, of FASTA; messages call the file ``name``.

    Raises:
        InputError: no FASTA, residues that are not letters, no gene at all, or too large a file.
    """
    best: dict[str, _Record] = {}
    several: set[str] = set()
    records = foreign = nameless = from_uniprot = 0
    for record in _records(path, name):
        records += 1
        from_uniprot += record.is_uniprot
        if record.is_foreign:
            foreign += 1
        elif not record.gene:
            nameless += 1
        else:
            known = best.get(record.gene)
            if known:
                several.add(record.gene)
            if not known or record.rank < known.rank:
                best[record.gene] = record
    if not best:
        raise InputError(f"{name}: has no protein of a human gene; expected >header, then residues")
    facts = {
        "proteins": records,
        "genes_with_several_proteins": len(several),
        "proteins_of_other_organisms": foreign,
        "proteins_without_gene": nameless,
    }
    sequences = {gene: record.sequence for gene, record in best.items()}
    return Proteins(sequences, facts, from_uniprot == records)


def _records(path: Path, name: str) -> Iterator[_Record]:
    header: str | None = None
    parts: list[str] = []
    for line in _lines(path, name):
        if line.startswith(">"):
            if header is not None:
                yield _record(header, parts, name)
            header, parts = line[1:].strip(), []
        elif line.strip():
            if header is None:
                raise InputError(f"{name}: begins with '{line[:20].strip()}'; expected FASTA")
            parts.append(line.strip())
    if header is not None:
        yield _record(header, parts, name)


def _record(header: str, parts: list[str], name: str) -> _Record:
    sequence = "".join(parts).upper().removesuffix("*")
    if not RESIDUES.fullmatch(sequence):
        why = "has no residues" if not sequence else "has residues that are not letters A to Z"
        raise InputError(f"{name}: record '{header[:60]}' {why}; correct or remove it")
    found = UNIPROT.match(header)
    said = re.search(r"(?:\sGN=|\sgene_symbol:)(\S+)", header)
    gene = said[1] if said else "" if found else (header.split() or [""])[0]
    organism = re.search(r"\sOX=(\d+)", header)
    called = found[2] if found else header
    reviewed, isoform = bool(found and found[1] == "sp"), bool(found and "-" in called)
    rank = (not reviewed, isoform, -len(sequence), called)
    return _Record(gene, bool(organism and organism[1] != HUMAN), bool(found), rank, sequence)


def _lines(path: Path, name: str) -> Iterator[str]:
    size = 0
    faults = (OSError, EOFError, zlib.error)
    with refusing(faults, f"{name}: cannot be read"), closing(_opened(path)) as file:
        while line := file.readline(LONGEST_LINE):
            size += len(line)
            if size > MOST_RESIDUES:
                raise InputError(f"{name}: holds over {MOST_RESIDUES:,} letters; give fewer")
            yield line.decode("ascii", "replace")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_gzip else path.open("rb")  # type: ignore[return-value]
