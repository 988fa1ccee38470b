"""What a model has to beat: predictions that need no model, from training cells alone.

Ahlmann-Eltze (Nature Methods 2025) and Systema (Nature Biotechnology 2025) found such baselines
level with, or ahead of, deep models.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from components.evaluate.pair import Pair
from components.evaluate.ridge import ridge_deltas
from components.evaluate.training import Training, training_pseudobulks
from components.shared.errors import InputError, shortlist
from components.shared.rank_cells import draw_partners, rank_cells

__all__ = ["Training", "baseline_means", "contenders", "training_pseudobulks"]

MODEL = "model"
MODEL_MEANS = "model_means"
"""The model's predicted mean in every cell: it tells what the cells add."""
CONTROL_CELLS = "control_cells"
CONTROL_MEAN = "control_mean"
MEAN_DELTA = "mean_delta"
SAME_PERTURBATION_DELTA = "same_perturbation_delta"
RIDGE = "prior_ridge"
BASELINES = (CONTROL_CELLS, CONTROL_MEAN, MEAN_DELTA, SAME_PERTURBATION_DELTA, RIDGE)
"""In the order of what they know."""

SEED = 0
"""Draws the control cells that baselines are made of."""

Floats = NDArray[np.float64]


def baseline_means(
    training: Training,
    perturbations: list[str],
    vectors: Mapping[str, Floats] | None = None,
) -> tuple[dict[str, Floats], dict[str, list[str]]]:
    """Return each baseline's mean for each perturbation, and which perturbations fell back.

    Args:
        training: from `training_pseudobulks`.
        perturbations: what to predict.
        vectors: the gene prior's, from `ridge.vectors_of`; None or empty = no ridge baseline.

    Returns:
        Means by baseline, each of shape [perturbations, genes], clipped to >= 0; and by baseline
        the perturbations it knows nothing of, which get the mean delta: those no training line
        has, or those without a vector.
    """
    mean = training.mean_delta()
    known = {
        SAME_PERTURBATION_DELTA: {
            label: delta
            for label in perturbations
            if (delta := training.delta_of(label)) is not None
        }
    }
    if ridge := ridge_deltas(training, vectors or {}, perturbations):
        known[RIDGE] = ridge
    deltas = {
        CONTROL_MEAN: np.zeros((len(perturbations), len(mean))),
        MEAN_DELTA: np.tile(mean, (len(perturbations), 1)),
    } | {name: np.array([own.get(x, mean) for x in perturbations]) for name, own in known.items()}
    fallbacks = {name: [x for x in perturbations if x not in own] for name, own in known.items()}
    return {k: np.maximum(training.control + delta, 0.0) for k, delta in deltas.items()}, fallbacks


def contenders(
    pair: Pair,
    own: NDArray[np.floating],
    means: Mapping[str, Floats],
    genes: list[str],
    controls: csr_matrix,
    *,
    ranked: bool,
) -> Iterator[tuple[str, Pair]]:
    """Yield (name, pair) of every prediction to be scored, one at a time, the model's first.

    Args:
        pair: the model's cells, their labels and the measured expression.
        own: the model's predicted means, [perturbations, genes of the pair].
        means: from `baseline_means` for ``pair.perturbations``.
        genes: genes of the columns of ``means`` and ``controls``.
        controls: basal controls of the test line, [controls, genes].
        ranked: whether a baseline's mean becomes cells as a model's does that predicts by rank:
            control cells mapped to it; else it is put into every cell of a perturbation.

    Raises:
        InputError: a gene of the pair is not among ``genes``.
    """
    columns = pd.Index(genes).get_indexer(pd.Index(pair.genes))
    if (columns < 0).any():
        missing = [gene for gene, at in zip(pair.genes, columns, strict=True) if at < 0]
        raise InputError(f"predictions: gene {shortlist(missing)} is not in the cells artifact")
    number = pd.Index(pair.perturbations).get_indexer(pd.Index(pair.labels))
    pool = controls[:, columns]
    yield MODEL, pair
    yield MODEL_MEANS, pair.with_prediction(_broadcast(pair, own, number))
    yield CONTROL_CELLS, pair.with_prediction(_drawn(pair, number, pool, means=None))
    for name, mean in means.items():
        chosen = mean[:, columns]
        predicted = (
            _drawn(pair, number, pool, means=chosen) if ranked else _broadcast(pair, chosen, number)
        )
        yield name, pair.with_prediction(predicted)


def _broadcast(
    pair: Pair, mean: NDArray[np.floating], number: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Put the mean of perturbation ``number`` [cells] into every cell; keep controls (-1)."""
    perturbed = number >= 0
    predicted = np.empty(pair.measured.shape, dtype=np.float32)
    predicted[perturbed] = mean.astype(np.float32)[number[perturbed]]
    controls = pair.measured[~perturbed]
    predicted[~perturbed] = controls.toarray() if issparse(controls) else controls
    return predicted


def _drawn(
    pair: Pair, number: NDArray[np.int64], pool: csr_matrix, *, means: Floats | None
) -> csr_matrix:
    """Draw cells of the pool for perturbation ``number`` [cells]; keep controls (-1).

    With means [perturbations, genes], map the drawn cells to them by rank.
    """
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], np.arange(len(pair.perturbations) + 1))
    parts = [csr_matrix(pair.measured[order[: first[0]]])]
    partners = draw_partners(pair.labels[order[first[0] :]], pool.shape[0], SEED)
    rng = np.random.default_rng(SEED)
    for row, (start, stop) in enumerate(pairwise(first - first[0])):
        cells = pool[partners[start:stop]]
        if means is not None:
            cells = csr_matrix(rank_cells(cells.toarray(), means[row], rng))
        parts.append(cells)
    return vstack(parts, format="csr", dtype=np.float32)[np.argsort(order)]
