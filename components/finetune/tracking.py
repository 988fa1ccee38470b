"""Weights & Biases: offline unless a key is set, and never the reason a run fails."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Tracker:
    """A Weights & Biases run; where it cannot be reached, training goes on without it."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Start a run: online with `WANDB_API_KEY`, else offline in ``folder``/wandb."""
        import wandb

        self.mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        # Statistics and metadata of the machine are left out: they name paths, hosts and users.
        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=30,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            disable_git=True,
            save_code=False,
        )
        self._folder = folder
        self._run: Any = self._quietly(
            lambda: wandb.init(
                project=os.environ.get("WANDB_PROJECT", "scgpt-perturb"),
                mode=self.mode,  # type: ignore[arg-type]
                dir=str(folder),
                config=dict(config),
                settings=settings,
            )
        )

    def log(self, facts: Mapping[str, Any]) -> None:
        """Log the numbers of one epoch; ``facts`` has an `epoch`."""
        if self._run is not None:
            self._quietly(lambda: self._run.log(dict(facts), step=facts["epoch"]))

    def finish(self) -> str:
        """End the run and return its URL, or its folder relative to the artifact, or ''."""
        if self._run is None:
            return ""
        where = self._run.url or str(Path(self._run.dir).parent.relative_to(self._folder))
        self._quietly(self._run.finish)
        return where

    def _quietly(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            print(f"finetune: Weights & Biases is left out: {reason}", file=sys.stderr, flush=True)
            self._run = None
            return None
