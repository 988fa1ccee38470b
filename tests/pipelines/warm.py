"""Runs that are forked from a process which has imported what they and their tasks need.

Two thirds of what a small run takes is imports, the same ones in each test. A run here is what
`python -m pipelines.run` is, and so is the host of its tasks, but that neither is a Python of its
own: the run is forked from `multiprocessing`'s forkserver, and the host from the run. Tests of what
an environment does to an import, or of what others see of a process, start a Python of their own.
"""

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

from pipelines import run as pipeline_run
from pipelines import task_host, task_processes
from tests.forkserver import FORKSERVER

ROOT = Path(__file__).resolve().parents[2]


class Host:
    """The host of a run's tasks, with what `task_processes` asks of a `subprocess.Popen`."""

    def __init__(self, its: socket.socket, environment: Mapping[str, str]) -> None:
        self._code: int | None = None
        open_here = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
        self._pid = os.fork()
        if not self._pid:
            for number in {*open_here} - {0, 1, 2, its.fileno()}:
                with suppress(OSError):  # whoever reads one waits for the last that has it open
                    os.close(number)
            _be_host(its, environment)

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self, timeout: float = 60) -> int:
        """Return how it ended, once it has."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("host", timeout)
            time.sleep(0.005)
        return code

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        if self.poll() is None:
            os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)


def _be_host(its: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Be the host, and the tasks that are forked from it; what the run left here is undone."""
    code: str | int | None = 1
    try:
        os.setpgid(0, 0)
        _begin(environment)
        logging.getLogger().filters.clear()
        logging.getLogger().handlers.clear()
        task_host.main(its)
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


def _begin(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))


def _be_run(arguments: Sequence[str], environment: Mapping[str, str], told: list[Path]) -> None:
    os.setsid()
    os.chdir(ROOT)
    for number, path in zip((1, 2), told, strict=True):
        with path.open("ab") as stream:
            os.dup2(stream.fileno(), number)
    _begin(environment)
    for module in task_host.IMPORTED:  # while KFP has not replaced `print`
        importlib.import_module(module)
    task_processes.started_host = Host  # type: ignore[assignment]
    pipeline_run.main(arguments)


def started(
    arguments: Sequence[str], environment: Mapping[str, str], told: list[Path]
) -> ForkServerProcess:
    """Start a run from the repository's root; ``told``: files for stdout and stderr.

    Its process leads a session of its own.
    """
    process = FORKSERVER.Process(target=_be_run, args=(list(arguments), dict(environment), told))
    process.start()
    return process


def run(arguments: Sequence[str], environment: Mapping[str, str], told: list[Path]) -> int:
    """Do the same, and return the exit code."""
    process = started(arguments, environment, told)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
