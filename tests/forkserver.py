"""The process that processes of tests are forked from: it has imported what they need, once.

A test's own process has threads by then, and may have trained, after which PyTorch forks no more.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

from pipelines.task_host import IMPORTED

FORKSERVER = multiprocessing.get_context("forkserver")
# There is one for all, and what it is to import is asked when it starts.
FORKSERVER.set_forkserver_preload(
    ["tests.finetune.finetune_process", "tests.pipelines.warm", *IMPORTED]
)


class Forked:
    """Python code that runs in a forked process of a session of its own."""

    def __init__(self, code: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it."""
        heard, told = FORKSERVER.Pipe(duplex=False)
        self._process = FORKSERVER.Process(
            target=_execute, args=(code, told, dict(environment or {}))
        )
        self._process.start()
        told.close()
        self._said = bytearray()
        self._listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._listener.start()

    @property
    def said(self) -> str:
        """All that it has said until now, on either stream."""
        return self._said.decode(errors="replace")

    def terminate(self) -> None:
        """Send SIGTERM to the process alone."""
        self._process.terminate()

    def end(self, seconds: float = 90) -> int:
        """Wait for the end, also of what it started, and return the exit code.

        Raises:
            TimeoutError: one of its processes is still there; it no longer is then.
        """
        until = time.monotonic() + seconds
        self._process.join(seconds)
        self._listener.join(max(0.0, until - time.monotonic()))  # whoever lives may speak
        code = self._process.exitcode
        if code is None or self._listener.is_alive():
            os.killpg(self._process.pid or 0, signal.SIGKILL)
            raise TimeoutError(f"still running after {seconds} s:\n{self.said}")
        return code

    def _listen(self, heard: Connection) -> None:
        with heard:
            while some := os.read(heard.fileno(), 1 << 16):
                self._said += some


def _execute(code: str, told: Connection, environment: dict[str, str]) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(told.fileno(), stream)
    told.close()
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    os.environ.update(environment)
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})  # noqa: S102
