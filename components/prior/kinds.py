"""How each kind of prior is made: a function a kind, from a parsed prior to vectors by token."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.prior.align import align, genes_of
from components.prior.fasta import read_fasta
from components.prior.vector_tables import READERS, Table
from components.shared.artifacts.licences import CC0, CC_BY, Source, licence_of
from components.shared.model.checkpoint import read_checkpoint
from components.shared.model.checkpoint_files import CHECKPOINT_FILES, WEIGHTS_FILE
from components.shared.model.vocabulary import Vocabulary
from components.shared.parameters import prior_grammar as grammar
from components.shared.parameters.aliases import Aliases, match, read_aliases
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.prior_grammar import Prior
from components.shared.storage.columns import read_columns
from components.shared.storage.digests import sha256_of
from components.shared.storage.downloads import shown
from components.shared.storage.files import ending_of, fetched, fetched_folder
from components.shared.storage.scratch import scratch_for
from components.shared.telling.errors import InputError, shortlist

DEFAULT_WIDTH = {grammar.GRAPH: 128, grammar.ANNOTATION: 256}
DEFAULT_COLUMNS = {grammar.GRAPH: ("entity1", "entity2"), grammar.ANNOTATION: ("symbol", "go_id")}
EVIDENCE_COLUMN = "evidence"
NO_DATA = "ND"
"""GO's evidence code for genes of which nothing is known; it comes with the root terms."""
EMBEDDING = "encoder.embedding.weight"
DRAW, DEAL = 0, 1
"""Purposes for which a prior draws random numbers."""


@dataclass(frozen=True)
class Vectors:
    """Vectors by token, where they come from, and what `prior.json` says of them."""

    table: NDArray[np.float32]
    """[tokens, width]; a row of zeros = no prior."""
    sources: tuple[Source, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Context:
    """Context in which a prior is made."""

    vocabulary: Vocabulary
    pretrained: str
    seed: int
    until_written: ExitStack
    """Closed when the artifact is written: what is costly to make again is kept until then."""
    place: tuple[int, ...] = ()
    """Of this prior in a concat: two of a kind draw different numbers."""

    def rng(self, purpose: int) -> np.random.Generator:
        """Return random numbers of this seed, place and purpose."""
        spawn_key = (purpose, *self.place)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=spawn_key))


def make(prior: Prior, context: Context) -> Vectors:
    """Make the vectors of a prior that is not none.

    Raises:
        InputError: a file or option that cannot be used.
    """
    return KINDS[prior.kind](prior, context)


def from_table(prior: Prior, context: Context) -> Vectors:
    """Align a table of gene vectors to the vocabulary."""
    name = _name(prior)
    others, sources = _aliases(prior)
    with fetched(prior.argument) as path:
        table = READERS[ending_of(prior.argument)](path, name)
        source = Source(prior.kind, name, sha256_of(path), licence_of(name, table.licence))
        vectors, facts = align(table, context.vocabulary, name, others)
    return Vectors(vectors, (source, *sources), facts)


def from_pairs(prior: Prior, context: Context) -> Vectors:
    """Embed genes by their partners in a list of pairs, or by their terms."""
    # scikit-learn takes a second to import
    from components.prior.spectral import embed_annotation, embed_graph

    name, of_terms = _name(prior), prior.kind == grammar.ANNOTATION
    columns, source = _read_columns(prior, (EVIDENCE_COLUMN,) if of_terms else ())
    if of_terms:
        columns = _with_evidence(prior, columns)
    embed = embed_annotation if of_terms else embed_graph
    width = int(prior.options.get(grammar.WIDTH, DEFAULT_WIDTH[prior.kind]))
    genes, rows, counts = embed(*_complete(columns, name), width, name)
    others, sources = _aliases(prior)
    vectors, facts = align(Table(genes, [rows]), context.vocabulary, name, others)
    return Vectors(vectors, (source, *sources), facts | counts)


