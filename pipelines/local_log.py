"""The output of KFP's local runner, without lines that only KFP reads.

Tasks of a comparison run side by side, each in a thread of KFP's. Lines are put together thread by
thread, and each carries the run that it is of. VERBOSE=1 shows KFP's own lines too.
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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from components.shared.parameters.prior_grammar import parse_prior

EXECUTOR = "[KFP Executor"
INPUT = "Got executor_input:"
ERROR = re.compile(r"[a-z][a-z-]*: error: ")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SELECTOR = "expression selector"
"""Of every parameter that a task takes from an item of a loop."""
ITEM = "to parent value: "
"""Text before the item of a loop in the line that says that a task takes something from it."""
CHATTER = re.compile(r"Streamed logs:|outputs:|has no outputs|Cleaned up workspace")
NEWS_TO_NOBODY = re.compile(r"Skipping task |(Executing task|Task) 'conclude'")
"""Of what comes after a task that failed, or that was stopped; the run's last line says it."""
RESULT = re.compile(r"[a-z-]+: result: ")
"""Lines for a cluster's last page; here the end of the run says it."""
STARTED = re.compile(r"Executing task '(.+)'")
JSON_START = re.compile(r'["{}\[\]\d-]|(true|false|null)\b')
LAST = "conclude"
ENDED = re.compile(r"Task 'evaluate(-\d+)?' finished")
"""In KFP's line on the last task of a run of a comparison."""
PROGRESS = re.compile(r"\d+%\|")
"""In a line of a bar, which on a terminal is drawn over the one before."""
CLEARED = "\r\x1b[K"


class _Said(threading.local):
    """State of one thread, which runs a task at a time."""

    pending = ""
    label = ""
    task = ""
    in_json = False


class _Readable(io.TextIOBase):
    """Passes whole lines on, except the executor's own and the JSON of a task's input."""

    def __init__(self, stream: TextIO, log: TextIO | None, *, verbose: bool, runs: int) -> None:
        self._stream = stream
        self._log = log
        self._verbose = verbose
        self._said = _Said()
        self._one_at_a_time = threading.Lock()
        self._here = f"{Path.cwd()}/"
        self._runs, self._ended, self._began = runs, 0, time.monotonic()
        self.told_errors: list[str] = []
        """The lines with which tasks said why they failed."""

    def write(self, text: str) -> int:
        *lines, self._said.pending = (self._said.pending + text).split("\n")
        for line in lines:
            self._hear(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """Pass on what stands without the end of its line."""
        rest, self._said.pending = self._said.pending, ""
        if rest.strip():
            self._hear(rest)

    def record(self, record: logging.LogRecord) -> bool:
        """Pass on what KFP logs; its own handlers change from task to task, and get nothing."""
        text = plain(record.getMessage())
        if SELECTOR in text.lower():
            self._said.label = label_of(text) or self._said.label
            return False
        if started := STARTED.search(text):
            self._said.task, self._said.in_json = started[1], False
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        chatter = record.levelno < logging.WARNING and bool(CHATTER.search(text))
        chatter = chatter or bool(NEWS_TO_NOBODY.search(text))
        for number, line in enumerate(text.rstrip().split("\n")):
            self._pass(f"{clock} {line}" if not number else line, chatter=chatter)
        if self._runs > 1 and ENDED.search(text):
            self._count()
        return False

    def _count(self) -> None:
        """Say how many runs of a comparison are done, and how long the others may take."""
        self._ended += 1
        left = self._runs - self._ended
        minutes = (time.monotonic() - self._began) / self._ended * left / 60
        took = f", about {max(1, round(minutes))} min left" if left > 0 else ""
        self._pass(f"{self._ended} of {self._runs} runs done{took}", chatter=False)

    def _hear(self, line: str) -> None:
        bare = plain(line).strip()
        if is_error := bool(ERROR.match(bare)):
            self.told_errors.append(bare)
            self._said.in_json = False
        if is_error or self._of_a_task(bare):
            self._pass(line, chatter=not is_error and self._is_chatter(bare))

    def _of_a_task(self, bare: str) -> bool:
        """Return whether a line is a task's: not blank, the executor's or of its input's JSON."""
        if EXECUTOR in bare:
            self._said.in_json = INPUT in bare
            return False
        self._said.in_json = self._said.in_json and (not bare or bool(JSON_START.match(bare)))
        return bool(bare) and not self._said.in_json

    def _is_chatter(self, bare: str) -> bool:
        if self._said.task.partition("-")[0] == LAST and not ERROR.match(bare):
            return True
        rule = len(bare) > 20 and set(bare) == {"-"}
        return rule or bool(RESULT.match(bare) or CHATTER.match(bare))

    def _pass(self, line: str, *, chatter: bool) -> None:
        if label := self._said.label:
            line = f"[{label}] {line.lstrip()}"
        with self._one_at_a_time:
            if self._log:
                self._log.write(plain(line) + "\n")
                self._log.flush()
            if self._verbose or not chatter:
                self._show(line.replace(self._here, ""))

    def _show(self, line: str) -> None:
        """Print a line; on a terminal a bar stays only until the next line."""
        if not self._stream.isatty():
            self._stream.write(line + "\n")
        elif PROGRESS.search(line):
            self._stream.write(CLEARED + plain(line)[: shutil.get_terminal_size().columns - 1])
        else:
            self._stream.write(f"{CLEARED}{line}\n")
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
    """Leave out executor messages, task inputs as JSON, and warnings; yield what hears the log.

    The file ``log`` is to hold what VERBOSE=1 would show. Several ``runs`` are counted as they end.
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
