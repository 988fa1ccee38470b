"""A run from the command line, and where what it wrote lies."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from pipelines.history import LATEST, LOG
from tests.pipelines import warm

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED_FILES = {
    "best_model.pt",
    "args.json",
    "vocab.json",
    "training_stats.json",
    "eval/results.csv",
    "eval/agg_results.csv",
    "eval/summary.csv",
    "eval/report.html",
    "predictions/scgpt_replogle_test.h5ad",
    "README.md",
    "provenance.json",
}


def run(runs: Path, params: str, *assignments: str) -> subprocess.CompletedProcess[str]:
    arguments = [params, *assignments, "--runs", str(runs)]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, "stdout"), Path(folder, "stderr")]
        code = warm.run(arguments, os.environ, said)
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in said))


def path_after(word: str, output: str) -> Path:
    """Return where a printed path led when its run ended, whatever `latest` leads to now."""
    told = {}
    for name in ("run", word):
        [line] = [line for line in output.splitlines() if line.startswith(f"{name} ")]
        told[name] = line.split(maxsplit=1)[1]
    folder, _, inside = told[word].partition(f"/{LATEST}/")
    return Path(folder, told["run"], inside).resolve()


def log_of(output: str) -> str:
    """Return the log of a run that ended well."""
    return path_after("log", output).read_text()


def tasks_told(output: str) -> list[tuple[str, str]]:
    """Return the tasks that a run told of, in a line each, and what it said that each made."""
    line = r"^(?:\[[^\]]+\] )?([a-z]+) +(\S.*), \d+ s$|^(?:\[[^\]]+\] )?([a-z]+) +(from the cache)$"
    return [
        (found[1] or found[3], found[2] or found[4])
        for found in re.finditer(line, output, re.MULTILINE)
    ]


def processes(session: int) -> Iterator[tuple[int, str]]:
    """Yield the processes of a session that live, each with the name that ps shows."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                yield int(folder.name), (folder / "comm").read_text().strip()


def no_process_left(session: int) -> bool:
    """Return whether all processes of a session end within seconds."""
    until = time.monotonic() + 5
    while left := list(processes(session)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return not left


LONG = [
    "dataset=sim://screen?cells=300&genes=40&perturbations=6&lines=3&seed=3",
    "train_lines=[k562, jurkat]",
    "test_line=hepg2",
    "recipe=smoke",
    "prior=random:4",
    "overrides={epochs: 400, batch_size: 8, early_stop_after: 400}",
]


def _long(runs: Path, *flags: str) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment of a run that trains for long."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    return ["demo", *LONG, *flags, "--runs", str(runs)], environment


@contextmanager
def started(runs: Path, said: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run that trains for long, in a session of its own; kill what is left of it."""
    arguments, environment = _long(runs, *flags)
    command = [sys.executable, "-m", "pipelines.run", *arguments]
    with said.open("wb") as file:
        run = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield run
    finally:
        _kill_session(run.pid)
        run.wait(30)


@contextmanager
def started_warm(runs: Path, said: Path) -> Iterator[ForkServerProcess]:
    """Start the same run, without its imports."""
    run = warm.started(*_long(runs), [said, said])
    try:
        yield run
    finally:
        assert run.pid
        _kill_session(run.pid)
        run.join(30)


def _kill_session(session: int) -> None:
    for pid, _ in processes(session):
        os.kill(pid, signal.SIGKILL)


def wait_for(pattern: str, runs: Path, poll: Callable[[], int | None]) -> None:
    """Wait until the log of the newest run tells it; ``poll`` returns how a run ended."""
    until = time.monotonic() + 900
    while True:
        logs = sorted(runs.glob(f"*/{LOG}"))
        said = logs[-1].read_text() if logs else ""
        if re.search(pattern, said):
            return
        assert poll() is None and time.monotonic() < until, said[-2000:]
        time.sleep(0.1)


def interrupt(run: subprocess.Popen[bytes]) -> int:
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    return run.wait(300)
