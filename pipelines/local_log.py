"""The output of KFP's local runner: a line a task, with what it made and how long it took.

What a task says meanwhile is its progress: on a terminal each line is drawn over the one before,
elsewhere one is shown every ten seconds. Warnings stay, and so does all that a task said before it
failed without saying why. VERBOSE=1 shows everything, also KFP's own lines; the log has it anyway.

Tasks of a comparison run side by side, each in a thread of KFP's. Lines are put together thread by
thread, and each carries the run that it is of.
"""

import ast
import io
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from components.shared.parameters.prior_grammar import parse_prior
from components.shared.telling.facts import TITLE, titled
from pipelines.lean import stage_of

EXECUTOR = "[KFP Executor"
INPUT = "Got executor_input:"
ERROR = re.compile(r"[a-z][a-z-]*: error: ")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SELECTOR = "expression selector"
"""Of every parameter that a task takes from an item of a loop."""
ITEM = "to parent value: "
"""Text before the item of a loop in the line that says that a task takes something from it."""
RESULT = re.compile(r"[a-z-]+: result: ")
"""Lines for a cluster's last page; here the end of the run says it."""
STARTED = re.compile(r"Executing task '(.+)'")
ENDED = re.compile(r"Task '(.+)' finished with status ([A-Z]+)")
CACHED = re.compile(r"Task (\S+) cache hit")
JSON_START = re.compile(r'["{}\[\]\d-]|(true|false|null)\b')
LAST = "conclude"
SCORED = "evaluate"
"""The last task of a run of a comparison."""
MADE = re.compile(r"[a-z-]+: wrote .+: (.+)")
"""The line with which a task says what it made, after the folder."""
OPEN = "; open "
"""Text before the page that such a line may name."""
ELSEWHERE = "the line above says why"
"""Of the error of processes that train together, one of which says why, if it can."""
STAYS = re.compile(r"(?i)\b(warning|note|stopped|resuming|resumed|damaged|trying again)\b")
"""Words of lines that are more than progress."""
EVERY = 10.0
"""Seconds between lines of progress that are no bar's, off a terminal; a bar's come as slowly."""
LAST_WORDS = 40
"""Lines that are shown of a task which failed without an error line: those of a traceback."""
CLEARED = "\r\x1b[K"


@dataclass
class _Task:
    """What a task has said."""

    stage: str
    """What its own lines begin with."""
    began: float
    shown: float
    """When it was last heard of off a terminal."""
    made: str = ""
    said_why: bool = False
    """Whether it said why it failed."""
    words: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))


class _Said(threading.local):
    """State of one thread, which runs a task at a time."""

    def __init__(self) -> None:
        self.pending = self.label = ""
        self.task = _Task("", 0.0, 0.0)
        self.in_json = False


