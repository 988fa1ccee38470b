"""Ctrl-C ends a run in one line, and the same command continues it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.runs import ROOT, no_process_left, processes

LONG = [
    "dataset=sim://screen?cells=300&genes=40&perturbations=6&lines=3&seed=3",
    "train_lines=[k562, jurkat]",
    "test_line=hepg2",
    "recipe=smoke",
    "prior=random:4",
    "overrides={epochs: 400, batch_size: 8, early_stop_after: 400}",
]


@contextmanager
def started(runs: Path, said: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "pipelines.run", "demo", *LONG, *flags]
    command += ["--runs", str(runs)]
    environment = dict(os.environ) | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with said.open("wb") as file:
        run = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield run
    finally:
        for pid, _ in processes(run.pid):
            os.kill(pid, signal.SIGKILL)
        run.wait(30)


def wait_for(pattern: str, said: Path, run: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 900
    while not re.search(pattern, said.read_text()):
        assert run.poll() is None and time.monotonic() < until, said.read_text()[-2000:]
        time.sleep(0.1)


def interrupt(run: subprocess.Popen[bytes]) -> int:
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    return run.wait(300)


def test_ctrl_c_keeps_a_checkpoint_from_which_the_same_command_resumes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with started(tmp_path / "runs", first) as run:
        wait_for(r"epoch [23]/400", first, run)
        assert interrupt(run) == 130
        assert no_process_left(run.pid)
    said = first.read_text()
    assert not re.search("Traceback|KeyboardInterrupt|Skipping|conclude", said)
    assert re.search(r"finetune: stopped at epoch (\d+), step \d+; .*same command resumes", said)
    assert said.rstrip().splitlines()[-1].startswith("run: stopped; the same command continues")
    with started(tmp_path / "runs", second) as run:
        wait_for(r"finetune: resuming from epoch ([2-9]|\d\d)", second, run)
        assert interrupt(run) == 130
