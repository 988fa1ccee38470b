"""A table of gene vectors, put in the order of a vocabulary's tokens."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.prior.tables import Table
from components.shared.errors import InputError, shortlist
from components.shared.progress import bar
from components.shared.vocabulary import SPECIAL_TOKENS, Vocabulary


@dataclass(frozen=True)
class Aligned:
    """Vectors by token, and how far the table reaches."""

    prior: NDArray[np.float32]
    """[tokens, width]; a row of zeros = no prior."""
    covered: int
    """Genes of the vocabulary with a vector."""
    zero_rows: int
    """Genes of both whose vector is zero, which is the same as none."""


def align(table: Table, vocabulary: Vocabulary, name: str) -> Aligned:
    """Copy each gene's vector to the row of its token; messages call the table ``name``.

    Special tokens get no prior, whatever the table says.

    Raises:
        InputError: a symbol that comes twice, widths that differ, a value that is not finite as
            float32, or no gene that the vocabulary has.
    """
    if not table.genes:
        raise InputError(f"{name}: holds no gene; expected one vector a gene")
    ids = {gene: i for gene, i in vocabulary.items() if gene not in SPECIAL_TOKENS}
    prior = np.empty((0, 0), dtype=np.float32)
    seen: set[str] = set()
    first = ""
    covered = zero_rows = 0
    with bar(total=table.genes, what="aligning the prior", unit=" genes") as progress:
        for genes, rows in table.blocks:
            if not prior.size:
                first = genes[0]
                prior = np.zeros((len(vocabulary), rows.shape[1]), dtype=np.float32)
            if rows.shape[1] != prior.shape[1]:
                raise InputError(
                    f"{name}: gene '{genes[0]}' has {rows.shape[1]} numbers, '{first}' has "
                    f"{prior.shape[1]}; expected the same width for every gene"
                )
            _check_new(genes, seen, name)
            known = [i for i, gene in enumerate(genes) if gene in ids]
            filled = _check_finite(genes, rows, name)
            prior[[ids[genes[i]] for i in known]] = rows[known]
            covered += int(filled[known].sum())
            zero_rows += int((~filled[known]).sum())
            progress.update(len(genes))
    if not covered:
        raise InputError(
            f"{name}: no gene of the vocabulary has a vector: the table has {len(seen)} genes "
            f"({shortlist(sorted(seen)[:3])}), the vocabulary {len(ids)} "
            f"({shortlist(sorted(ids)[-3:])}); expected gene symbols of the same naming"
        )
    return Aligned(prior, covered, zero_rows)


def _check_new(genes: list[str], seen: set[str], name: str) -> None:
    for gene in genes:
        if gene in seen:
            raise InputError(f"{name}: gene '{gene}' comes more than once; keep one vector of it")
        seen.add(gene)


def _check_finite(genes: list[str], rows: NDArray[np.generic], name: str) -> NDArray[np.bool_]:
    """Return which rows hold anything but zeros, [genes]."""
    with np.errstate(over="ignore"):
        values = rows.astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{name}: gene '{genes[row]}' has {rows[row, column]} at position {column}; expected "
            "finite numbers within float32, take the gene out or mend it"
        )
    return np.asarray(values.any(axis=1))
