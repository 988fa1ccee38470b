"""All that a fine-tune carries from one step to the next, and its form in a checkpoint."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from components.finetune.workers import ALONE, Workers
from components.shared.parameters.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch; what starts with ``val_`` is of `validation.Validation`."""

    epoch: int
    train_loss: float
    """Mean squared error of single cells, log1p units."""
    train_delta_loss: float
    """See `objective.delta_loss`; NaN where the recipe does not train on sets."""
    val_loss: float
    val_pearson_delta: float
    val_pearson_delta_seen: float
    val_pearson_delta_unseen: float
    val_discrimination: float
    val_discrimination_seen: float
    val_discrimination_unseen: float
    val_network: float
    learning_rate: float
    cells: int
    seconds: float
    cells_per_second: float

    def row(self) -> dict[str, Any]:
        """Return it as a plain dict, NaN as None."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


@dataclass
class Fit:
    """The outcome of a fine-tune: the best weights and how they were reached."""

    state: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_pearson_delta: float = float("-inf")
    stop_reason: str = ""
    history: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    """Wall clock, work that a killed process lost not counted."""
    correlations: list[float] = field(default_factory=list)
    """pearson_delta of each validation set in the best epoch."""
    known: list[float] = field(default_factory=list)
    """The same by known effects alone, where there are any."""
    network: float = 1.0
    """How much the network's own change counts beside known effects, in the weights kept."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the history as plain dicts, NaN as None."""
        return [epoch.row() for epoch in self.history]


@dataclass
class TrainingState:
    """A fine-tune under way.

    Steps and dropout are drawn from seed, epoch and step, so those are its place. Numbers up to
    `seconds` are of the epoch under way.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    device: torch.device
    epoch: int = 1
    step: int = 0
    """Steps done."""
    losses: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Sums over cells, where the model is: of the loss of single cells, and of that of sets."""
    cells: int = 0
    seconds: float = 0.0
    fit: Fit = field(default_factory=Fit)
    workers: Workers = ALONE
    _counted: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(
        cls, model: nn.Module, recipe: Recipe, *, device: torch.device, workers: Workers = ALONE
    ) -> "TrainingState":
        """Return the state before the first step."""
        model.to(device)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=recipe.learning_rate, fused=True)
        return cls(
            model,
            optimiser,
            torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=recipe.learning_rate_decay),
            torch.amp.GradScaler(enabled=device.type == "cuda" and recipe.precision == "fp16"),
            device,
            losses=torch.zeros(2, dtype=torch.float64, device=device),
            workers=workers,
        )

    @property
    def position(self) -> tuple[int, int]:
        """Epoch under way and steps done in it."""
        return self.epoch, self.step

    def count_time(self) -> None:
        """Add the wall clock since the last call to that of the fit."""
        now = time.perf_counter()
        self.fit.seconds += now - self._counted
        self._counted = now

    def finite(self) -> bool:
        """Return whether the losses and every weight are finite numbers.

        The loss on sets is NaN where a recipe has none.
        """
        numbers = [self.losses[0], *self.model.parameters()]
        return bool(torch.stack([number.isfinite().all() for number in numbers]).all())

    def parts(self) -> dict[str, Any]:
        """Return everything as tensors and plain containers, for `restore`."""
        self.count_time()
        fit = {name: value for name, value in vars(self.fit).items() if name != "state"}
        return {
            "weights": self.model.state_dict(),
            "best": self.fit.state,
            "optimiser": self.optimiser.state_dict(),
            "progress": {
                "epoch": self.epoch,
                "step": self.step,
                "losses": self.losses.cpu(),
                "cells": self.cells,
                "seconds": self.seconds,
                "fit": fit | {"history": [asdict(epoch) for epoch in self.fit.history]},
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        }

    def restore(self, parts: Mapping[str, Any]) -> None:
        """Go back to what `parts` returned, in a process that began with the same model."""
        progress = dict(parts["progress"])
        self.model.load_state_dict(parts["weights"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.schedule.load_state_dict(progress.pop("schedule"))
        # Else a schedule whose optimiser made no step in this process warns of it.
        self.optimiser._opt_called = True  # type: ignore[attr-defined]
        self.scaler.load_state_dict(progress.pop("scaler"))
        self.losses = progress.pop("losses").to(self.device)
        fit = dict(progress.pop("fit"))
        fit["history"] = history_of(parts)
        self.fit = Fit(state=parts["best"], **fit)
        for name, value in progress.items():
            setattr(self, name, value)


def history_of(parts: Mapping[str, Any]) -> list[Epoch]:
    """Return the epochs that are done in a state as `TrainingState.parts` returned it."""
    return [Epoch(**row) for row in parts["progress"]["fit"]["history"]]
