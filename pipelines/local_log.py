"""What KFP's local runner prints, without what only KFP reads."""

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

EXECUTOR = "[KFP Executor"
INPUT = "Got executor_input:"
ERROR = re.compile(r"[a-z][a-z-]*: error: ")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SELECTOR = "expression selector"
"""Of every parameter that a task takes from an item of a loop."""


class _Readable(io.TextIOBase):
    """Passes lines on, except the executor's own and the JSON of a task's input."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pending = ""
        self._in_json = False
        self.told_errors: list[str] = []
        """The lines with which tasks said why they failed."""

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            if ERROR.match(line.strip()):
                self.told_errors.append(line.strip())
            if self._shown(line):
                self._stream.write(line + "\n")
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _shown(self, line: str) -> bool:
        if self._in_json:
            # The JSON is indented as a whole; its last brace stands where its first one did.
            self._in_json = line.rstrip() not in ("}", "    }")
            return False
        self._in_json = EXECUTOR in line and INPUT in line
        return EXECUTOR not in line and bool(line.strip())


def plain(text: str) -> str:
    """Return text without the codes that colour a terminal."""
    return COLOUR.sub("", text)


@contextmanager
def readable_log() -> Iterator[_Readable]:
    """Leave out executor messages, task inputs as JSON, and warnings; yield what hears the log."""
    heard = _Readable(sys.stdout)
    with warnings.catch_warnings(), redirect_stdout(heard):
        warnings.filterwarnings("ignore", module=r"kfp\.local")
        # KFP says which tasks it took from the cache, but to nobody unless a handler is there.
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        logging.getLogger().addFilter(_is_for_people)
        try:
            yield heard
        finally:
            logging.getLogger().removeFilter(_is_for_people)


def _is_for_people(record: logging.LogRecord) -> bool:
    return SELECTOR not in record.getMessage().lower()
