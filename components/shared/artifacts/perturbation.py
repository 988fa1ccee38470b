"""Perturbation labels: what they are called in every artifact, and the genes they name."""

from collections.abc import Iterable

CONTROL = "non-targeting"


def genes_of(perturbation: str) -> tuple[str, ...]:
    """Return the genes a perturbation label names: ``KLF1+MAP2K6`` has two, a control none.

    ``ctrl`` parts (GEARS writes ``GENE+ctrl``) are not genes.
    """
    if perturbation == CONTROL:
        return ()
    return tuple(gene for gene in perturbation.split("+") if gene and gene != "ctrl")


def in_the_words_of(known: Iterable[str], asked: Iterable[str]) -> list[str]:
    """Return what was requested under the labels that are known: ``B+A`` is ``A+B`` there."""
    by_genes = {frozenset(genes_of(label)): label for label in known if genes_of(label)}
    return list(dict.fromkeys(by_genes.get(frozenset(genes_of(x)), x) for x in asked))
