"""The training loop: Adam, a step decay an epoch, validation by pearson_delta, early stop."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.finetune.batches import batches, epoch_pairs
from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.data import TrainingData, ValidationSet
from components.finetune.keeping import Keeper
from components.finetune.recipe import Recipe
from components.finetune.state import Epoch, Fit, TrainingState
from components.shared.errors import InputError, shortlist
from components.shared.inference import autocast, forward, predict_cells
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
    with Keeper(checkpoints, state, saved) as keeper:
        while not state.fit.stop_reason:
            _train_epoch(state, data, recipe, seed, keeper)
            val_loss, val_pearson = validate(
                model, data, recipe, seed=seed, device=device, between=keeper.leave_if_asked
            )
            on_epoch(_close_epoch(state, recipe, val_loss, val_pearson))
            keeper.save()
    state.count_time()
    return state.fit


def _train_epoch(
    state: TrainingState, data: TrainingData, recipe: Recipe, seed: int, keeper: Keeper
) -> None:
    """Train what is left of the epoch under way."""
    model, device, epoch = state.model, state.device, state.epoch
    started = time.perf_counter()
    model.train()
    pairs = epoch_pairs(data, recipe, seed, epoch)
    items = batches(data, pairs, recipe, seed, epoch, device, first=state.step)
    with bar(total=len(pairs), what=f"epoch {epoch}/{recipe.epochs}", unit=" cells") as progress:
        progress.initial = progress.n = state.cells
        for item in items:
            with autocast(device, recipe.precision):
                output = forward(model, item.batch)[:, : item.measured.shape[1]]
                loss = F.mse_loss(output.float(), item.measured)
            value = loss.item()
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
            state.loss_sum += value * len(item.codes)
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


def _close_epoch(
    state: TrainingState, recipe: Recipe, val_loss: float, val_pearson: float
) -> Epoch:
    """Note the epoch, keep its weights if they are the best, and go on to the next or stop."""
    fit, epoch = state.fit, state.epoch
    facts = Epoch(
        epoch,
        state.loss_sum / state.cells,
        val_loss,
        val_pearson,
        float(state.schedule.get_last_lr()[0]),
        state.cells,
        state.seconds,
        state.cells / max(state.seconds, 1e-9),
    )
    fit.history.append(facts)
    state.schedule.step()
    score = val_pearson if np.isfinite(val_pearson) else float("-inf")
    undecided = fit.best_pearson_delta == float("-inf")  # no finite score yet: the latest
    if undecided or score > fit.best_pearson_delta:
        fit.state = export_state(state.model)
        fit.best_epoch, fit.best_pearson_delta = epoch, score
    if epoch - fit.best_epoch >= recipe.early_stop_after:
        fit.stop_reason = f"no better validation pearson_delta for {recipe.early_stop_after} epochs"
    elif epoch == recipe.epochs:
        fit.stop_reason = f"all {recipe.epochs} epochs done"
    state.epoch, state.step = epoch + 1, 0
    state.loss_sum, state.cells, state.seconds = 0.0, 0, 0.0
    return facts


def validate(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return the mean squared error of single cells and the nan-mean pearson_delta over sets.

    As in cell-eval, pearson_delta is the correlation over genes of predicted and measured
    pseudobulk deltas; the delta is taken against the reference controls of the set's line. Both
    are NaN when there is no validation set. ``between`` is called after each set.
    """
    model.eval()
    rng = np.random.default_rng([seed, 3])
    order = rng.permutation(len(data.ids))
    errors, cells, correlations = 0.0, 0, []
    for held_out in data.validation:
        rows = held_out.rows
        if recipe.validation_cells and len(rows) > recipe.validation_cells:
            rows = np.sort(rng.choice(rows, recipe.validation_cells, replace=False))
        measured = data.expression[torch.from_numpy(rows)]
        predicted = _predict_set(model, data, recipe, held_out, len(rows), rng, order, device)
        errors += float(((predicted - measured) ** 2).mean(1).sum())
        cells += len(rows)
        reference = data.reference_mean[held_out.line]
        correlations.append(
            pearson(
                predicted.double().mean(0).numpy() - reference,
                measured.double().mean(0).numpy() - reference,
            )
        )
        between()
    finite = [value for value in correlations if np.isfinite(value)]
    nan = float("nan")
    return (errors / cells if cells else nan, float(np.mean(finite)) if finite else nan)


def _predict_set(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    held_out: ValidationSet,
    n_cells: int,
    rng: np.random.Generator,
    order: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    inputs = rng.choice(data.basal[held_out.line], n_cells)
    target = data.targets[data.perturbations.index(held_out.perturbation)]
    parts = []
    for start in range(0, n_cells, recipe.batch_size):
        basal = data.expression[torch.from_numpy(inputs[start : start + recipe.batch_size])]
        parts.append(
            predict_cells(
                model,
                basal,
                [target] * len(basal),
                data.ids,
                order,
                window=recipe.predict_window,
                contrast=recipe.contrast,
                device=device,
                precision=recipe.precision,
            )
        )
    return torch.cat(parts)


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation, NaN where either side does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")
