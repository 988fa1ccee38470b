"""Results of training: epoch by epoch for whoever watches, and in the model's statistics."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from components.finetune.ready import Ready
from components.finetune.state import Epoch, Fit
from components.finetune.tracking import Tracker
from components.shared.findings.origins import facts_of


def reporting(tracker: Tracker) -> Callable[[Epoch], None]:
    """Return what prints an epoch and logs it."""

    def report(epoch: Epoch) -> None:
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

    return report


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
