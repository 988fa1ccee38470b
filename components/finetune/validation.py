"""How well held-out (line, perturbation) sets are predicted: the scores that choose the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.finetune.checkpoint_manager import CheckpointManager
from components.finetune.data import Floats, TrainingData, ValidationSet
from components.finetune.deltas import LineDeltas
from components.finetune.selection import (
    NAN,
    discrimination,
    network_weight,
    pearson,
    reliability,
    weighted_mean,
)
from components.finetune.workers import ALONE, Workers
from components.shared.model.inference import predict_cells
from components.shared.model.tokens import Ints
from components.shared.parameters.recipe import RELIABLE, Recipe


@dataclass(frozen=True)
class Validation:
    """Means over held-out sets; NaN where there is none that has a value.

    A perturbation is seen if another line trained on it.
    """

    loss: float = NAN
    """Mean squared error of single cells, log1p units."""
    pearson_delta: float = NAN
    pearson_delta_seen: float = NAN
    pearson_delta_unseen: float = NAN
    discrimination: float = NAN
    discrimination_seen: float = NAN
    discrimination_unseen: float = NAN
    correlations: tuple[float, ...] = ()
    """pearson_delta of each set, NaN where it has none; sets in the order of the data's."""
    weights: tuple[float, ...] = ()
    """How much each set counts in `pearson_delta`."""
    network: float = 1.0
    """How much of the network's own change was added to known effects."""


@dataclass(frozen=True)
class HeldOut:
    """What of the held-out sets is the same in every validation of a fine-tune."""

    order: Ints
    """Of the genes in the windows, [genes]."""
    drawn: list[tuple[Ints, Ints]]
    """Rows of each set's cells, and of the controls that they are predicted from."""
    change: Floats
    """Measured delta, [sets, genes]."""
    reliable: Floats
    """How reliable that is, [sets]."""
    stray: Floats
    """How far the mean of those controls is from that of their pool, [sets, genes]."""

    @classmethod
    def of(cls, data: TrainingData, recipe: Recipe, seed: int) -> "HeldOut":
        """Draw and measure the held-out sets of ``data``."""
        rng = np.random.default_rng([seed, 3])
        order = rng.permutation(len(data.ids))
        drawn = [_draw(data, recipe, held_out, rng) for held_out in data.validation]
        lines = {one.line for one in data.validation}
        basal = {line: data.moments(data.basal[line])[0] for line in lines}
        spread = {line: data.moments(data.controls[line])[1] for line in lines}
        shape = len(drawn), len(data.ids)
        change, stray, reliable = np.empty(shape), np.zeros(shape), np.empty(len(drawn))
        for i, (held_out, (_, inputs)) in enumerate(zip(data.validation, drawn, strict=True)):
            change[i], reliable[i] = _measured(data, held_out, spread[held_out.line])
            # A change hardly differs from cell to cell, but the cells do: the inputs' stray from
            # their pool would blur every delta alike.
            if recipe.contrast:
                stray[i] = data.moments(inputs)[0] - basal[held_out.line]
        return cls(order, drawn, change, reliable, stray)


def validate(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    manager: CheckpointManager | None = None,
    workers: Workers = ALONE,
    sets: HeldOut | None = None,
    responses: Mapping[str, Floats] | None = None,
) -> Validation:
    """Predict every held-out set and compare its pseudobulk delta with the measured one.

    As in cell-eval, deltas are taken against the reference controls of the set's line;
    pearson_delta is their correlation over genes, weighed as the recipe says, and discrimination
    is their rank among the line's sets (see `discrimination`). Predictions are summed as they come:
    what is held of a set is its delta. Several ``workers`` predict a share of the sets each; the
    scores are the same. At SIGTERM to one of them the ``manager`` lets all leave once the set under
    way is done (SystemExit; the state is kept).

    ``seed`` is of the control cells and windows; ``sets`` are what was drawn and measured with it,
    where that is known already. ``responses`` are `own_responses`: with known effects a network
    counts for what it adds to them and to its lines' own responses.

    Raises:
        SystemExit: SIGTERM came; the state is kept.
    """
    model.eval()
    sets = sets or HeldOut.of(data, recipe, seed)
    own = {}
    for number, (rows, inputs) in workers.own(sets.drawn):
        if manager and manager.terminated:
            break
        held_out = data.validation[number]
        own[number] = _predict(model, data, recipe, held_out, rows, inputs, sets.order, device)
    if manager:
        manager.leave_if_terminated()
    found = workers.gathered(own)
    return _scored(data, recipe, sets, [found[i] for i in range(len(found))], responses or {})


def own_responses(data: TrainingData, measured: LineDeltas) -> dict[str, Floats]:
    """Return what each line's perturbations change, on average, beside what other lines tell.

    Held-out sets are of lines that train, so a network knows this of their line. It cannot know it
    of a new one. Line to change, [genes]; nothing where there are no known effects.
    """
    if data.effects is None:
        return {}
    found = {}
    for number, line in enumerate(data.controls):
        there = measured.there[number]
        known = data.effects[number][torch.from_numpy(there)].double().cpu().numpy()
        rest = measured.change[number][there] - known
        found[line] = rest.mean(axis=0) if len(rest) else np.zeros(len(data.ids))
    return found


