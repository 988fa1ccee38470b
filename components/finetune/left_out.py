"""A training line that is left out, predicted from the other lines, without a network."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.finetune.cross_line_effects import Effects
from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.evidence import Evidence, blocks
from components.finetune.near_by import Ridge
from components.shared.artifacts import confidence
from components.shared.artifacts.confidence import (
    MEAN,
    MEASURED,
    NEAR_BY,
    SUMMED,
    HeldOut,
    correlations,
)
from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.training_effects import TrainingEffects

Known = tuple[str, NDArray[np.int64], Floats]
"""How effects are known, of which perturbations [n], and what they are [n, genes]."""


@dataclass(frozen=True)
class Screen:
    """A screen's perturbations: what is known beforehand, and what its lines measured."""

    labels: list[str]
    """Perturbations, the control first."""
    genes: list[str]
    """Modelled genes, those of deltas and effects."""
    deltas: list[LineDeltas]
    """Of the training lines, and of other screens."""
    vectors: Floats | None
    """A gene prior's vector of each perturbation, a row of zeros = none."""
    training: TrainingEffects
    """As measured, all genes."""


@dataclass(frozen=True)
class LeftOut:
    """How near the other lines come to what a line measured."""

    facts: HeldOut
    rows: pd.DataFrame
    """A row for each perturbation and way that its effect can be known: `line`, `known`, the
    features of expectations, and the `reached` pearson_delta. A perturbation that other lines have
    is also predicted as if they had not."""
    product: float
    """Sum of measured times estimated change, over genes and the perturbations that others have."""
    square: float
    """Sum of estimated change squared."""

    @property
    def lines(self) -> Floats:
        """How many lines have each of those perturbations."""
        rows = self.rows[self.rows["known"] == MEASURED]
        return rows["lines"].to_numpy(float)


def left_out(screen: Screen, known: Effects, evidence: Evidence, number: int) -> LeftOut:
    """Predict a training line from the others, and compare that with what it measured.

    What is measured is taken against the line's reference controls, as in an evaluation.
    """
    own, training = screen.deltas[0], screen.training
    line, similarity = own.lines[number], similarity_of(training, own.lines[number])
    table = evidence.table(evidence.without(line))
    parts, product, square = [], 0.0, 0.0
    for how, places, effects in _ways(screen, known, number):
        kept = own.there[number, places]
        part = table.iloc[places[kept]].assign(known=how, place=places[kept])
        found = _held_against(screen, line, places[kept], effects[kept])
        part[confidence.STRENGTH], part["reached"] = found[:, 0], found[:, 1]
        parts.append(part)
        if how == MEASURED:
            product, square = found[:, 2].sum(), found[:, 3].sum()
    rows = pd.concat(parts, ignore_index=True).assign(line=line)
    rows[confidence.CONTROL_SIMILARITY] = similarity
    measured = rows[rows["known"] == MEASURED]
    # Of each the best that is known of it without its own cells, the ways in this order.
    ways = [MEAN, NEAR_BY, SUMMED]
    others = rows[rows["known"] != MEASURED]
    best = others.loc[others["known"].map(ways.index).groupby(others["place"]).idxmax()]
    facts = HeldOut(
        line,
        similarity if np.isfinite(similarity) else None,
        len(measured),
        _mean(measured["reached"]),
        len(best),
        _mean(best["reached"]),
    )
    return LeftOut(facts, rows.drop(columns="place"), float(product), float(square))


def similarity_of(training: TrainingEffects, line: str) -> float:
    """Return how near a training line's controls are to the nearest other line's, or NaN."""
    if line not in training.lines:
        return float("nan")
    number = training.lines.index(line)
    control = np.asarray(training.control, float)
    return confidence.nearest_of(control[number], np.delete(control, number, axis=0))


def _ways(screen: Screen, known: Effects, number: int) -> Iterator[Known]:
    """Yield effects as estimated from other lines, and as they would be known without their own."""
    told = known.change[number].numpy().astype(float)
    there = np.flatnonzero([origin == MEASURED for origin in known.origins[number]])
    effects, n = told[there], len(there)
    yield MEASURED, there, effects
    absent = np.setdiff1d(np.arange(1, len(screen.labels)), there)
    if n > 1:
        mean = (effects.sum(axis=0) - effects) / (n - 1)
        rest = np.broadcast_to(effects.mean(axis=0), (len(absent), told.shape[1]))
        yield MEAN, np.concatenate([there, absent]), np.concatenate([mean, rest])
    if screen.vectors is not None:
        vectors = screen.vectors[there]
        if ridge := Ridge.fitted(effects, vectors):
            usable = vectors.any(axis=1)
            yield NEAR_BY, there[usable], effects[usable] - ridge.missed()
    place = {screen.labels[i]: int(i) for i in there}
    parts = {
        i: [place.get(gene, -1) for gene in genes_of(label)]
        for i, label in enumerate(screen.labels)
    }
    doubles = [i for i, rows in parts.items() if len(rows) > 1 and min(rows) >= 0]
    if doubles:
        summed = np.array([told[parts[i]].sum(axis=0) for i in doubles])
        yield SUMMED, np.array(doubles), summed


def _held_against(screen: Screen, line: str, places: NDArray[np.int64], effects: Floats) -> Floats:
    """Compare effects of some perturbations with what a line measured, all genes.

    Returns the root mean square of the effect over modelled genes, correlation with what was
    measured, sum of products, sum of squares, [perturbations, 4].
    """
    training = screen.training
    columns = pd.Index(training.genes).get_indexer(pd.Index(screen.genes))
    labels = pd.Index([screen.labels[i] for i in places], dtype=object)
    own = pd.Index(training.perturbations).get_indexer(labels)
    found = np.full((len(places), 4), np.nan)
    for block in blocks(len(places)):
        measured = np.asarray(training.change[training.lines.index(line), own[block]], float)
        predicted = np.zeros_like(measured)
        predicted[:, columns] = effects[block]
        centred = (each - each.mean(axis=1, keepdims=True) for each in (predicted, measured))
        found[block, 0] = strength_of(effects[block])
        found[block, 1] = correlations(*centred)
        found[block, 2] = (predicted * measured).sum(axis=1)
        found[block, 3] = np.square(predicted).sum(axis=1)
    return found


def strength_of(effects: Floats) -> Floats:
    """Return the root mean square over genes, log1p units, [perturbations]."""
    return np.sqrt(np.square(effects).mean(axis=1))


def _mean(values: "pd.Series[float]") -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
