"""Follow a run on a cluster to its end: what changed, what runs now, what failed."""

import sys
import time
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from kfp_server_api import ApiException, V2beta1PipelineTaskDetail, V2beta1Run
from urllib3.exceptions import HTTPError

from components.shared.downloads import shown
from components.shared.errors import InputError
from pipelines.cluster import API_ERRORS, OTHER_PAGE, TIMEOUT, Client, cause, connect, reason

FINAL = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
TRANSIENT = (408, 429, 500, 502, 503, 504)
SECONDS_BETWEEN_LINES = 60.0
LONGEST_DELAY = 60.0
PATIENCE = 900.0
"""Seconds without an answer after which the watch ends; the run does not."""


class Progress:
    """Prints a line whenever a task changes state, and now and then what runs.

    On a terminal the last line says what runs; elsewhere (a CI log) a line a minute does.
    """

    def __init__(self, tasks: Collection[str]) -> None:
        self._tasks = tasks
        self._width = max(map(len, tasks), default=0)
        self._states: dict[str, str] = {}
        self._started = self._printed = time.monotonic()
        self._terminal = sys.stdout.isatty()

    def show(self, run: V2beta1Run) -> None:
        """Print what changed since the last call."""
        for task in _details(run):
            name, state = task.display_name, task.state
            if name in self._tasks and state and self._states.get(name) != state:
                self._states[name] = state
                spent = duration(task.start_time, task.end_time)
                self.line(f"{name:<{self._width}}  {state}" + (f" in {spent}" if spent else ""))
        running = [name for name, state in self._states.items() if state == "RUNNING"]
        self._now(f"{run.state or 'PENDING'}: {', '.join(running) or 'no task runs'}")

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

    An API that is away for a while is asked again, ever less often; when a token has expired, a
    new client signs in anew.

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
                raise InputError(f"{reason(host, error)}; the run itself goes on") from None
            misses, expired = misses + 1, getattr(error, "status", None) == 401
            if misses == 1 and not expired:
                progress.line(f"{shown(host)}: {cause(error)}; asking again")
            time.sleep(min(poll * 2**misses, LONGEST_DELAY))
            continue
        answered, misses, expired = time.monotonic(), 0, False
        progress.show(run)
        if run.state in FINAL:
            progress.end()
            return run
        time.sleep(poll)


def _worth_asking_again(error: ApiException | HTTPError, expired: bool) -> bool:
    """Tell what may pass, or what signing in anew may mend, from what waiting does not change."""
    if not isinstance(error, ApiException):
        return True
    return error.status in TRANSIENT or (error.status == 401 and not expired)


def _get(client: Client, run_id: str) -> V2beta1Run:
    run = client.runs.run_service_get_run(run_id=run_id, _request_timeout=TIMEOUT)
    if run.run_id != run_id:  # a proxy's page, where the session with it has ended
        raise ApiException(status=401, reason=OTHER_PAGE)
    return run


def failed_tasks(run: V2beta1Run, tasks: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield name and message of each task that failed, or whose pod could not be planned.

    The message is empty where the API has none, which is the rule: KFP keeps a task's error in the
    log of its pod.
    """
    for task in _details(run):
        if task.state == "FAILED" and task.display_name.removesuffix("-driver") in tasks:
            histories = [task, *reversed(task.state_history or [])]
            messages = (entry.error.message for entry in histories if entry.error)
            yield task.display_name, next((message for message in messages if message), "")


def duration(start: datetime | None, end: datetime | None) -> timedelta | None:
    """Return the time between two of the API's times; None while it lasts.

    A time that has not come is year 1 or 1970 in the API's answers.
    """
    if not (start and end) or min(start.year, end.year) <= 1970:
        return None
    return timedelta(seconds=round((end - start).total_seconds()))


def _details(run: V2beta1Run) -> list[V2beta1PipelineTaskDetail]:
    """Return what Argo tells of a run's nodes, the earliest first."""
    details = run.run_details.task_details if run.run_details else None
    return sorted(details or [], key=lambda task: (task.start_time is None, str(task.start_time)))
