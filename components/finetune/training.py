"""The training loop: Adam, a step decay an epoch, validation by pearson_delta, early stop.

No cell is measured before and after its perturbation. So each perturbed cell is predicted from a
control cell of its line, drawn anew every epoch, and what two such cells differ by beside the
perturbation is noise that no prediction can lower. It cancels in the mean over a set of cells of
one (line, perturbation), which is why the loss has a second term (`objective`).

Nothing in it waits for the device: losses are summed where they are computed and looked at now and
then.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.finetune.batches import Step, TrainingBatch, divided, epoch_pairs, steps
from components.finetune.checkpoint_manager import CheckpointManager
from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.data import Floats, TrainingData
from components.finetune.deltas import LineDeltas, line_deltas
from components.finetune.objective import Deltas, delta_loss, measured_deltas
from components.finetune.selection import leads
from components.finetune.state import Epoch, Fit, TrainingState
from components.finetune.validation import HeldOut, Validation, own_responses, validate
from components.finetune.workers import ALONE, Workers
from components.shared.model.inference import autocast, forward
from components.shared.model.model import export_state, weigh_network
from components.shared.model.tokens import Ints
from components.shared.parameters.recipe import RELIABLE, Recipe
from components.shared.telling.errors import InputError, refusing, say, shortlist
from components.shared.telling.facts import count
from components.shared.telling.progress import bar

Share = list[TrainingBatch]

STEPS_UNREAD = 50
"""Steps of a GPU whose losses are looked at together; the CPU's are at once."""


@dataclass(frozen=True)
class Measured:
    """What training looks at of the changes that its cells show, which are as large as they."""

    deltas: Deltas | None
    """What sets of cells are trained on, where the recipe has it."""
    responses: dict[str, Floats]
    """See `own_responses`."""

    @classmethod
    def of(cls, data: TrainingData, recipe: Recipe, changes: LineDeltas) -> "Measured":
        """Take it from the changes of all lines and perturbations."""
        deltas = measured_deltas(data, changes) if recipe.delta_weight else None
        return cls(deltas, own_responses(data, changes))


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    checkpoints: Checkpoints | None = None,
    saved: Saved | None = None,
    workers: Workers = ALONE,
    measured: Measured | None = None,
) -> Fit:
    """Fine-tune ``model`` in place and return the weights of its best validation epoch.

    Args:
        model: a `TransformerGenerator`, perhaps with a prior.
        data: training and validation cells.
        recipe: the settings.
        seed: reaches partners, order, windows and dropout.
        device: where to train.
        on_epoch: called after each epoch, to log it.
        checkpoints: where the state is kept, if it is; SIGTERM is answered then (SystemExit).
        saved: the checkpoint to resume from; training then ends as if it had never stopped.
        workers: the processes that train together; each calls this with the same arguments.
        measured: of the training cells, where that is known already.

    Raises:
        InputError: the loss is not finite (names epoch, step and perturbations), or a set of cells
            does not fit the memory.
    """
    state = TrainingState.begin(model, recipe, device=device, workers=workers)
    if saved:
        state.restore(saved.parts)
    measured = measured or Measured.of(data, recipe, line_deltas(data))
    # What is left of memory errors: dividing a step does not help here.
    told = refusing(
        torch.OutOfMemoryError,
        "out of memory outside the steps",
        f"; lower batch_size={recipe.batch_size} or max_genes={recipe.max_genes}",
        lambda error: str(error).splitlines()[0],
    )
    with CheckpointManager(checkpoints, state, saved) as manager, told:
        validated = partial(
            validate,
            model,
            data,
            recipe,
            seed=seed,
            device=device,
            manager=manager,
            workers=workers,
            sets=HeldOut.of(data, recipe, seed),
            responses=measured.responses,
        )
        if data.effects is not None and not state.fit.history:
            # Known effects alone: what training has to beat to be kept.
            alone = validated()
            state.fit.known = list(alone.correlations)
            on_epoch(_note(state, recipe, 0, alone))
        trainer = Trainer(state, data, measured.deltas, recipe, seed, manager)
        while not state.fit.stop_reason:
            trainer.train_epoch()
            on_epoch(_close_epoch(state, recipe, validated()))
            manager.save()
    state.count_time()
    return state.fit


