"""Fine-tunes in processes to be killed, forked from a server that has imported everything."""

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first optimiser imports takes as long as the rest of a run here

from components.finetune import checkpoint_manager, training
from components.finetune.finetune import finetune
from components.shared.model.scgpt_package import transformer_generator
from components.shared.storage import s3 as storage_s3  # noqa: F401
from components.shared.telling.errors import one_line_errors
from pipelines.containers import ENVIRONMENT
from tests.forkserver import FORKSERVER

transformer_generator()


Position = tuple[int, int]


class FineTune:
    """One process; its log and the steps it began are files, which outlive it."""

    def __init__(
        self, folder: Path, arguments: dict[str, Any], *, minutes: float, most: int | None = None
    ) -> None:
        """Start it; one that has begun a step more than ``most`` waits there to be killed."""
        folder.mkdir()
        self._log, self._steps = folder / "log", folder / "steps"
        self._log.touch()
        self._steps.touch()
        there = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        self.process = FORKSERVER.Process(
            target=_run, args=(arguments, minutes, most, str(self._log), str(self._steps), there)
        )
        self.process.start()

    def wait_for_steps(self, count: int) -> None:
        """Return when so many steps were begun, or the process has ended."""
        while len(self.begun) < count and self.process.is_alive():
            time.sleep(0.002)

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        self.process.join(120)
        assert self.process.exitcode is not None, "still running"
        return self.process.exitcode

    @property
    def begun(self) -> list[Position]:
        """Epoch and step of each step that was begun."""
        lines = self._steps.read_text().split("\n")[:-1]  # the last may be half written
        return [(int(epoch), int(step)) for epoch, step in map(str.split, lines)]

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def saved(self) -> list[Position]:
        """Epoch under way and steps done of each checkpoint it said it wrote."""
        found = re.findall(r"finetune: checkpoint epoch-(\d+)-step-(\d+)-", self.said)
        return [(int(epoch), int(step)) for epoch, step in found]


def _run(
    arguments: dict[str, Any],
    minutes: float,
    most: int | None,
    log: str,
    steps: str,
    environment: dict[str, str],
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    tempfile.tempdir = str(Path(log).parent)  # what a kill leaves goes with the test's folder
    torch.set_num_threads(1)
    checkpoint_manager.CHECKPOINT_MINUTES = minutes
    drawn, begun = training.steps, count(1)

    def announced(*place: Any, first: int) -> Iterator[Any]:
        epoch = place[4]
        with Path(steps).open("a", buffering=1) as file:
            for number, step in enumerate(drawn(*place, first=first), start=first + 1):
                file.write(f"{epoch} {number}\n")
                if most is not None and next(begun) > most + 1:
                    signal.pause()
                yield step

    training.steps = announced  # type: ignore[assignment]
    with one_line_errors("finetune"):
        finetune(**arguments)
