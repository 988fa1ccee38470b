"""Baselines: predictions without a model, from training cells alone.

Ahlmann-Eltze (Nature Methods 2025) and Systema (Nature Biotechnology 2025) found such baselines
level with, or ahead of, deep models.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from components.evaluate.contenders.ridge import ridge_deltas
from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Matrix, dense
from components.evaluate.inputs.training_lines import Training
from components.shared.artifacts import evaluation
from components.shared.artifacts.evaluation import MEAN_DELTA, MODEL, MODEL_MEANS, RIDGE
from components.shared.artifacts.matched_controls import BATCH
from components.shared.model.rank_cells import draw_matched_partners, draw_partners, rank_cells

SEED = 0
"""Draws the control cells that baselines are made of."""

Floats = NDArray[np.float64]


def baseline_means(
    training: Training, perturbations: list[str], vectors: Mapping[str, Floats] | None = None
) -> tuple[dict[str, Floats], dict[str, list[str]]]:
    """Return each baseline's mean for each perturbation, and which perturbations fell back.

    Means are [perturbations, genes], clipped to >= 0. By baseline, the perturbations it knows
    nothing of get the mean delta: those no training line has, or those without a vector of the gene
    prior (``vectors``, from `ridge.vectors_of`; None or empty = no ridge baseline).
    """
    mean = training.mean_delta()
    known = {
        evaluation.SAME_PERTURBATION_DELTA: {
            label: delta
            for label in perturbations
            if (delta := training.delta_of(label)) is not None
        }
    }
    if ridge := ridge_deltas(training, vectors or {}, perturbations):
        known[RIDGE] = ridge
    deltas = {
        evaluation.CONTROL_MEAN: np.zeros((len(perturbations), len(mean))),
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
    batches: NDArray[np.str_] | None = None,
) -> Iterator[tuple[str, Pair]]:
    """Yield (name, pair) of every prediction to be scored, one at a time, the model's first.

    Args:
        pair: the model's cells, their labels and the measured expression.
        own: the model's predicted means, [perturbations, genes of the pair].
        means: from `baseline_means` for ``pair.perturbations``.
        genes: genes of the columns of ``means`` and ``controls``, those of the pair among them.
        controls: basal controls of the test line, [controls, genes].
        ranked: whether a baseline's mean becomes cells as a model's does that predicts by rank:
            control cells mapped to it; else it is put into every cell of a perturbation.
        batches: batch of each control, where the model's cells are made from controls of the batch
            of the measured ones; [controls].
    """
    columns = pd.Index(genes).get_indexer(pd.Index(pair.genes))
    number = pd.Index(pair.perturbations).get_indexer(pd.Index(pair.labels))
    pool, measured = controls[:, columns], pair.measured
    partners = _partners(pair, pool.shape[0], batches)
    yield MODEL, pair
    yield MODEL_MEANS, pair.with_prediction(Broadcast(own, number, measured))
    yield evaluation.CONTROL_CELLS, pair.with_prediction(Drawn(pool, partners, number, measured))
    for name, mean in means.items():
        chosen = mean[:, columns]
        cells = (
            Drawn(pool, partners, number, measured, chosen)
            if ranked
            else Broadcast(chosen, number, measured)
        )
        yield name, pair.with_prediction(cells)


class Broadcast:
    """Cells that all hold the mean of their perturbation, beside the measured controls.

    Rows are made on request, so that no matrix of all cells is dense.
    """

    def __init__(
        self, means: NDArray[np.floating], number: NDArray[np.int64], measured: Matrix
    ) -> None:
        self.means = means.astype(np.float32)
        self.number = number
        self.measured = measured
        self.shape: tuple[int, int] = measured.shape
        self.dtype = self.means.dtype

    def __getitem__(self, rows: "NDArray[np.integer] | slice") -> NDArray[np.float32]:
        """Return the mean of perturbation ``number`` [cells]; of controls (-1) the measured."""
        rows = np.arange(self.shape[0])[rows]
        number = self.number[rows]
        found = self.means[number]
        if (control := number < 0).any():
            found[control] = dense(self.measured[rows[control]])
        return found


class Drawn:
    """Cells drawn for each perturbation from a pool of controls, beside the measured controls.

    With means they are mapped to those by rank. They are made on request, so that no matrix of all
    cells is in memory, and are the same whichever are made before.
    """

    def __init__(
        self,
        pool: csr_matrix,
        partners: NDArray[np.int64],
        number: NDArray[np.int64],
        measured: Matrix,
        means: Floats | None = None,
    ) -> None:
        order = np.argsort(number, kind="stable")
        self.first = np.searchsorted(number[order], np.arange(number.max() + 2))
        """First cell of each perturbation, in the order of `partners`."""
        self.partners = partners[order]
        """Of each cell, perturbation by perturbation, after the controls."""
        self.number = number
        self.pool = pool
        self.means = means
        self.measured = measured
        self.place = pd.Series(number).groupby(number).cumcount().to_numpy()
        """Of each cell among those of its perturbation."""
        self.shape: tuple[int, int] = measured.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, rows: "NDArray[np.integer] | slice") -> csr_matrix:
        """Return the cells drawn for perturbation ``number`` [cells]; of -1 the controls."""
        rows = np.arange(self.shape[0])[rows]
        number = self.number[rows]
        there = np.unique(number)
        parts = [
            self._cells(one)[self.place[rows[number == one]]]
            if one >= 0
            else csr_matrix(self.measured[rows[number == one]])
            for one in there
        ]
        if len(parts) == 1:
            return parts[0]
        stacked = vstack([csr_matrix((0, self.shape[1]), dtype=self.dtype), *parts], format="csr")
        return stacked[np.argsort(np.argsort(number, kind="stable"))]

    def _cells(self, one: int) -> csr_matrix:
        """Return all cells of a perturbation."""
        start, stop = self.first[one : one + 2]
        cells = self.pool[self.partners[start:stop]]
        if self.means is None:
            return cells
        rng = _after((start - self.first[0]) * self.shape[1])
        return csr_matrix(rank_cells(cells.toarray(), self.means[one], rng))


def _after(draws: int) -> np.random.Generator:
    """Return the generator of `SEED` after so many draws of 32 bits, as `rank_cells` makes them."""
    bits = np.random.PCG64(SEED)
    bits.advance(int(draws) // 2)
    rng = np.random.Generator(bits)
    rng.random(draws % 2, np.float32)
    return rng


def _partners(pair: Pair, controls: int, batches: NDArray[np.str_] | None) -> NDArray[np.int64]:
    """Return which control each perturbed cell is made from, [cells]; of control rows -1."""
    perturbed = np.flatnonzero(pair.labels != pair.control)
    labels = pair.labels[perturbed]
    partners = np.full(len(pair.labels), -1)
    if batches is None:
        partners[perturbed] = draw_partners(labels, controls, SEED)
    else:
        own = pair.obs[BATCH].to_numpy(str)[perturbed]
        partners[perturbed] = draw_matched_partners(labels, own, batches, SEED)
    return partners
