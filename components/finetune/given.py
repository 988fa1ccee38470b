"""Effects that a model is given to start from: those of its lines, and of other screens."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from components.finetune import cross_line_effects
from components.finetune.cross_line_effects import Effects, known_effects
from components.finetune.data import Floats, TrainingData
from components.finetune.deltas import LineDeltas, line_deltas
from components.finetune.effect_weights import in_words
from components.finetune.table_scale import brought_to_scale
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import ORIGINS
from components.shared.artifacts.gene_prior import EFFECTS, EFFECTS_FILE, OtherEffects
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, unit_of
from components.shared.artifacts.perturbation_names import line_key
from components.shared.model.vocabulary import Vocabulary
from components.shared.telling.errors import InputError, say


def check_total_of_effects(prior: Artifact, cells: Cells) -> None:
    """Check that what was measured on other cells was measured on the scale of these."""
    effects = prior.summary.get(EFFECTS) or {}
    theirs = effects.get(TARGET_SUM, USUAL)
    if effects.get("with_errors") and theirs != cells.target_sum:
        raise InputError(
            f"prior effects:{effects['uri']}: measured on {unit_of(theirs)}, and these cells are "
            f"{unit_of(cells.target_sum)}; ingest one of them with the other's {TARGET_SUM}"
        )


def deltas_told(
    prior: Artifact, data: TrainingData, genes: list[str], test_line: str, *, tell: bool
) -> tuple[list[LineDeltas], str]:
    """Return the deltas of the training lines, then, if any, of the prior's other screens.

    With them, in words, what was done to these; a table on a scale that cannot be told is refused.
    """
    own = line_deltas(data)
    if not (prior.path / EFFECTS_FILE).exists():
        return [own], ""
    other, uri = OtherEffects.read(prior.path), prior.summary[EFFECTS]["uri"]
    tell_lines(other.lines, uri, test_line)
    other, said = brought_to_scale(other, data.perturbations, genes, own, test_line, uri)
    if said and tell:
        say(f"finetune: WARNING: {said}")
    given = cross_line_effects.of_other_screens(other, data.perturbations, genes, own, test_line)
    return [own, given], said


def effects_known(
    labels: list[str], deltas: list[LineDeltas], vectors: Floats | None, *, centre: bool
) -> Effects:
    """Return what each line may know of each perturbation's effect, and say where it is from."""
    known = known_effects(labels, deltas, vectors, centre=centre)
    counts = Counter(known.origin[1:])
    said = ", ".join(f"{counts[origin]} {origin}" for origin in ORIGINS if counts[origin])
    print(f"finetune: effects that a new line is given: {said}", flush=True)
    print(f"finetune: they are {in_words(known.weights)}", flush=True)
    return known


def vectors_by_gene(table: Tensor, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the prior's vector of each gene that has one, for perturbations named later."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    rows = table.numpy()
    filled = np.flatnonzero(rows.any(axis=1))
    return {tokens[row]: rows[row] for row in filled}


def tell_lines(lines: Sequence[str], uri: str, test_line: str) -> None:
    """Say which lines another screen has, and what of it could give the test line away."""
    warnings = []
    key = line_key(test_line)
    if others := sorted({name for name in lines if name and line_key(name) != key}):
        told = f"finetune: note: {uri} tells of {', '.join(others)}"
        print(f"{told}; none may be the test line '{test_line}' by another name", flush=True)
    if same := sorted({name for name in lines if line_key(name) == key}):
        warnings.append(
            f"has cells of the test line '{same[0]}'; those are left out, since they are what is "
            "to be predicted"
        )
    if not all(lines):
        warnings.append(
            f"has rows that name no cell line; give them a cell_line: were they of '{test_line}', "
            "the prediction would be made from what it is compared with"
        )
    for warning in warnings:
        say(f"finetune: WARNING: {uri} {warning}")
