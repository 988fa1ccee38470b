"""The finetune stage: cells, splits and a gene prior in, an scGPT checkpoint out."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from components.finetune.facts import announce
from components.finetune.model_files import write_model
from components.finetune.places import open_place
from components.finetune.ready import Asked, Ready, made_ready
from components.finetune.state import Epoch, Fit, history_of
from components.finetune.tracking import Tracker
from components.finetune.workers import joined, launch
from components.shared.artifacts.artifact import GENE_PRIOR, MODEL, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.splits import Splits
from components.shared.findings.origins import facts_of
from components.shared.parameters.numbers import whole_number
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.recipe import load_recipe


def finetune(
    cells: Path | str,
    splits: Path | str,
    prior: Path | str,
    target: Path | str,
    *,
    pretrained: str,
    recipe: str = "default",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoints: str = "",
    processes: int = 1,
) -> None:
    """Fine-tune scGPT's perturbation model and write a model artifact.

    Args:
        cells: cells artifact.
        splits: splits artifact made from it.
        prior: gene prior artifact aligned to the vocabulary of ``pretrained``.
        target: folder of the model artifact.
        pretrained: folder or URI with `best_model.pt`, `args.json` and `vocab.json`, or
            random://<size> for fresh weights, ?vocabulary=<uri of a vocab.json> if wanted.
        recipe: name of a recipe.
        overrides: settings of the recipe to replace.
        seed: reaches initial weights, control partners, batch order, windows and dropout.
        checkpoints: folder or URI of a bucket where the state of training is kept; training
            resumes from what is there, with as many processes or others. Empty: it is not kept.
        processes: how many train it together on this machine, each on a GPU of its own where there
            are GPUs; they divide each batch.

    Raises:
        InputError: an input that cannot be used; see the message.
        SystemExit: SIGTERM came; the state is kept.
    """
    arguments = locals() | {"overrides": dict(overrides or {}), "seed": whole_number("seed", seed)}
    del arguments["processes"]
    if processes > 1:
        launch(processes, one_process, arguments)
    else:
        one_process(**arguments)


def one_process(
    cells: Path | str,
    splits: Path | str,
    prior: Path | str,
    target: Path | str,
    pretrained: str,
    recipe: str,
    overrides: dict[str, Any],
    seed: int,
    checkpoints: str,
) -> None:
    """Be the only process of a fine-tune, or one of those that were started for it."""
    settings = load_recipe(recipe, overrides)
    place = open_place(checkpoints) if checkpoints else None
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    prior_artifact = opening(prior, GENE_PRIOR)
    parameters = {
        "pretrained": parse_pretrained(pretrained).shown,
        "recipe": recipe,
        "overrides": overrides,
        "seed": seed,
    }
    asked = Asked(opened, split, prior_artifact, pretrained, recipe, settings, seed, place)
    with joined() as workers:
        if not workers.first:
            made_ready(asked, workers).fit(lambda epoch: None)
            return
        with writing(target, MODEL, parameters=parameters, inputs=asked.inputs) as draft:
            ready = made_ready(asked, workers)
            announce(ready.facts, settings)
            with Tracker(parameters | {"settings": asdict(settings)} | ready.facts) as tracker:
                for epoch in history_of(ready.saved.parts) if ready.saved else ():
                    tracker.log(epoch.row())
                result = ready.fit(partial(report, tracker))
                stats = statistics(ready, result)
                stats["wandb_run"] = tracker.finish(draft.path)
            write_model(draft.path, ready, result, stats)
            draft.summary |= {key: value for key, value in stats.items() if key != "history"}
    if ready.store:
        ready.store.keep(1)
    reached = stats["best_val_pearson_delta"]
    score = "" if reached is None else f"validation pearson_delta {reached:.4f}, "
    print(
        f"finetune: wrote {target}: best epoch {result.best_epoch} of {stats['epochs_run']}, "
        f"{score}{result.stop_reason}",
        flush=True,
    )


def report(tracker: Tracker, epoch: Epoch) -> None:
    """Print an epoch and log it."""
    tracker.log(epoch.row())
    scores = (
        f"validation pearson_delta {epoch.val_pearson_delta:.4f}, discrimination "
        f"{epoch.val_discrimination:.3f}"
    )
    if epoch.epoch:
        words = f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, {scores}, "
        words += f"{epoch.cells_per_second:.0f} cells/s"
    else:
        words = f"known effects alone, before training: {scores}"
    print(f"finetune: {words}", flush=True)


def statistics(ready: Ready, result: Fit) -> dict[str, Any]:
    """Return what `training_stats.json` holds: what was known before, and what it came to."""
    seen = sum(epoch.cells for epoch in result.history)
    training = sum(epoch.seconds for epoch in result.history)
    best = next(row for row in result.rows() if row["epoch"] == result.best_epoch)
    found = {
        "recipe": ready.asked.recipe,
        "seed": ready.asked.seed,
        **ready.facts,
        "settings": asdict(ready.asked.settings),
        "epochs_run": result.history[-1].epoch,
        "best_epoch": result.best_epoch,
        **{f"best_{name}": value for name, value in best.items() if name.startswith("val_")},
        "network_weight": result.network if result.best_epoch else 0.0,
        "stop_reason": result.stop_reason,
        "cells_per_epoch": result.history[-1].cells,
        "cells_seen": seen,
        "cells_per_second": round(seen / training, 1),
        "wall_clock_seconds": round(result.seconds, 1),
        "unflagged": ready.data.unflagged(),
        "history": result.rows(),
    }
    return found | {"known_by": facts_of(found)}