class _Readable(io.TextIOBase):
    """Passes on what a reader of the run needs, and writes everything into its log."""

    def __init__(self, stream: TextIO, log: TextIO | None, *, verbose: bool, runs: int) -> None:
        self._stream = stream
        self._log = log
        self._verbose = verbose
        self._said = _Said()
        self._one_at_a_time = threading.Lock()
        self._here = f"{Path.cwd()}/"
        self._runs, self._ended, self._cached, self._began = runs, 0, 0, time.monotonic()
        self._stayed: set[tuple[str, str]] = set()
        """What stays, which several runs of a comparison may say alike."""
        self.stopped: Callable[[], bool] = lambda: False
        """Whether the run was told to stop, after which a task that ends has not failed."""
        self.told_errors: list[str] = []
        """The lines with which tasks said why they failed."""

    def write(self, text: str) -> int:
        *lines, self._said.pending = (self._said.pending + text).split("\n")
        for line in lines:
            self._hear(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _hear_rest(self) -> None:
        """Hear what stands without the end of its line."""
        rest, self._said.pending = self._said.pending, ""
        if rest.strip():
            self._hear(rest)

    def end(self) -> None:
        """Hear what stands without the end of its line, and leave no progress behind."""
        self._hear_rest()
        if self._stream.isatty():
            self._stream.write(CLEARED)
            self._stream.flush()

    def record(self, record: logging.LogRecord) -> bool:
        """Hear what KFP logs; its own handlers change from task to task, and get nothing."""
        text = plain(record.getMessage())
        if ended := ENDED.search(text):
            self._hear_rest()
        if SELECTOR in text.lower():
            self._said.label = label_of(text) or self._said.label
            return False
        if started := STARTED.search(text):
            now = time.monotonic()
            self._said.task, self._said.in_json = _Task(stage_of(started[1]), now, now), False
            if self._said.task.stage != LAST:
                self._pass(f"{self._said.task.stage} …", self._said.task)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        cached = CACHED.search(text)
        of_the_run = record.levelno >= logging.WARNING and not ended
        for line in f"{clock} {text.rstrip()}".split("\n"):
            self._write(line)
            if self._verbose or of_the_run:
                self._show(self._labelled(line))
        if cached:
            self._tell(stage_of(cached[1]), "from the cache")
        elif ended and stage_of(ended[1]) != LAST:
            self._conclude(self._said.task, succeeded=ended[2] == "SUCCESS")
        if (done := ended or cached) and self._runs > 1 and stage_of(done[1]) == SCORED:
            self._count(cached=bool(cached))
        return False

    def _conclude(self, task: _Task, *, succeeded: bool) -> None:
        """Tell what a task made and how long it took, or what it said last before it failed."""
        took = f"{time.monotonic() - task.began:.0f} s"
        if succeeded:
            # In a comparison what fails is handed on, and the other runs continue.
            made = task.made or ("failed" if task.said_why else "done")
            self._tell(task.stage, f"{made}, {took}")
        elif not self.stopped():
            for line in () if task.said_why or self._verbose else task.words:
                self._show(self._labelled(line))
            self._tell(task.stage, f"failed after {took}")

    def _count(self, *, cached: bool) -> None:
        """Say how many runs of a comparison are done, and how long the others may take."""
        self._ended += 1
        self._cached += cached
        left, made = self._runs - self._ended, self._ended - self._cached
        minutes = (time.monotonic() - self._began) / max(made, 1) * left / 60
        took = f", about {max(1, round(minutes))} min left" if left and made else ""
        line = f"{self._ended} of {self._runs} runs done{took}"
        self._write(line)
        self._show(line)

    def _hear(self, line: str) -> None:
        """Hear a line of a task's, or one of the executor that starts it."""
        bare, task = plain(line).strip(), self._said.task
        if is_error := bool(ERROR.match(bare)):
            self.told_errors.append(bare)
            self._said.in_json = False
            task.said_why = task.said_why or ELSEWHERE not in bare
        elif not self._of_a_task(bare):
            return
        self._write(line)
        if made := MADE.match(bare.partition(OPEN)[0]):
            task.made = made[1]
        if self._verbose or is_error:
            self._show(self._labelled(line))
        elif not self._is_chatter(bare):
            task.words.append(line)
            if STAYS.search(bare) and not made and self._is_new(task, bare):
                self._tell(task.stage, bare.removeprefix(f"{task.stage}: "))
            else:
                self._pass(bare, task)

    def _is_new(self, task: _Task, bare: str) -> bool:
        """Return whether no run's task of this stage has said it yet; note that it has."""
        said = task.stage, bare
        with self._one_at_a_time:
            new = said not in self._stayed
            self._stayed.add(said)
        return new

    def _of_a_task(self, bare: str) -> bool:
        """Return whether a line is a task's: not blank, the executor's or of its input's JSON."""
        if EXECUTOR in bare:
            self._said.in_json = INPUT in bare
            return False
        self._said.in_json = self._said.in_json and (not bare or bool(JSON_START.match(bare)))
        return bool(bare) and not self._said.in_json

    def _is_chatter(self, bare: str) -> bool:
        """Return whether a line says nothing here: KFP's rules, and what is for other pages."""
        rule = len(bare) > 20 and set(bare) == {"-"}
        return rule or self._said.task.stage == LAST or bool(RESULT.match(bare))

    def _tell(self, title: str, fact: str) -> None:
        """Show a fact behind its title, on a terminal in its columns."""
        if self._stream.isatty():
            before = f"[{self._said.label}] " if self._said.label else ""
            lines = titled(title, fact.replace(self._here, ""), before=before)
        else:
            lines = [self._labelled(f"{title:<{TITLE - 1}} {fact}")]
        for line in lines:
            self._show(line)

    def _pass(self, bare: str, task: _Task) -> None:
        """Show a line that the next one may replace."""
        labelled = self._labelled(bare).replace(self._here, "")
        if self._stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            with self._one_at_a_time:
                self._stream.write(CLEARED + labelled[:width])
                self._stream.flush()
        elif time.monotonic() - task.shown >= EVERY:
            task.shown = time.monotonic()
            self._show(labelled)

    def _labelled(self, line: str) -> str:
        label = self._said.label
        return f"[{label}] {line.lstrip()}" if label else line

    def _write(self, line: str) -> None:
        """Write a line to the log."""
        with self._one_at_a_time:
            if self._log:
                self._log.write(plain(self._labelled(line)) + "\n")
                self._log.flush()

    def _show(self, line: str) -> None:
        """Print a line to stay."""
        text = line.replace(self._here, "")
        with self._one_at_a_time:
            self._stream.write(f"{CLEARED if self._stream.isatty() else ''}{text}\n")
            self._stream.flush()


def plain(text: str) -> str:
    """Return text without the codes that colour a terminal."""
    return COLOUR.sub("", text)


def label_of(text: str) -> str:
    """Return which run of a comparison a task is of, from KFP's line on its item of the loop."""
    item = _value(text.partition(ITEM)[2])
    if not isinstance(item, dict) or not {"prior", "seed"} <= set(item):
        return ""
    return f"{parse_prior(item['prior']).shown} seed {int(item['seed'])}"


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            return read(text)
    return None


@contextmanager
def readable_log(log: Path | None = None, *, runs: int = 1) -> Iterator[_Readable]:
    """Show a line a task, as the module tells; yield what hears the log.

    The file ``log`` is to hold all that tasks and KFP say; several ``runs`` are counted.
    """
    verbose = os.environ.get("VERBOSE", "0") not in ("", "0")
    root = logging.getLogger()
    level = root.level
    with log.open("a") if log else nullcontext() as file, warnings.catch_warnings():
        heard = _Readable(sys.stdout, file, verbose=verbose, runs=runs)
        warnings.filterwarnings("ignore", module=r"kfp\.local")
        # KFP says which tasks it took from the cache, but to nobody unless somebody listens.
        root.setLevel(logging.INFO)
        root.addFilter(heard.record)
        try:
            with redirect_stdout(heard):
                yield heard
        finally:
            heard.end()
            root.removeFilter(heard.record)
            root.setLevel(level)
