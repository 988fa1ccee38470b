"""The outcome of a run in a few lines, for its last page and for whoever watches it.

The task that knows tells them in its log, where a cluster's API finds them, and keeps them in its
artifact's summary, where a run on this machine does.
"""

from collections.abc import Iterator
from pathlib import Path

from components.shared.storage.documents import read_json
from components.shared.telling.errors import InputError
from components.shared.telling.kfp_run import Fetch, Run

RESULT = "result"
"""Key of the lines in an artifact's summary, and the mark of them in a log."""

KNOWING = ("compare", "publish", "publish-best")
"""Tasks that tell a result; none of them is ever taken from the cache, which has no log."""


def tell_result(stage: str, text: str) -> None:
    """Print the lines of a result so that `told_results` finds them in the log."""
    for line in text.splitlines():
        print(f"{stage}: {RESULT}: {line}", flush=True)


def told_results(log: str) -> list[str]:
    """Return the lines of the results that tasks told in a log."""
    parts = (line.strip().partition(f": {RESULT}: ") for line in log.splitlines())
    return [text for stage, mark, text in parts if mark and stage.isalpha()]


def results_of(run: Run, fetch: Fetch, namespace: str) -> list[str]:
    """Return the lines of the results that the tasks of a run on a cluster told."""
    return [
        line
        for task in run.tasks()
        if task.name in KNOWING
        for line in told_results(run.said(task, fetch, namespace))
    ]


def kept_results(folder: Path) -> list[str]:
    """Return the lines of the results in the artifacts of a run on this machine.

    Its folder has one folder per task and in it one per artifact.
    """
    files = sorted(folder.glob("*/*/provenance.json"), key=lambda file: file.stat().st_mtime)
    return [line for file in files for line in _kept(file)]


def _kept(file: Path) -> Iterator[str]:
    """Yield the lines of one artifact, or one that says why they cannot be read."""
    try:
        found = read_json(file, str(file), "run its task again", {"summary": {f"{RESULT}?": str}})
    except InputError as error:
        yield f"What came of it cannot be read: {error}."
    else:
        yield from found["summary"].get(RESULT, "").splitlines()