def _without(change: Floats, response: Floats) -> Floats:
    """Return a change less its part along a line's own response, [genes]."""
    own = response - response.mean()
    size = float(own @ own)
    return change - (float(change @ own) / size) * own if size > 0 else change


def _scored(
    data: TrainingData,
    recipe: Recipe,
    sets: HeldOut,
    predictions: list[tuple[Floats, float]],
    responses: Mapping[str, Floats],
) -> Validation:
    """Score the predictions of all sets, from `_predict`, in the order of the data's."""
    known = data.effects if recipe.contrast else None
    if not predictions:  # and nothing says that a network adds to known effects
        return Validation(network=1.0 if known is None else 0.0)
    reference = np.array([data.reference_mean[held_out.line] for held_out in data.validation])
    predicted = np.array([mean for mean, _ in predictions]) - sets.stray - reference
    measured = sets.change
    weights = sets.reliable if recipe.selection == RELIABLE else np.ones(len(predictions))
    network = 1.0
    if known is not None:
        places = [_place(data, held_out) for held_out in data.validation]
        effects = np.array([known[place].double().cpu().numpy() for place in places])
        pairs = zip(data.validation, predicted - effects, strict=True)
        nothing = np.zeros(len(data.ids))
        change = np.array([_without(c, responses.get(s.line, nothing)) for s, c in pairs])
        network = network_weight(effects, change, measured, weights)
        predicted = effects + network * change
    correlations = np.array([pearson(a, b) for a, b in zip(predicted, measured, strict=True)])
    trained = {held_out.perturbation for held_out in data.seen()}
    seen = np.array([held_out.perturbation in trained for held_out in data.validation])
    ranks = _ranks(data, predicted, measured)
    cells = sum(len(rows) for rows, _ in sets.drawn)
    return Validation(
        sum(error for _, error in predictions) / cells if cells else NAN,
        *_means(correlations, seen, weights),
        *_means(ranks, seen, np.ones(len(ranks))),
        tuple(correlations.tolist()),
        tuple(weights.tolist()),
        network,
    )


def _measured(data: TrainingData, held_out: ValidationSet, spread: Floats) -> tuple[Floats, float]:
    """Return a set's measured delta, and its reliability beside the controls' variance, [genes]."""
    mean, variance = data.moments(held_out.rows)
    # A rare gene may not vary among a few cells: it varies as in controls, at least.
    controls = len(data.controls[held_out.line])
    noise = np.fmax(variance, spread) / len(held_out.rows) + spread / controls
    change = mean - data.reference_mean[held_out.line]
    return change, reliability(change, noise)


def _ranks(data: TrainingData, predicted: Floats, measured: Floats) -> Floats:
    """Return each set's discrimination among those of its line, [sets]."""
    ranks, start = [], 0
    for _, group in groupby(data.validation, lambda held_out: held_out.line):
        sets = list(group)
        own = slice(start, start + len(sets))
        targets = [data.targets[_place(data, held_out)[1]].measured for held_out in sets]
        ranks += discrimination(predicted[own], measured[own], targets)
        start += len(sets)
    return np.array(ranks)


def _place(data: TrainingData, held_out: ValidationSet) -> tuple[int, int]:
    """Return the numbers of a set's line and perturbation."""
    return (
        list(data.controls).index(held_out.line),
        data.perturbations.index(held_out.perturbation),
    )


def _means(values: Floats, seen: NDArray[np.bool_], weights: Floats) -> tuple[float, float, float]:
    """Return the mean of all sets, of those with a seen perturbation, and of the others."""
    return (
        weighted_mean(values, weights),
        weighted_mean(values[seen], weights[seen]),
        weighted_mean(values[~seen], weights[~seen]),
    )


def _draw(
    data: TrainingData, recipe: Recipe, held_out: ValidationSet, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draw the cells of a set, at most `validation_cells`, and as many controls of its line."""
    rows = held_out.rows
    if recipe.validation_cells and len(rows) > recipe.validation_cells:
        rows = np.sort(rng.choice(rows, recipe.validation_cells, replace=False))
    return rows, rng.choice(data.basal[held_out.line], len(rows))


def _predict(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    held_out: ValidationSet,
    rows: Ints,
    inputs: Ints,
    order: Ints,
    device: torch.device,
) -> tuple[Floats, float]:
    """Predict a set from the controls ``inputs``, beside its measured cells ``rows``.

    Returns the mean of its cells, [genes], and the sum over cells of their mean squared error
    against as many measured ones.
    """
    line, code = _place(data, held_out)
    known = data.known(np.array([line]), np.array([code]), np.arange(len(data.ids)))
    total, error = torch.zeros(len(data.ids), dtype=torch.float64), 0.0
    for start in range(0, len(rows), recipe.batch_size):
        part = slice(start, start + recipe.batch_size)
        basal = data.cells(inputs[part])
        output = predict_cells(
            model,
            basal,
            [data.targets[code]],
            data.ids,
            order,
            window=recipe.predict_window,
            contrast=recipe.contrast,
            device=device,
            precision=recipe.precision,
            effects=known,
        )
        error += float((output - data.cells(rows[part]).cpu()).square().mean(1).sum())
        total += output.sum(0, dtype=torch.float64)
    return total.numpy() / len(rows), error
