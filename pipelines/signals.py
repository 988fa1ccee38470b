"""Signals that stop a run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_to(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have ``stop`` handle what stops a run; only a process's main thread may say so."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in STOPPING} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
