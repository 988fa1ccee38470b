"""The training loop by itself: seeds, the learning rate, when it stops, a share without cells."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from components.finetune import training
from components.finetune.batches import epoch_pairs, steps
from components.finetune.checkpoint_manager import CheckpointManager
from components.finetune.data import TrainingData
from components.finetune.state import Epoch, TrainingState
from components.finetune.training import Trainer, dropout_seed, fit
from components.finetune.validation import Validation
from components.finetune.workers import ALONE, Workers
from components.shared.model import model as scgpt_model
from components.shared.parameters.recipe import load_recipe
from tests.finetune.arrays import CPU, training_data
from tests.finetune.screens import VOCABULARY
from tests.publish.publish_run import ARGS

SMALL = {"epochs": 6, "batch_size": 16, "max_genes": 8, "set_size": 4, "learning_rate": 1e-3}


def recipe_of(**changes: Any) -> Any:
    return load_recipe("smoke", SMALL | changes)


def state_of(workers: Workers = ALONE, **changes: Any) -> TrainingState:
    torch.manual_seed(0)
    model = scgpt_model.build(ARGS, VOCABULARY)
    return TrainingState.begin(model, recipe_of(**changes), device=CPU, workers=workers)


def fitted(monkeypatch: pytest.MonkeyPatch, scores: list[float], **changes: Any) -> Any:
    """Train with validations that score as given."""
    coming = iter(scores)
    monkeypatch.setattr(
        training, "validate", lambda *_, **__: Validation(pearson_delta=next(coming))
    )
    epochs: list[Epoch] = []
    model = scgpt_model.build(ARGS, VOCABULARY)
    result = fit(
        model, training_data(), recipe_of(**changes), seed=0, device=CPU, on_epoch=epochs.append
    )
    assert epochs == result.history
    return result


def test_the_learning_rate_decays_by_its_factor_every_epoch(monkeypatch):
    result = fitted(monkeypatch, [0.1, 0.2, 0.3], epochs=3, learning_rate_decay=0.5)
    assert [epoch.learning_rate for epoch in result.history] == pytest.approx([1e-3, 5e-4, 2.5e-4])


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 2, 3, 1),
        ([0.5, 0.4, 0.6, 0.4, 0.6, 0.4], 2, 5, 3),  # as good as the best is no better
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 1, 2, 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),
    ],
)
def test_training_stops_so_many_epochs_after_its_best_and_keeps_that(
    monkeypatch, scores, patience, epochs, best
):
    result = fitted(monkeypatch, scores, early_stop_after=patience, selection="best")
    assert (len(result.history), result.best_epoch) == (epochs, best)
    assert ("no better validation" in result.stop_reason) == (epochs < 6)


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        ((0.4, 0.45, 0.5, 0.4), 3),  # the best of three epochs by luck
        ((0.1, 0.15, 0.12, 0.1), 1),
    ],
)
def test_the_last_epoch_is_kept_unless_another_leads_it_beyond_luck(monkeypatch, last, kept):
    first, sets = (0.5, 0.55, 0.5, 0.45), (1.0, 1.0, 1.0, 1.0)
    epochs = [(0.5, first), (0.4, last), (0.4, last)]
    coming = iter(epochs)

    def validated(*_: Any, **__: Any) -> Validation:
        score, correlations = next(coming)
        return Validation(pearson_delta=score, correlations=correlations, weights=sets)

    monkeypatch.setattr(training, "validate", validated)
    recipe = recipe_of(early_stop_after=2, selection="reliable")
    model = scgpt_model.build(ARGS, VOCABULARY)
    result = fit(model, training_data(), recipe, seed=0, device=CPU, on_epoch=lambda epoch: None)
    assert len(result.history) == 3
    assert result.best_epoch == kept
    assert result.best_pearson_delta == (0.5 if kept == 1 else 0.4)


def test_every_seed_process_epoch_and_step_has_dropout_of_its_own():
    state = state_of()
    places = [(0, 1, 0, 0), (1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1)]
    found = []
    for seed, epoch, step, rank in places:
        at = replace(state, epoch=epoch, step=step, workers=Workers(rank, 2))
        found.append(dropout_seed(seed, at))
        assert dropout_seed(seed, at) == found[-1]
    assert len(set(found)) == len(places)


@dataclass(frozen=True)
class _LastOfMany(Workers):
    """The last of more processes than a step has sets: its share is empty."""

    def sum_(self, tensors: Any) -> None:
        """Add nothing: the others are not there."""


def test_a_process_whose_first_step_has_no_share_takes_part_in_mixed_precision():
    data, recipe = training_data(), recipe_of()
    state = state_of(_LastOfMany(99, 100))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer = Trainer(state, data, None, recipe, 0, CheckpointManager(None, state, None))
    step = next(steps(data, epoch_pairs(data, recipe, 0, 1), recipe, 0, 1))
    share = trainer.share_of(step)
    assert not share
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    trainer.take(step, share)
    assert all(map(torch.equal, before, state.model.parameters()))
    assert state.scaler.get_scale() == 4.0
    assert np.isfinite(state.losses.numpy()).all()


def test_what_never_changes_is_measured_once_whatever_the_epochs(monkeypatch):
    counted = []
    real = TrainingData.moments

    def noted(data: TrainingData, rows: np.ndarray) -> Any:
        counted.append(len(rows))
        return real(data, rows)

    monkeypatch.setattr(TrainingData, "moments", noted)
    reads = []
    for epochs in (1, 3):
        counted.clear()
        model = scgpt_model.build(ARGS, VOCABULARY)
        settings = recipe_of(epochs=epochs, early_stop_after=9)
        found = fit(model, training_data(), settings, seed=0, device=CPU, on_epoch=lambda _: None)
        assert len(found.history) == epochs
        reads.append(sorted(counted))
    assert reads[0] == reads[1] != []