def from_esm2(prior: Prior, context: Context) -> Vectors:
    """Embed the proteins of the vocabulary's genes by ESM2."""
    from components.prior.esm2 import embed, fetched_checkpoint, load_esm2  # transformers: 3 s

    name = _name(prior)
    fasta = prior.options[grammar.FASTA]
    fasta_name = shown(fasta)
    others, sources = _aliases(prior)
    with fetched(fasta) as path:
        proteins = read_fasta(path, fasta_name)
        said = CC_BY if proteins.uniprot else ""
        of_fasta = Source("sequences", fasta_name, sha256_of(path), licence_of(fasta_name, said))
    # Those of other genes are not worth the time.
    wanted = match(proteins.sequences, genes_of(context.vocabulary), others).gene_of
    if not wanted:
        raise InputError(
            f"{fasta_name}: none of its {len(proteins.sequences):,} genes is in the vocabulary "
            f"({shortlist(sorted(proteins.sequences)[:3])}); expected gene symbols in the headers"
        )
    sequences = list(dict.fromkeys(proteins.sequences[gene] for gene in wanted))
    checkpoint = context.until_written.enter_context(fetched_checkpoint(prior.argument))
    esm2 = load_esm2(checkpoint, name)
    kept = context.until_written.enter_context(scratch_for(name, (esm2.digest,)))
    of_sequence = dict(zip(sequences, embed(esm2, sequences, kept), strict=True))
    rows = np.zeros((len(proteins.sequences), esm2.width), np.float32)
    for i, (gene, sequence) in enumerate(proteins.sequences.items()):
        if gene in wanted:
            rows[i] = of_sequence[sequence]
    table = Table(list(proteins.sequences), [rows])
    vectors, facts = align(table, context.vocabulary, fasta_name, others)
    model = Source(prior.kind, name, esm2.digest, licence_of(name, ""))
    return Vectors(vectors, (model, of_fasta, *sources), facts | proteins.facts)


def from_scgpt(prior: Prior, context: Context) -> Vectors:
    """Take the gene embeddings of the pretrained checkpoint, as they are before its layer norm."""
    pretrained = parse_pretrained(context.pretrained)
    if pretrained.random_size:
        raise InputError(
            f"prior 'scgpt': pretrained is {pretrained.shown}, which has learnt no gene embeddings;"
            " give the folder or URI of a checkpoint as pretrained, or another prior"
        )
    name = pretrained.shown
    with fetched_folder(pretrained.folder, CHECKPOINT_FILES) as folder:
        checkpoint = read_checkpoint(folder)
        source = Source(prior.kind, name, sha256_of(folder / WEIGHTS_FILE), licence_of(name, ""))
    weight = checkpoint.state.get(EMBEDDING)
    if weight is None or weight.ndim != 2 or len(weight) != len(context.vocabulary):
        shape = "missing" if weight is None else f"of shape {list(weight.shape)}"
        raise InputError(
            f"{name}: tensor {EMBEDDING} is {shape}; expected [{len(context.vocabulary)}, width]"
        )
    ids = genes_of(context.vocabulary)
    rows = weight.float().numpy()[list(ids.values())]
    vectors, facts = align(Table(list(ids), [rows]), context.vocabulary, name, Aliases())
    return Vectors(vectors, (source,), facts)


def from_random(prior: Prior, context: Context) -> Vectors:
    """Draw a vector for each gene of the vocabulary, of standard normal numbers."""
    table = np.zeros((len(context.vocabulary), int(prior.argument)), np.float32)
    ids = sorted(genes_of(context.vocabulary).values())
    table[ids] = context.rng(DRAW).standard_normal((len(ids), table.shape[1]), np.float32)
    return Vectors(table, (Source(prior.kind, "", "", CC0),), {})


def from_shuffled(prior: Prior, context: Context) -> Vectors:
    """Deal a prior's vectors to other genes among those that have one; none keeps its own."""
    inner = make(grammar.gene_part(prior.members[0]), context)
    rows = np.flatnonzero(inner.table.any(axis=1))
    # One cycle through all of them in random order.
    order = context.rng(DEAL).permutation(rows)
    table = inner.table.copy()
    table[order] = inner.table[np.roll(order, 1)]
    return Vectors(table, inner.sources, {"members": [_entry(prior.members[0], inner)]})


