"""Each stage is killed once: nothing of it stays, and what is run again ends the same."""

import hashlib
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from components.shared.artifacts.artifact import DRAFT
from tests.forkserver import FORKSERVER
from tests.pipelines import warm
from tests.pipelines.runs import ROOT, no_process_left, processes

STAGES = ("check", "ingest", "split", "prior", "finetune", "predict", "evaluate", "publish")
SMALL = [
    "dataset=sim://screen?cells=300&genes=40&perturbations=6&lines=3&seed=3",
    "train_lines=[k562, jurkat]",
    "test_line=hepg2",
    "recipe=smoke",
    "overrides={epochs: 1}",
    "prior=random:4",
]
BY_THE_CLOCK = (
    "provenance.json",
    "README.md",
    "training_stats.json",
    "eval/report.html",
    "eval/explorer.html",
)
"""Published files that tell how long something took, or the digest of one that does."""


def arguments(runs: Path) -> list[str]:
    return ["demo", *SMALL, "--runs", str(runs)]


def environment() -> dict[str, str]:
    return dict(os.environ) | {"OMP_NUM_THREADS": "1"}


def started(runs: Path, said: Path, stage: str) -> ForkServerProcess:
    """Start a run in which a stage can be killed."""
    if stage != "check":
        return warm.started(arguments(runs), environment(), [said, said])
    # Where all is imported, it takes 20 ms.
    process = FORKSERVER.Process(target=_in_its_own_python, args=(runs, said))
    process.start()
    return process


def _in_its_own_python(runs: Path, said: Path) -> None:
    os.setsid()
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.execve(sys.executable, command(runs), environment())  # noqa: S606


def command(runs: Path) -> list[str]:
    return [sys.executable, "-m", "pipelines.run", *arguments(runs)]


def kill(run: ForkServerProcess, stage: str) -> bool:
    """Kill the process of a stage soon after it began; return whether there was one."""
    while run.is_alive():
        for pid, name in processes(run.pid or 0):
            if name == f"task {stage}":
                time.sleep(0.02)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.01)  # to look costs a few milliseconds itself
    return False


def digests(runs: Path) -> dict[str, str]:
    published = (runs / "latest" / "published").resolve()
    files = (path for path in published.rglob("*") if path.is_file())
    return {
        str(path.relative_to(published)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if str(path.relative_to(published)) not in BY_THE_CLOCK
    }


def test_a_run_whose_stages_were_each_killed_once_ends_with_the_same_files(tmp_path: Path) -> None:
    for stage in STAGES:
        # Prior runs beside ingest, so that where ingest was killed the cache may have it.
        folder = tmp_path / ("prior killed" if stage == "prior" else "killed")
        said = tmp_path / f"{stage} said"
        run = started(folder, said, stage)
        assert kill(run, stage), (stage, said.read_text()[-2000:])
        run.join(120)
        assert run.exitcode == 1
        assert "Traceback" not in said.read_text()
        assert no_process_left(run.pid or 0)
        assert list(folder.rglob(f"*{DRAFT}")) == []
    said = tmp_path / "resumed said"
    resumed = warm.run(arguments(tmp_path / "killed"), environment(), [said, said])
    assert resumed == 0 and "Traceback" not in said.read_text()
    assert warm.run(arguments(tmp_path / "undisturbed"), environment(), [said, said]) == 0
    found, wanted = (digests(tmp_path / name) for name in ("killed", "undisturbed"))
    assert found == wanted and len(wanted) >= 16
