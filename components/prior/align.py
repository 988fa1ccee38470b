"""A table of gene vectors, put in the order of a vocabulary's tokens."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.prior.vector_tables import Table
from components.shared.model.vocabulary import SPECIAL_TOKENS, Vocabulary
from components.shared.parameters.aliases import Aliases, match
from components.shared.telling.errors import InputError, shortlist
from components.shared.telling.progress import bar


def genes_of(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the genes of a vocabulary and their ids: all tokens but the special ones."""
    return {gene: i for gene, i in vocabulary.items() if gene not in SPECIAL_TOKENS}


def align(
    table: Table, vocabulary: Vocabulary, name: str, aliases: Aliases
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Copy each gene's vector to the row of its token; messages call the table ``name``.

    Special tokens get no prior, whatever the table says. A symbol that comes twice, widths that
    differ, and values that are not finite as float32 are refused.

    Returns:
        The vectors by token, [tokens, width], a row of zeros = no prior; and for `prior.json` how
        the table's genes met those of the vocabulary: counts, and the ambiguous names.
    """
    if not table.genes:
        raise InputError(f"{name}: holds no gene; expected one vector per gene")
    twice = [gene for gene, n in Counter(table.genes).items() if n > 1]
    if twice:
        raise InputError(f"{name}: gene '{twice[0]}' comes more than once; keep one vector of it")
    ids = genes_of(vocabulary)
    found = match(table.genes, ids, aliases)
    vectors = np.empty((0, 0), dtype=np.float32)
    start = zero = 0
    with bar(total=len(table.genes), what="aligning the prior", unit=" genes") as progress:
        for rows in table.blocks:
            genes = table.genes[start : start + len(rows)]
            if not start:
                vectors = np.zeros((len(vocabulary), rows.shape[1]), dtype=np.float32)
            elif rows.shape[1] != vectors.shape[1]:
                raise InputError(
                    f"{name}: gene '{genes[0]}' has {rows.shape[1]} numbers, '{table.genes[0]}' "
                    f"has {vectors.shape[1]}; expected the same width for every gene"
                )
            filled = _check_finite(genes, rows, name)
            known = [i for i, gene in enumerate(genes) if gene in found.gene_of]
            vectors[[ids[found.gene_of[genes[i]]] for i in known]] = rows[known]
            zero += int((~filled[known]).sum())
            start += len(rows)
            progress.update(len(rows))
    if len(found.gene_of) == zero:
        raise InputError(
            f"{name}: no gene of the vocabulary has a vector: the table has {len(table.genes)} "
            f"genes ({shortlist(sorted(table.genes)[:3])}), the vocabulary {len(ids)} "
            f"({shortlist(sorted(ids)[-3:])}); expected gene symbols of the same naming, or "
            "?aliases=<uri> of a table of other names"
        )
    if found.ambiguous:
        print(
            f"{name}: note: {len(found.ambiguous)} names may mean several genes of the vocabulary, "
            f"or one gene has several of them; left out: {shortlist(found.ambiguous)}",
            flush=True,
        )
    return vectors, {
        "table_genes": len(table.genes),
        "table_genes_not_in_vocabulary": len(table.genes) - len(found.gene_of),
        "table_genes_all_zero": zero,
        "genes_by_alias": len(found.by_alias),
        "ambiguous_names": found.ambiguous,
    }


def _check_finite(genes: list[str], rows: NDArray[np.generic], name: str) -> NDArray[np.bool_]:
    """Return which rows hold anything but zeros, [genes]."""
    with np.errstate(over="ignore"):
        values = rows.astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{name}: gene '{genes[row]}' has {rows[row, column]} at position {column}; expected "
            "finite numbers within float32, remove the gene or correct it"
        )
    return np.asarray(values.any(axis=1))
