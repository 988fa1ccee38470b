"""Follow a run on a cluster to its end: what changed, what runs now, what failed."""

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kfp_server_api import ApiException, V2beta1Run
from urllib3.exceptions import HTTPError

from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError
from components.shared.telling.kfp_run import Fetch, Run, Task
from pipelines.cluster import API_ERRORS, OTHER_PAGE, TIMEOUT, Client, cause, connect, reason
from pipelines.package import Package
from pipelines.waiting import Waiting

FINAL = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
TRANSIENT = (408, 429, 500, 502, 503, 504)
SECONDS_BETWEEN_LINES = 60.0
LONGEST_DELAY = 60.0
PATIENCE = 900.0
"""Seconds without an answer after which the watch ends; the run does not."""


class Progress:
    """Prints a line whenever a task changes state, and now and then what runs.

    On a terminal the last line says what runs; elsewhere (a CI log) one line per minute does.
    """

    def __init__(self, package: Package, runs: Sequence[str] = (), namespace: str = "") -> None:
        """Take what is watched."""
        self._tasks, self._looped, self._runs = package.tasks, package.looped, runs
        self._waiting = Waiting(namespace)
        self._width = max(map(len, self._tasks), default=0)
        self._states: dict[str, tuple[str, str]] = {}
        self._started = self._printed = time.monotonic()
        self._terminal = sys.stdout.isatty()

    def show(self, run: Run, page: Fetch) -> None:
        """Print what changed since the last call; ``page`` gets a page of the UI's server."""
        tasks = run.tasks()
        rounds = {id(task.detail): task.round for task in tasks}
        for detail in sorted(run.details, key=_start):
            name, state = detail.get("display_name") or "", detail.get("state")
            # Of a task in a loop the run is known once the task is placed among its nodes.
            placed = id(detail) in rounds or name not in self._looped or not run.workflow
            if name in self._tasks and state and placed:
                self._change(detail, self.label(name, rounds.get(id(detail))), state)
        running = [label for label, state in self._states.values() if state == "RUNNING"]
        for text in self._waiting.told(run, tasks, page, self.label):
            self.line(text)
        state = run.run.get("state") or "PENDING"
        self._now(f"{state}: {', '.join(running) or 'no task runs'}")

    def label(self, name: str, round: int | None) -> str:
        """Return what a task is called: its name, and of a comparison its run."""
        if round is None:
            return name
        run = self._runs[round] if round < len(self._runs) else f"run {round + 1}"
        return f"{name} ({run})"

    def _change(self, detail: Mapping[str, Any], label: str, state: str) -> None:
        key = detail.get("task_id") or label
        if self._states.get(key) != (label, state):
            self._states[key] = (label, state)
            spent = _spent(detail)
            self.line(f"{label:<{self._width}}  {state}" + (f" in {spent}" if spent else ""))

    def line(self, text: str) -> None:
        """Print a line with the time since the watch began."""
        self._printed = time.monotonic()
        print(f"{self._clear()}{self._elapsed()}  {text}", flush=True)

    def _now(self, text: str) -> None:
        if self._terminal:
            print(f"{self._clear()}{self._elapsed()}  {text}", end="", flush=True)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self.line(text)

    def end(self) -> None:
        """Leave the last line free for what is printed next."""
        print(self._clear(), end="", flush=True)

    def _clear(self) -> str:
        return "\r\x1b[K" if self._terminal else ""

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=int(time.monotonic() - self._started))


def follow(
    client: Client,
    host: str,
    run_id: str,
    progress: Progress,
    *,
    poll: float,
    patience: float = PATIENCE,
) -> V2beta1Run:
    """Ask for a run every ``poll`` seconds until it ends, and return it.

    An API that is away for a while is asked again, ever less often, for ``patience`` seconds; when
    a token has expired, a new client signs in anew.

    Raises:
        InputError: no answer for ``patience`` seconds, or one that waiting does not change.
    """
    answered, misses, expired = time.monotonic(), 0, False
    while True:
        try:
            client = connect(host) if expired else client
            run = _get(client, run_id)
        except API_ERRORS as error:
            again = _worth_asking_again(error, expired)
            if not again or time.monotonic() - answered > patience:
                progress.end()
                raise InputError(f"{reason(host, error)}; the run itself continues") from None
            misses, expired = misses + 1, getattr(error, "status", None) == 401
            if misses == 1 and not expired:
                progress.line(f"{shown(host)}: {cause(error)}; asking again")
            time.sleep(min(poll * 2**misses, LONGEST_DELAY))
            continue
        answered, misses, expired = time.monotonic(), 0, False
        progress.show(client.told(run), client.page)
        if run.state in FINAL:
            progress.end()
            return run
        time.sleep(poll)


def _worth_asking_again(error: ApiException | HTTPError, expired: bool) -> bool:
    """Tell what may pass, or what signing in again may fix, from what waiting does not change."""
    if not isinstance(error, ApiException):
        return True
    return error.status in TRANSIENT or (error.status == 401 and not expired)


def _get(client: Client, run_id: str) -> V2beta1Run:
    run = client.runs.run_service_get_run(run_id=run_id, _request_timeout=TIMEOUT)
    if run.run_id != run_id:  # a proxy's page, where the session with it has ended
        raise ApiException(status=401, reason=OTHER_PAGE)
    return run


def failed_tasks(run: Run, tasks: Collection[str]) -> Iterator[tuple[str, Task | None, str]]:
    """Yield each task that failed, or whose pod could not be planned: name, task, message.

    The message is empty where the API has none, which is the rule: KFP keeps a task's error in the
    log of its pod.
    """
    found = [task for task in run.tasks() if task.state == "FAILED" and task.name in tasks]
    for task in found:
        yield task.name, task, _message(task.detail)
    placed = {task.name for task in found}
    for name in run.failed_names():
        if name.removesuffix("-driver") in tasks and name not in placed:
            about = [one for one in run.details if one.get("display_name") == name]
            failed = [one for one in about if one.get("state") == "FAILED"]
            yield name, None, next(filter(None, map(_message, failed)), "")


def _message(detail: Mapping[str, Any]) -> str:
    histories = [detail, *reversed(detail.get("state_history") or [])]
    messages = [(entry.get("error") or {}).get("message") for entry in histories]
    return next((message for message in messages if message), "")


def _start(detail: Mapping[str, Any]) -> tuple[bool, str]:
    start = str(detail.get("start_time") or "")
    return (not start or start[:4] <= "1970", start)


def _spent(detail: Mapping[str, Any]) -> timedelta | None:
    times = (detail.get("start_time"), detail.get("end_time"))
    start, end = (datetime.fromisoformat(time) if time else None for time in times)
    return duration(start, end)


def duration(start: datetime | None, end: datetime | None) -> timedelta | None:
    """Return the time between two of the API's times; None while it lasts.

    A time that has not come is year 1 or 1970 in the API's answers.
    """
    if not (start and end) or min(start.year, end.year) <= 1970:
        return None
    return timedelta(seconds=round((end - start).total_seconds()))
