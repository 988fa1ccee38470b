"""The training loop: Adam, a step decay an epoch, validation by pearson_delta, early stop."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.finetune.batches import batches, epoch_pairs
from components.finetune.data import TrainingData, ValidationSet
from components.finetune.recipe import Recipe
from components.shared.errors import InputError, shortlist
from components.shared.inference import autocast, forward, predict_cells
from components.shared.model import export_state
from components.shared.progress import bar


@dataclass(frozen=True)
class Epoch:
    """What one epoch was like; losses are mean squared errors of log1p expression."""

    epoch: int
    train_loss: float
    val_loss: float
    val_pearson_delta: float
    learning_rate: float
    cells: int
    seconds: float
    cells_per_second: float


@dataclass
class Fit:
    """The outcome of a fine-tune: the best weights and how they were reached."""

    state: dict[str, Tensor]
    best_epoch: int = 0
    best_pearson_delta: float = float("-inf")
    stop_reason: str = ""
    history: list[Epoch] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Return the history as plain dicts, NaN as None."""
        return [
            {key: None if value != value else value for key, value in asdict(epoch).items()}
            for epoch in self.history
        ]


def fit(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> Fit:
    """Fine-tune ``model`` in place and return the weights of its best validation epoch.

    Args:
        model: a `TransformerGenerator`, perhaps with a prior.
        data: training and validation cells.
        recipe: the settings.
        seed: reaches partners, order, windows and dropout.
        device: where to train.
        on_epoch: called after each epoch, to log it.

    Raises:
        InputError: the loss is not finite (names epoch, step and perturbations).
    """
    torch.manual_seed(seed)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=recipe.learning_rate_decay)
    scaler = torch.amp.GradScaler(enabled=device.type == "cuda" and recipe.precision == "fp16")
    result = Fit(state={})
    for epoch in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        rate = float(schedule.get_last_lr()[0])
        loss, cells = _train_epoch(model, data, recipe, optimiser, scaler, seed, epoch, device)
        seconds = time.perf_counter() - started
        val_loss, val_pearson = validate(model, data, recipe, seed=seed, device=device)
        schedule.step()
        facts = Epoch(
            epoch, loss, val_loss, val_pearson, rate, cells, seconds, cells / max(seconds, 1e-9)
        )
        result.history.append(facts)
        on_epoch(facts)
        score = val_pearson if np.isfinite(val_pearson) else float("-inf")
        undecided = result.best_pearson_delta == float("-inf")  # no finite score yet: the latest
        if undecided or score > result.best_pearson_delta:
            result.state = export_state(model)
            result.best_epoch, result.best_pearson_delta = epoch, score
        if epoch - result.best_epoch >= recipe.early_stop_after:
            result.stop_reason = (
                f"no better validation pearson_delta for {recipe.early_stop_after} epochs"
            )
            return result
    result.stop_reason = f"all {recipe.epochs} epochs done"
    return result


def _train_epoch(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    seed: int,
    epoch: int,
    device: torch.device,
) -> tuple[float, int]:
    """Train one epoch; return the mean loss and the number of cells seen."""
    model.train()
    pairs = epoch_pairs(data, recipe, seed, epoch)
    total, seen = 0.0, 0
    what = f"epoch {epoch}/{recipe.epochs}"
    with bar(total=len(pairs), what=what, unit=" cells") as progress:
        for step, item in enumerate(batches(data, pairs, recipe, seed, epoch, device), start=1):
            with autocast(device, recipe.precision):
                output = forward(model, item.batch)[:, : item.measured.shape[1]]
                loss = F.mse_loss(output.float(), item.measured)
            value = loss.item()
            if not np.isfinite(value):
                names = [data.perturbations[code] for code in np.unique(item.codes)]
                raise InputError(
                    f"the loss is {value} at epoch {epoch}, step {step} (perturbations "
                    f"{shortlist(names)}); lower learning_rate or use precision=bf16 or fp32"
                )
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            scaler.step(optimiser)
            scaler.update()
            total += value * len(item.codes)
            seen += len(item.codes)
            progress.update(len(item.codes))
    return total / seen, seen


def validate(
    model: Any, data: TrainingData, recipe: Recipe, *, seed: int, device: torch.device
) -> tuple[float, float]:
    """Return the mean squared error of single cells and the nan-mean pearson_delta over sets.

    As in cell-eval, pearson_delta is the correlation over genes of predicted and measured
    pseudobulk deltas; the delta is taken against the reference controls of the set's line. Both
    are NaN when there is no validation set.
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
