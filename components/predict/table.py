"""A row for each predicted perturbation: what stands behind its prediction."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.predict.wanted import Wanted
from components.shared.artifacts.confidence import Confidence, control_similarity
from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.predictions import PERTURBATION_COLUMNS
from components.shared.artifacts.training_effects import TrainingEffects


def perturbation_table(
    wanted: Wanted,
    genes: Sequence[str],
    control: NDArray[np.floating],
    *,
    flagged: Callable[[str], bool],
    training: TrainingEffects | None,
    confidence: Confidence | None,
) -> pd.DataFrame:
    """Return the columns `PERTURBATION_COLUMNS` of each perturbation of ``wanted``, sorted.

    Args:
        wanted: the predicted cells.
        genes: measured genes.
        control: mean of the test line's basal controls, [genes].
        flagged: whether the model can be told which gene is perturbed.
        training: what the training lines measured, where the model brings it along.
        confidence: what to expect, where the model brings it along.
    """
    labels, cells = np.unique(wanted.labels, return_counts=True)
    there = wanted.rows >= 0
    table = pd.DataFrame({"perturbation": labels.astype(object), "cells": cells})
    table["measured_cells"] = [int(there[wanted.labels == label].sum()) for label in labels]
    lines = [training.lines_of(str(label)) if training else [] for label in labels]
    table["training_lines"] = [", ".join(names) for names in lines]
    table["training_cells"] = [_training_cells(training, str(label)) for label in labels]
    table["flagged"] = [flagged(str(label)) for label in labels]
    table["target_measured"] = _measured(labels, set(genes))
    if training:
        similarity = control_similarity(control, genes, training)
        table["control_similarity"] = similarity
        if confidence:
            expected = confidence.expected(table["perturbation"].tolist(), similarity)
            table = table.join(expected.reset_index(drop=True))
    table = table.reindex(columns=list(PERTURBATION_COLUMNS))
    table["known"] = table["known"].fillna("").astype(str)
    return table


def _training_cells(training: TrainingEffects | None, label: str) -> int:
    if training is None or label not in training.perturbations:
        return 0
    return int(training.cells[:, training.perturbations.index(label)].sum())


def _measured(labels: NDArray[np.str_], genes: Collection[str]) -> list[bool]:
    return [set(genes_of(str(label))) <= set(genes) for label in labels]