@dataclass
class Trainer:
    """Takes the steps of an epoch."""

    state: TrainingState
    data: TrainingData
    deltas: Deltas | None
    recipe: Recipe
    seed: int
    manager: CheckpointManager
    parts: int = 1
    """In how many parts this process computes its share of a step."""
    unread: list[tuple[int, Ints, Tensor]] = field(default_factory=list)
    """Step, perturbations and loss of the steps whose loss was not looked at yet."""

    def train_epoch(self) -> None:
        """Train what is left of the epoch under way."""
        state, epoch = self.state, self.state.epoch
        started = time.perf_counter()
        state.model.train()
        pairs = epoch_pairs(self.data, self.recipe, self.seed, epoch)
        total, what = len(pairs), f"epoch {epoch}/{self.recipe.epochs}"
        drawn = steps(
            self.data, pairs, self.recipe, self.seed, epoch, self.deltas, first=state.step
        )
        with bar(total=total, what=what, unit=" cells") as progress:
            progress.initial = progress.n = state.cells
            for step, parts, share in self._with_shares(drawn):
                self.take(step, share if parts == self.parts else self.share_of(step))
                state.step += 1
                state.cells += len(step.codes)
                progress.update(len(step.codes))
                state.seconds += time.perf_counter() - started
                self.manager.after_step()
                started = time.perf_counter()
        self._look()
        if not state.finite():
            where = f"after epoch {epoch}, step {state.step}"
            raise self._diverged(f"weights are not finite {where}")

    def _with_shares(self, drawn: Iterator[Step]) -> Iterator[tuple[Step, int, Share]]:
        """Yield each step, and the parts of this process's share of it."""
        made = ((step, self.parts, self.share_of(step)) for step in drawn)
        # From the host's memory the next is gathered while the device works on the one before.
        return made if self.data.expression.device == self.state.device else one_ahead(made)

    def share_of(self, step: Step) -> Share:
        """Return this process's part of a step, which may be empty, in as many parts as fit."""
        workers = self.state.workers
        own = divided(step.sets, workers.count)[workers.rank]
        parts = [part for part in divided(own, self.parts) if part] if own else []
        return [step.part(part, self.state.device) for part in parts]

    def take(self, step: Step, share: Share) -> None:
        """Make one update of the weights."""
        state, model = self.state, self.state.model
        while True:
            try:
                losses = self._gradients(share)
                break
            except torch.OutOfMemoryError:
                failed = max(len(batch.codes) for batch in share)
            state.optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._halve(step, failed)
            share = self.share_of(step)
        trained = [p for p in model.parameters() if p.requires_grad]
        if state.workers.count > 1:
            self._sum(trained, losses)
        state.losses += losses[1:].double() * len(step.codes)
        self.unread.append((state.step + 1, step.codes, losses[0]))
        if state.device.type == "cpu" or len(self.unread) == STEPS_UNREAD:
            self._look()
        state.scaler.unscale_(state.optimiser)
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.gradient_clip)
        state.scaler.step(state.optimiser)
        state.scaler.update()

    def _gradients(self, share: Share) -> Tensor:
        """Add up the gradients of this process's share; return its losses [total, cells, sets]."""
        state, recipe = self.state, self.recipe
        state.optimiser.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed(self.seed, state))
        losses = torch.zeros(3, device=state.device)
        state.scaler.scale(losses)  # it begins with what it first scales, and a share may be empty
        for item in share:
            with autocast(state.device, recipe.precision):
                output = forward(state.model, item.batch)[:, : item.measured.shape[1]].float()
            loss = cell = F.mse_loss(output, item.measured)
            delta = torch.full_like(cell, torch.nan)
            if item.sets:
                # What it is measured on is the change: it counts beside the noisy cells.
                delta = delta_loss(output, item.inputs, item.sets)
                loss = cell + recipe.delta_weight * delta
            state.scaler.scale(loss * item.share).backward()
            losses += item.share * torch.stack([loss, cell, delta]).detach()
        return losses

    def _sum(self, trained: Sequence[Tensor], losses: Tensor) -> None:
        """Make the gradients and losses those of all processes' shares."""
        for parameter in trained:
            if parameter.grad is None:  # a share without cells
                parameter.grad = torch.zeros_like(parameter)
        self.state.workers.sum_([*(p.grad for p in trained if p.grad is not None), losses])

    def _halve(self, step: Step, cells: int) -> None:
        """Compute in twice as many parts from now on."""
        recipe = self.recipe
        size = f"{cells} cells x {len(step.window.genes) + len(step.window.extra)} tokens"
        if self.parts >= len(step.sets):
            raise InputError(
                f"out of memory on {self.state.device} with {size}, the smallest part of a step; "
                f"lower max_genes={recipe.max_genes} or set_size={recipe.set_size}"
            )
        self.parts *= 2
        say(
            f"finetune: WARNING: out of memory on {self.state.device} with {size}; each step is "
            f"computed in {self.parts} parts from now on, its result the same but for dropout. "
            f"Lower batch_size={recipe.batch_size} or max_genes={recipe.max_genes} to avoid it"
        )

    def _look(self) -> None:
        """Look at the losses of the latest steps."""
        if not self.unread:
            return
        for (step, codes, _), value in zip(
            self.unread, torch.stack([loss for *_, loss in self.unread]).tolist(), strict=True
        ):
            if not np.isfinite(value):
                names = [self.data.perturbations[code] for code in np.unique(codes)]
                raise self._diverged(
                    f"the loss is {value} at epoch {self.state.epoch}, step {step} "
                    f"(perturbations {shortlist(names)})"
                )
        self.unread.clear()

    def _diverged(self, what: str) -> InputError:
        advice = "lower learning_rate or use precision=bf16 or fp32"
        return InputError(f"{what}; {advice}{self.manager.last_good()}")


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield ``items``, the next made by another thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def dropout_seed(seed: int, state: TrainingState) -> int:
    """Return a seed that no other step or process has: nothing random needs to be kept."""
    place = [seed, 7, state.workers.rank, *state.position]
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _close_epoch(state: TrainingState, recipe: Recipe, validation: Validation) -> Epoch:
    """Note the epoch, keep its weights if they are the best, and continue or stop."""
    fit, epoch = state.fit, state.epoch
    facts = _note(state, recipe, epoch, validation)
    state.schedule.step()
    if epoch - fit.best_epoch >= recipe.early_stop_after:
        without = count(recipe.early_stop_after, "epoch")
        fit.stop_reason = f"no better validation pearson_delta for {without}"
    elif epoch == recipe.epochs:
        fit.stop_reason = f"{count(recipe.epochs, 'epoch')} done"
    if fit.stop_reason and recipe.selection == RELIABLE and _adds(fit, validation, recipe):
        held = fit.correlations, validation.correlations, validation.weights
        if not leads(*held, recipe.epochs):  # the best epoch does not lead the last
            _keep(state, epoch, validation)
    state.epoch, state.step = epoch + 1, 0
    state.losses.zero_()
    state.cells, state.seconds = 0, 0.0
    return facts


