"""Perturbation labels: what they are called in every artifact, and the genes they name."""

CONTROL = "non-targeting"


def genes_of(perturbation: str) -> tuple[str, ...]:
    """Return the genes a perturbation label names: ``KLF1+MAP2K6`` has two, a control none.

    ``ctrl`` parts (GEARS writes ``GENE+ctrl``) are not genes.
    """
    if perturbation == CONTROL:
        return ()
    return tuple(gene for gene in perturbation.split("+") if gene and gene != "ctrl")
