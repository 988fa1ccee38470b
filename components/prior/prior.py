"""The prior stage: a vector for each gene of the vocabulary, from whatever kind of prior is asked.

A kind of prior is a function that writes its part of the draft and returns its facts; `kind_of`
tells from the URI which kind is meant. A new kind is added in those two places.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components.prior.align import align
from components.prior.licence import licence_of
from components.prior.tables import READERS, read_table
from components.shared.artifact import GENE_PRIOR, sha256_of, writing
from components.shared.downloads import shown
from components.shared.errors import InputError, nearest
from components.shared.gene_prior import FACTS_FILE, GENES, TABLE_FILE, TENSOR
from components.shared.pretrained import ending_of, parse_pretrained, resolve_vocabulary
from components.shared.storage import ALLOWED, SHA256, fetched
from components.shared.vocabulary import SPECIAL_TOKENS, vocabulary_digest

NONE = "none"
TABLE = "table"


def kind_of(uri: str) -> str:
    """Return which kind of prior ``uri`` asks for.

    Raises:
        InputError: none that is known; lists what is allowed.
    """
    if uri == NONE:
        return NONE
    if ending_of(uri) in READERS:
        return TABLE
    raise InputError(
        f"prior '{shown(uri)}' is unknown{nearest(uri, [NONE])}; allowed: {NONE}, or a table "
        f"ending in {', '.join(READERS)} at {ALLOWED}"
    )


def no_prior(uri: str, vocabulary: str, seed: int, folder: Path) -> dict[str, Any]:
    """Write nothing: genes are known by their own embedding alone."""
    return {
        "kind": NONE,
        "source": NONE,
        "licence": "none needed",
        "width": 0,
        "covered_genes": 0,
        "covered_fraction": 0.0,
    }


def from_table(uri: str, vocabulary: str, seed: int, folder: Path) -> dict[str, Any]:
    """Align a table of gene vectors to the vocabulary.

    Raises:
        InputError: the table or the vocabulary cannot be used.
    """
    name = shown(uri).partition(SHA256)[0]
    tokens = resolve_vocabulary(vocabulary)
    with fetched(uri) as path:
        digest = sha256_of(path)
        table = read_table(path, ending_of(uri), name)
        aligned = align(table, tokens, name)
    n_genes = len(set(tokens) - set(SPECIAL_TOKENS))
    licence = licence_of(name, table.licence)
    # The table's own words; PyTorch shares the array's memory and the file is written from it.
    save_file(
        {TENSOR: torch.from_numpy(aligned.prior)},
        folder / TABLE_FILE,
        metadata={
            "source": name,
            "license": licence,
            GENES: json.dumps(sorted(tokens, key=tokens.__getitem__)),
        },
    )
    return {
        "kind": TABLE,
        "source": name,
        "source_sha256": digest,
        "licence": licence,
        "width": aligned.prior.shape[1],
        "tokens": len(tokens),
        "vocabulary_sha256": vocabulary_digest(tokens),
        "table_genes": table.genes,
        "vocabulary_genes": n_genes,
        "covered_genes": aligned.covered,
        "covered_fraction": round(aligned.covered / n_genes, 4),
        "table_genes_not_in_vocabulary": table.genes - aligned.covered - aligned.zero_rows,
        "table_genes_all_zero": aligned.zero_rows,
    }


KINDS: dict[str, Callable[[str, str, int, Path], dict[str, Any]]] = {
    NONE: no_prior,
    TABLE: from_table,
}
"""Kind of prior to the function (uri, vocabulary, seed, folder of the draft) that makes it."""


def prior(uri: str, vocabulary: str, target: Path | str, *, seed: int = 0) -> None:
    """Make a gene prior aligned to a vocabulary and write the gene prior artifact.

    The artifact holds `prior.json` and, unless the prior is none, `prior.safetensors` with the
    tensor `prior`, float32 [tokens, width], in which a row of zeros means no prior.

    Args:
        uri: ``none``, or a table of gene vectors: a path or URI (see `components.shared.storage`)
            ending in .safetensors, .npz, .parquet or .pt, perhaps with ``#sha256=<hex>``.
        vocabulary: whose tokens: a vocab.json, a checkpoint folder with one, as a path or URI, or
            ``random://<size>`` (see `components.shared.pretrained`).
        target: folder to write; must not exist.
        seed: for kinds that draw; the present ones do not.

    Raises:
        InputError: an unknown prior, or a table or vocabulary that cannot be used; nothing is
            written.
    """
    kind = kind_of(uri)
    parameters = {
        "uri": shown(uri),
        "vocabulary": parse_pretrained(vocabulary).shown,
        "seed": seed,
    }
    with writing(target, GENE_PRIOR, parameters=parameters) as draft:
        facts = KINDS[kind](uri, vocabulary, seed, draft.path)
        (draft.path / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
        draft.summary |= facts
    print(_last_words(facts, Path(target)), flush=True)


def _last_words(facts: dict[str, Any], target: Path) -> str:
    if facts["kind"] == NONE:
        return f"prior: wrote {target}: none"
    return (
        f"prior: licence of {facts['source']}: {facts['licence']}\n"
        f"prior: wrote {target / TABLE_FILE}: {facts['tokens']:,} tokens x {facts['width']:,}; "
        f"{facts['covered_genes']:,} of {facts['vocabulary_genes']:,} genes of the vocabulary "
        f"({facts['covered_fraction']:.1%}) have a vector, of {facts['table_genes']:,} in the table"
        + (
            f"; {facts['table_genes_all_zero']:,} vectors are all zeros"
            if facts["table_genes_all_zero"]
            else ""
        )
    )