def _note(state: TrainingState, recipe: Recipe, epoch: int, validation: Validation) -> Epoch:
    """Add an epoch to the history, and keep the weights if they are the best."""
    fit = state.fit
    losses = (state.losses / state.cells).tolist()  # NaN before there is any
    scores = {f"val_{name}": value for name, value in asdict(validation).items()}
    del scores["val_correlations"], scores["val_weights"]
    fit.history.append(
        Epoch(
            epoch=epoch,
            train_loss=losses[0],
            train_delta_loss=losses[1],
            **scores,
            learning_rate=float(state.schedule.get_last_lr()[0]),
            cells=state.cells,
            seconds=state.seconds,
            cells_per_second=state.cells / max(state.seconds, 1e-9),
        )
    )
    undecided = fit.best_pearson_delta == float("-inf")  # no finite score yet: the latest
    better = validation.pearson_delta > fit.best_pearson_delta
    if undecided or (better and _adds(fit, validation, recipe)):
        _keep(state, epoch, validation)
    return fit.history[-1]


def _adds(fit: Fit, validation: Validation, recipe: Recipe) -> bool:
    """Return whether held-out sets say that the model adds to what is known, if anything is."""
    if not fit.known:
        return True
    return leads(validation.correlations, fit.known, validation.weights, recipe.epochs)


def _keep(state: TrainingState, epoch: int, validation: Validation) -> None:
    """Keep the weights as they are, the network's part scaled as validation suggests."""
    fit, pearson = state.fit, validation.pearson_delta
    exported = export_state(state.model)
    fit.state = exported if validation.network == 1 else weigh_network(exported, validation.network)
    fit.best_epoch = epoch if validation.network else 0
    fit.best_pearson_delta = pearson if np.isfinite(pearson) else float("-inf")
    fit.correlations, fit.network = list(validation.correlations), validation.network
