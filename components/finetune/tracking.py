"""Weights & Biases: offline unless a key is set, and never the reason a run fails."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Tracker:
    """A Weights & Biases run; where it cannot be reached, training goes on without it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Start a run: online with `WANDB_API_KEY` if that works, else offline."""
        # Its own process goes on writing logs for a while, so the run is kept outside the artifact.
        self._scratch = tempfile.mkdtemp(prefix="wandb.")
        self._run: Any = None
        if os.environ.get("WANDB_API_KEY"):
            self._run = self._quietly(lambda: self._start(config, "online"))
        if self._run is None:
            self._run = self._quietly(lambda: self._start(config, "offline"))

    def _start(self, config: Mapping[str, Any], mode: Literal["online", "offline"]) -> Any:
        import wandb

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
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "scgpt-perturb"),
            mode=mode,
            dir=self._scratch,
            config=dict(config),
            settings=settings,
        )

    def log(self, facts: Mapping[str, Any]) -> None:
        """Log the numbers of one epoch; ``facts`` has an `epoch`."""
        if self._run is not None:
            self._quietly(lambda: self._run.log(dict(facts), step=facts["epoch"]))

    def finish(self, folder: Path) -> str:
        """End the run and keep it in ``folder``/wandb, where `wandb sync` can send it later.

        Returns:
            The run's URL when online, else its folder relative to ``folder``, '' without a run.
        """
        kept = self._quietly(lambda: self._keep(folder)) if self._run is not None else None
        self._run = None
        return kept or ""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        """Mark a run that was not finished as failed, and tidy up."""
        if self._run is not None:
            self._quietly(lambda: self._run.finish(exit_code=1))
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _keep(self, folder: Path) -> str:
        run = Path(self._run.dir).parent
        url = None if self._run.settings.mode == "offline" else self._run.url
        self._run.finish()
        kept = Path("wandb") / run.name
        shutil.copytree(run, folder / kept, ignore=shutil.ignore_patterns("logs", "tmp", "*.log"))
        return url or str(kept)

    def _quietly(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            print(f"finetune: Weights & Biases failed: {reason}", file=sys.stderr, flush=True)
            self._run = None
            return None
