"""Whether a model can be told of what it is trained on: most genes and most perturbations."""

from collections.abc import Collection, Sequence
from itertools import islice

from components.shared.model.tokens import GeneTokens
from components.shared.model.vocabulary import Vocabulary
from components.shared.telling.errors import InputError, shortlist

LEAST = 0.5
"""Share of the genes, and of the training perturbations, that a model must know. Of names of
another kind (Ensembl, mouse) it knows hardly any; of human symbols, old ones among them, most."""
NAMED = 3
"""Symbols that a refusal gives as examples."""


def check_symbols(genes: Sequence[str], vocabulary: Vocabulary) -> None:
    """Check that the vocabulary has most of the measured genes.

    Raises:
        InputError: it lacks most, as it does another species' or another naming's.
    """
    unknown = [gene for gene in genes if gene not in vocabulary]
    known = len(genes) - len(unknown)
    if known < LEAST * len(genes):
        raise InputError(
            f"{known} of {len(genes)} genes are in the vocabulary, not "
            f"{shortlist(unknown, NAMED)}; it has {shortlist(_like(vocabulary, unknown), NAMED)}: "
            "expected its symbols (of its species) in the cells' var index; rename the genes, "
            "leave out those without a symbol, or name a checkpoint that knows them in pretrained"
        )


def check_told(
    perturbations: Collection[str], tokens: GeneTokens, token_for_unmeasured: bool
) -> None:
    """Check that the model can be told which gene is perturbed of most training perturbations."""
    unknown = [
        label
        for label in sorted(perturbations)
        if not tokens.targets(label, token_for_unmeasured=token_for_unmeasured).flagged
    ]
    known = len(perturbations) - len(unknown)
    if known < LEAST * len(perturbations):
        raise InputError(
            f"the model can identify {known} of {len(perturbations)} training perturbations, not "
            f"of {shortlist(unknown, NAMED)}; the vocabulary has "
            f"{shortlist(_like(tokens.vocabulary, unknown), NAMED)}: expected its symbols in "
            "perturbation_column; name the column that has them, or a checkpoint that knows these"
        )


def _like(vocabulary: Vocabulary, unknown: Sequence[str]) -> list[str]:
    """Return a few genes of a vocabulary: the unknown ones in other letters, else short ones."""
    folded = {token.casefold(): token for token in vocabulary}
    same = [folded[name.casefold()] for name in unknown if name.casefold() in folded]
    short = (token for token in vocabulary if token.isalnum() and len(token) < 6)
    return same[:NAMED] or list(islice(short, NAMED))
