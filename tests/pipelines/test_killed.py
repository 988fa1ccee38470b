"""Each stage is killed once: nothing of it stays, and what is run again ends the same."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from components.shared.artifacts.artifact import DRAFT
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


def started(runs: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own, so that each of its processes can be told."""
    runs.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pipelines.run", "demo", *SMALL, "--runs", str(runs)]
    environment = dict(os.environ) | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with (runs / "said").open("wb") as said:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )


def kill(run: subprocess.Popen[bytes], stage: str) -> bool:
    """Kill the process of a stage soon after it began; return whether there was one."""
    while run.poll() is None:
        for pid, name in processes(run.pid):
            if name == f"task {stage}":
                time.sleep(0.03)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.02)
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
        run = started(folder)
        assert kill(run, stage), (stage, (folder / "said").read_text()[-2000:])
        assert run.wait(120) == 1
        assert "Traceback" not in (folder / "said").read_text()
        assert no_process_left(run.pid)
        assert list(folder.rglob(f"*{DRAFT}")) == []
    for name in ("killed", "undisturbed"):
        assert started(tmp_path / name).wait(600) == 0, (tmp_path / name / "said").read_text()
    found, wanted = (digests(tmp_path / name) for name in ("killed", "undisturbed"))
    assert found == wanted and len(wanted) >= 16
