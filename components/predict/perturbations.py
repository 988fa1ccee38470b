"""Which perturbations are predicted: the requested ones, less what the model cannot know."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from components.shared.artifacts.perturbation import genes_of
from components.shared.telling.errors import InputError, nearest

MOST_NAMED = 20
"""Perturbations that a warning names one by one; finding the nearest symbol takes a while."""


@dataclass(frozen=True)
class Requested:
    """The requested perturbations: which were measured, and which can be predicted."""

    measured: list[str]
    """With cells in the test line, sorted; always predicted, so that all can be scored."""
    unmeasured: list[str]
    """Without, sorted."""
    unknown: list[str]
    """Those of which the model knows nothing; they are left out."""

    @property
    def predicted(self) -> list[str]:
        """All that are predicted, sorted."""
        return sorted([*self.measured, *self.unmeasured])


def requested_of(
    requested: Sequence[str], measured: Collection[str], knows: Callable[[str], bool]
) -> Requested:
    """Split the requested perturbations.

    Args:
        requested: perturbations to predict.
        measured: perturbations with test cells.
        knows: whether the model knows each gene of a perturbation, or its effect.
    """
    others = sorted(set(requested) - set(measured))
    known = [label for label in others if knows(label)]
    return Requested(sorted(measured), known, [label for label in others if label not in known])


def report_unknown(
    requested: Requested,
    knows: Callable[[str], bool],
    symbols: Collection[str],
    names: Mapping[str, list[str]],
) -> None:
    """Name what is left out, and what may be meant.

    Args:
        requested: from `requested_of`.
        knows: whether the model knows a perturbation.
        symbols: genes the model knows.
        names: what a gene may stand for, by the table of other names.
    """
    if not requested.unknown:
        return
    listed = [_named(label, knows, symbols, names) for label in requested.unknown[:MOST_NAMED]]
    if len(requested.unknown) > MOST_NAMED:
        listed.append(f"{len(requested.unknown) - MOST_NAMED} more")
    many = len(requested.unknown) > 1
    text = (
        f"{'these' if many else 'this'} cannot be predicted, since the model knows neither the "
        f"gene nor its effect: {'; '.join(listed)}"
    )
    if not requested.predicted:
        raise InputError(f"perturbations: {text}; name genes of the model's vocab.json")
    print(f"predict: WARNING: {text}; the others are predicted", file=sys.stderr, flush=True)


def _named(
    label: str,
    knows: Callable[[str], bool],
    symbols: Collection[str],
    names: Mapping[str, list[str]],
) -> str:
    hints = []
    for gene in genes_of(label):
        if knows(gene):
            continue
        if found := names.get(gene):
            hints.append(f"another name of {' or '.join(found)}")
        else:
            hints.append(nearest(gene, symbols).removeprefix(", "))
    return f"'{label}'" + (f" ({', '.join(filter(None, hints))})" if any(hints) else "")
