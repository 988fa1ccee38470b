"""The gene prior's own prediction: ridge regression from a gene's vector to its training delta.

A model that is given a prior has to beat what the prior says by itself (Ahlmann-Eltze, Nature
Methods 2025, found such linear models level with deep ones).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from components.evaluate.inputs.training_lines import Training
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.gene_prior import GENES, TABLE_FILE, opened_table
from components.shared.artifacts.perturbation import genes_of
from components.shared.telling.errors import InputError

PENALTIES = np.logspace(-3, 6, 28)
"""Tried on vectors scaled to a mean square of 1."""
FEWEST = 3
"""Training perturbations with a vector that a regression needs."""

Floats = NDArray[np.float64]


def vectors_of(prior: Artifact, perturbations: set[str]) -> dict[str, Floats]:
    """Return the prior's vector of each perturbation that has one, [width].

    The vector of a perturbation of several genes is the sum of theirs, and it has none where one
    of them has none. Only the requested rows are read. A table must name its rows.
    """
    file = prior.path / TABLE_FILE
    if not file.is_file():
        return {}
    with opened_table(file, "np") as (rows, metadata):
        named = metadata.get(GENES)
        if named is None:
            raise InputError(
                f"{file}: no metadata '{GENES}', so its rows have no gene; run the prior task again"
            )
        row_of = {gene: row for row, gene in enumerate(_names(named, file))}
        if len(row_of) > rows.get_shape()[0]:
            raise InputError(f"{file}: has fewer rows than genes; run the prior task again")
        wanted = {gene for label in perturbations for gene in genes_of(label) if gene in row_of}
        vectors = {gene: rows[row_of[gene]].astype(np.float64).ravel() for gene in sorted(wanted)}
    known = {gene: vector for gene, vector in vectors.items() if vector.any()}
    return {
        label: np.sum([known[gene] for gene in genes_of(label)], axis=0)
        for label in sorted(perturbations)
        if genes_of(label) and all(gene in known for gene in genes_of(label))
    }


def _names(text: str, file: Path) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(gene, str) for gene in found):
        raise InputError(f"{file}: metadata '{GENES}' lists no genes; run the prior task again")
    return found


def ridge_deltas(
    training: Training, vectors: Mapping[str, Floats], perturbations: list[str]
) -> dict[str, Floats]:
    """Predict deltas from the prior's ``vectors``, fitted on the training perturbations.

    The penalty is chosen by leaving out one training perturbation at a time. Returns the delta of
    each perturbation that has a vector, [genes], log1p of counts per 10,000; none where fewer than
    `FEWEST` training perturbations have one.
    """
    known = [label for label in training.perturbations if label in vectors]
    asked = [label for label in perturbations if label in vectors]
    if len(known) < FEWEST or not asked:
        return {}
    x = np.array([vectors[label] for label in known])
    scale = np.sqrt(np.mean(x**2))
    y = np.array([training.delta_of(label) for label in known])
    fitted = RidgeCV(PENALTIES).fit(x / scale, y)
    found = fitted.predict(np.array([vectors[label] for label in asked]) / scale)
    return dict(zip(asked, found.reshape(len(asked), -1), strict=True))
