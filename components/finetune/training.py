"""The training loop: Adam, a step decay an epoch, validation by pearson_delta, early stop."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from components.finetune.batches import batches, epoch_pairs
from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.data import TrainingData
from components.finetune.keeping import Keeper
from components.finetune.objective import Deltas, delta_loss, measured_deltas
from components.finetune.recipe import Recipe
from components.finetune.state import Epoch, Fit, TrainingState
from components.finetune.validation import Validation, validate
from components.shared.errors import InputError, shortlist
from components.shared.inference import autocast, forward
from components.shared.model import export_state
from components.shared.progress import bar


def fit(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    checkpoints: Checkpoints | None = None,
    saved: Saved | None = None,
) -> Fit:
    """Fine-tune ``model`` in place and return the weights of its best validation epoch.

    Args:
        model: a `TransformerGenerator`, perhaps with a prior.
        data: training and validation cells.
        recipe: the settings.
        seed: reaches partners, order, windows and dropout.
        device: where to train.
        on_epoch: called after each epoch, to log it.
        checkpoints: where the state is kept, if it is; SIGTERM is answered then.
        saved: the checkpoint to go on from; training then ends as if it had never stopped.

    Raises:
        InputError: the loss is not finite (names epoch, step and perturbations).
        SystemExit: SIGTERM came; the state is kept.
    """
    state = TrainingState.begin(model, recipe, seed=seed, device=device)
    if saved:
        state.restore(saved.parts)
    deltas = measured_deltas(data) if recipe.delta_weight else None
    with Keeper(checkpoints, state, saved) as keeper:
        while not state.fit.stop_reason:
            _train_epoch(state, data, deltas, recipe, seed, keeper)
            validation = validate(
                model, data, recipe, seed=seed, device=device, between=keeper.leave_if_asked
            )
            on_epoch(_close_epoch(state, recipe, validation))
            keeper.save()
    state.count_time()
    return state.fit


def _train_epoch(
    state: TrainingState,
    data: TrainingData,
    deltas: Deltas | None,
    recipe: Recipe,
    seed: int,
    keeper: Keeper,
) -> None:
    """Train what is left of the epoch under way."""
    model, device, epoch = state.model, state.device, state.epoch
    started = time.perf_counter()
    model.train()
    pairs = epoch_pairs(data, recipe, seed, epoch)
    items = batches(data, pairs, recipe, seed, epoch, device, deltas, first=state.step)
    with bar(total=len(pairs), what=f"epoch {epoch}/{recipe.epochs}", unit=" cells") as progress:
        progress.initial = progress.n = state.cells
        for item in items:
            with autocast(device, recipe.precision):
                output = forward(model, item.batch)[:, : item.measured.shape[1]].float()
            loss = cell = F.mse_loss(output, item.measured)
            delta = torch.full_like(cell, torch.nan)
            if item.sets:
                delta = delta_loss(output, item.inputs, item.sets)
                loss = cell + recipe.delta_weight * delta
            value, cell_value, delta_value = torch.stack([loss, cell, delta]).tolist()
            if not np.isfinite(value):
                names = [data.perturbations[code] for code in np.unique(item.codes)]
                where = f"epoch {epoch}, step {state.step + 1} (perturbations {shortlist(names)})"
                raise _diverged(f"the loss is {value} at {where}", keeper)
            state.optimiser.zero_grad(set_to_none=True)
            state.scaler.scale(loss).backward()
            state.scaler.unscale_(state.optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            state.scaler.step(state.optimiser)
            state.scaler.update()
            state.step += 1
            state.loss_sum += cell_value * len(item.codes)
            state.delta_loss_sum += delta_value * len(item.codes)
            state.cells += len(item.codes)
            progress.update(len(item.codes))
            state.seconds += time.perf_counter() - started
            keeper.after_step()
            started = time.perf_counter()
    if not state.finite():
        raise _diverged(f"weights are not finite after epoch {epoch}, step {state.step}", keeper)


def _diverged(what: str, keeper: Keeper) -> InputError:
    advice = "lower learning_rate or use precision=bf16 or fp32"
    return InputError(f"{what}; {advice}{keeper.last_good()}")


def _close_epoch(state: TrainingState, recipe: Recipe, validation: Validation) -> Epoch:
    """Note the epoch, keep its weights if they are the best, and go on to the next or stop."""
    fit, epoch = state.fit, state.epoch
    facts = Epoch(
        epoch=epoch,
        train_loss=state.loss_sum / state.cells,
        train_delta_loss=state.delta_loss_sum / state.cells,
        **{f"val_{name}": value for name, value in asdict(validation).items()},
        learning_rate=float(state.schedule.get_last_lr()[0]),
        cells=state.cells,
        seconds=state.seconds,
        cells_per_second=state.cells / max(state.seconds, 1e-9),
    )
    fit.history.append(facts)
    state.schedule.step()
    pearson = validation.pearson_delta
    score = pearson if np.isfinite(pearson) else float("-inf")
    undecided = fit.best_pearson_delta == float("-inf")  # no finite score yet: the latest
    if undecided or score > fit.best_pearson_delta:
        fit.state = export_state(state.model)
        fit.best_epoch, fit.best_pearson_delta = epoch, score
    if epoch - fit.best_epoch >= recipe.early_stop_after:
        fit.stop_reason = f"no better validation pearson_delta for {recipe.early_stop_after} epochs"
    elif epoch == recipe.epochs:
        fit.stop_reason = f"all {recipe.epochs} epochs done"
    state.epoch, state.step = epoch + 1, 0
    state.loss_sum, state.delta_loss_sum, state.cells, state.seconds = 0.0, 0.0, 0, 0.0
    return facts
