"""Signals that stop a run."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONCE = 1.0
"""Seconds within which signals are one: a terminal that closes, and a `timeout`, send two."""


@contextmanager
def started_by(tasks: Any, module: ModuleType, name: str) -> Iterator[None]:
    """Let ``tasks`` start what a function of KFP's would, and stop with signals to this process."""
    start = getattr(module, name)
    setattr(module, name, tasks.start)
    try:
        with signals_to(tasks.stop):
            yield
    finally:
        setattr(module, name, start)


@contextmanager
def signals_to(stop: Callable[[bool], None]) -> Iterator[None]:
    """Call ``stop`` with each signal that stops a run, with True where it is not the first.

    Only a process's main thread may say so. What is ignored, as by `nohup`, stays so.
    """
    first: list[float] = []

    def handle(*_: object) -> None:
        now = time.monotonic()
        if not first or now - first[0] > ONCE:
            stop(bool(first))
        first.append(now)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING if main}
    asked = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for number in asked:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, was in asked.items():
            signal.signal(number, was or signal.SIG_DFL)
