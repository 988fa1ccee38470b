"""The prior stage: a vector for each gene of the vocabulary, from whatever kind of prior is asked.

`prior_grammar` says what may be asked, `kinds` holds a function a kind. A new kind is added in
those two.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import save_file

from components.prior.align import genes_of
from components.prior.kinds import Context, Vectors, make, totals
from components.prior.other_screens import write_effects
from components.shared.artifacts.artifact import GENE_PRIOR, writing
from components.shared.artifacts.gene_prior import EFFECTS, FACTS_FILE, GENES, TABLE_FILE, TENSOR
from components.shared.artifacts.licences import (
    SE_600M,
    STATE_LICENCE,
    STATE_LICENCE_FILE,
    Source,
    is_non_commercial,
    strictest,
)
from components.shared.model.vocabulary import Vocabulary, vocabulary_digest
from components.shared.parameters.numbers import whole_number
from components.shared.parameters.pretrained import parse_pretrained, resolve_vocabulary
from components.shared.parameters.prior_grammar import (
    NONE,
    Prior,
    effects_of,
    gene_part,
    parse_prior,
)
from components.shared.storage.documents import write_json
from components.shared.storage.files import fetched
from components.shared.storage.tensors import order_metadata
from components.shared.telling.addresses import LOCAL, scheme_of
from components.shared.telling.errors import InputError, say


def prior(uri: str, vocabulary: str, target: Path | str, *, seed: int = 0) -> None:
    """Make a gene prior aligned to a vocabulary and write the gene prior artifact.

    The artifact holds `prior.json` and, unless no gene has a vector by the kind asked for,
    `prior.safetensors` with the tensor `prior`, float32 [tokens, width], in which a row of zeros
    means no prior; and the deltas of another screen where `effects:<uri>` names one (see
    `components.shared.artifacts.gene_prior`).

    Args:
        uri: what prior, see `prior_grammar`.
        vocabulary: the pipeline's `pretrained`, whose tokens the rows are: a vocab.json, a
            checkpoint folder with one, as a path or URI, or ``random://<size>`` (see
            `components.shared.parameters.pretrained`).
        target: folder to write; must not exist.
        seed: for kinds that draw: random and shuffled.

    Raises:
        InputError: an unknown prior, or a file or vocabulary that cannot be used; nothing is
            written.
    """
    seed = whole_number("seed", seed)
    asked = parse_prior(uri)
    by_gene, effects = gene_part(asked), effects_of(asked)
    parameters = {
        "uri": asked.shown,
        "vocabulary": parse_pretrained(vocabulary).shown,
        "seed": seed,
    }
    with ExitStack() as until_written, writing(target, GENE_PRIOR, parameters=parameters) as draft:
        facts: dict[str, Any] = {"kind": NONE, "width": 0, "covered_genes": 0}
        sources: tuple[Source, ...] = ()
        if by_gene.kind != NONE:
            tokens = resolve_vocabulary(vocabulary)
            made = make(by_gene, Context(tokens, vocabulary, seed, until_written))
            facts = _write_table(by_gene, made, tokens, draft.path)
            sources = made.sources
        if effects:
            facts[EFFECTS] = {"uri": ""}
            if effects.argument:
                facts[EFFECTS], source = write_effects(effects.argument, draft.path)
                sources = (*sources, source)
        facts |= _origin(sources)
        for source in sources:
            if source.licence == SE_600M:
                _take_licence(source.source, draft.path / STATE_LICENCE_FILE)
        write_json(draft.path / FACTS_FILE, facts)
        draft.summary |= facts
    _report(facts, Path(target))


def _write_table(asked: Prior, made: Vectors, tokens: Vocabulary, folder: Path) -> dict[str, Any]:
    """Write the vectors and return the facts about them."""
    facts = totals(asked, made)
    in_order = sorted(tokens, key=lambda token: tokens[token])
    # PyTorch shares the array's memory, and the file is written from it.
    save_file(
        {TENSOR: torch.from_numpy(made.table)},
        folder / TABLE_FILE,
        metadata={
            GENES: json.dumps(in_order),
            "license": strictest(source.licence for source in made.sources),
        },
    )
    order_metadata(folder / TABLE_FILE)
    n_genes = len(genes_of(tokens))
    return facts | {
        "tokens": len(tokens),
        "vocabulary_sha256": vocabulary_digest(tokens),
        "vocabulary_genes": n_genes,
        "covered_fraction": round(facts["covered_genes"] / n_genes, 4),
    }


def _take_licence(source: str, target: Path) -> None:
    """Put a copy of the State Model's licence, which its terms require, into the artifact.

    It lies beside the table where that was published; a copy without it is used all the same.
    """
    path, at, revision = source.partition("@") if scheme_of(source) == "hf" else (source, "", "")
    folder = f"{path.rpartition('/')[0]}/" if "/" in path else ""
    try:
        with fetched(f"{folder}{STATE_LICENCE}{at}{revision}") as file:
            shutil.copyfile(file, target)
    except InputError as error:
        say(
            f"prior: WARNING: no {STATE_LICENCE} beside {source} ({error}); its terms ask that a "
            "complete copy goes along with a model that is passed on"
        )


def _origin(sources: tuple[Source, ...]) -> dict[str, Any]:
    """Return where everything is from, and on what terms a model may be made with all of it."""
    named = {source.source: source.sha256 for source in sources if source.source}
    # A URI, or the last part of a path.
    short = (PurePosixPath(uri).name if scheme_of(uri) in LOCAL else uri for uri in named)
    facts = {
        "source": " + ".join(dict.fromkeys(short)),
        "licence": strictest(source.licence for source in sources),
        "sources": [vars(source) for source in sources],
    }
    if len(named) == 1:
        facts["source"], facts["source_sha256"] = next(iter(named.items()))
    return facts


def _report(facts: dict[str, Any], target: Path) -> None:
    """Say what was written, from what, and what its licence forbids."""
    for source in facts["sources"]:
        print(f"prior: licence of {source['source'] or source['kind']}: {source['licence']}")
        if is_non_commercial(source["licence"]):
            say(
                f"prior: WARNING: {source['source']} is not for commercial use, and neither may be "
                "a model that is trained with it"
            )
    for member in facts.get("members", []):
        print(f"prior: {member['prior']}: width {member['width']:,}, {_covered(member)}")
    said = "no vectors"
    if facts["kind"] != NONE:
        said = (
            f"{facts['tokens']:,} tokens x {facts['width']:,}; {_covered(facts)}, of "
            f"{facts['vocabulary_genes']:,} of the vocabulary ({facts['covered_fraction']:.1%})"
        )
    if EFFECTS in facts:
        said += f"; effects of {facts[EFFECTS]['uri'] or 'the training lines'}"
    print(f"prior: wrote {target}: {said}", flush=True)


def _covered(facts: dict[str, Any]) -> str:
    said = f"{facts['covered_genes']:,} genes have a vector"
    if "table_genes" in facts:
        said += f", of {facts['table_genes']:,} in the table"
    if facts.get("table_genes_all_zero"):
        said += f", {facts['table_genes_all_zero']:,} of which are all zeros"
    if facts.get("genes_by_alias"):
        said += f", {facts['genes_by_alias']:,} found by another name"
    return said