def from_concat(prior: Prior, context: Context) -> Vectors:
    """Put priors side by side, scaled so that the vectors of each have the same mean square length.

    Else one of 5,120 numbers would drown one of 128. The numbers have a mean square of 1.
    """
    made = [
        make(member, replace(context, place=(*context.place, i)))
        for i, member in enumerate(prior.members)
    ]
    length = np.sqrt(sum(part.table.shape[1] for part in made) / len(made))
    return Vectors(
        np.hstack([part.table * np.float32(length / _length(part.table)) for part in made]),
        tuple(dict.fromkeys(source for part in made for source in part.sources)),
        {"members": [_entry(m, part) for m, part in zip(prior.members, made, strict=True)]},
    )


def _length(table: NDArray[np.float32]) -> float:
    """Return the root mean square length of the vectors that are not zero."""
    lengths = np.linalg.norm(table.astype(np.float64), axis=1)
    return float(np.sqrt(np.square(lengths[lengths > 0]).mean()))


KINDS: dict[str, Callable[[Prior, Context], Vectors]] = {
    grammar.TABLE: from_table,
    grammar.GRAPH: from_pairs,
    grammar.ANNOTATION: from_pairs,
    grammar.ESM2: from_esm2,
    grammar.SCGPT: from_scgpt,
    grammar.RANDOM: from_random,
    grammar.SHUFFLED: from_shuffled,
    grammar.CONCAT: from_concat,
}
"""Kind of prior to the function that makes it."""


def _name(prior: Prior) -> str:
    return shown(prior.argument)


def _aliases(prior: Prior) -> tuple[Aliases, tuple[Source, ...]]:
    uri = prior.options.get(grammar.ALIASES)
    if not uri:
        return Aliases(), ()
    name = shown(uri)
    with fetched(uri) as path:
        source = Source("aliases", name, sha256_of(path), licence_of(name, ""))
        return read_aliases(path, name), (source,)


def _read_columns(prior: Prior, optional: tuple[str, ...]) -> tuple[dict[str, list[str]], Source]:
    """Read the two columns that the prior names, and the optional ones that are there."""
    name = _name(prior)
    said = prior.options.get(grammar.COLUMNS)
    wanted = tuple(said.split("+")) if said else DEFAULT_COLUMNS[prior.kind]
    with fetched(prior.argument) as path:
        source = Source(prior.kind, name, sha256_of(path), licence_of(name, ""))
        return read_columns(path, name, wanted, optional), source


def _complete(columns: dict[str, list[str]], name: str) -> tuple[list[str], list[str]]:
    """Return the two columns' fields of the rows that have both."""
    first, second = list(columns.values())[:2]
    rows = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if not rows:
        raise InputError(f"{name}: has no row with both columns filled")
    return [a for a, _ in rows], [b for _, b in rows]


def _with_evidence(prior: Prior, columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Keep the rows of the requested evidence codes; of all but NO_DATA if none are."""
    said = prior.options.get(grammar.EVIDENCE)
    if EVIDENCE_COLUMN not in columns:
        if said:
            raise InputError(f"{_name(prior)}: has no column '{EVIDENCE_COLUMN}' to choose by")
        return columns
    codes = columns[EVIDENCE_COLUMN]
    asked = set(said.split("+")) if said else set(codes) - {NO_DATA}
    rows = [i for i, code in enumerate(codes) if code in asked]
    if not rows:
        raise InputError(
            f"{_name(prior)}: no row has evidence {said or 'but ' + NO_DATA}; the codes there are "
            f"{', '.join(sorted(set(codes)))}"
        )
    return {column: [fields[i] for i in rows] for column, fields in columns.items()}


def _entry(prior: Prior, made: Vectors) -> dict[str, Any]:
    """Return what `prior.json` says of a prior that is part of another."""
    return {"prior": prior.shown, **totals(prior, made)}


def totals(prior: Prior, made: Vectors) -> dict[str, Any]:
    """Return what `prior.json` says of any prior: its kind, width, coverage and own facts."""
    return {
        "kind": prior.kind,
        "width": made.table.shape[1],
        "covered_genes": int(made.table.any(axis=1).sum()),
        **made.facts,
    }
