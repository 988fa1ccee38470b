"""Tasks as processes of this machine, each forked from one that has imported what they need.

KFP's local runner starts each task's Python anew, with its parameters on its command line, which
every user of the machine may read, and an address among them may hold a password. Here a
`task_host` forks it and hands them over.

Ctrl-C stops a run as SIGTERM stops a task: what is being trained finishes its step and writes a
checkpoint. A second one ends the tasks at once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from threading import Lock
from typing import TextIO

from kfp.local import subprocess_task_handler

from pipelines import task_host
from pipelines.signals import started_by

FLAG = "--executor_input"
RUNTIME = {
    "_KFP_RUNTIME": "true",  # as KFP sets it for a task: it then imports only what a task needs
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # GPUs are counted without what a fork cannot take over
}


class Tasks:
    """The processes of the tasks of a run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.stopped = False
        """Whether the run was asked to stop: no further task starts."""
        self._environment = {**RUNTIME, **environment}
        self._numbers: list[int] = []
        self._host: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._asking = Lock()

    def start(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a task to its end and return its exit code, as KFP's `run_local_subprocess` does."""
        if self.stopped:
            return 1
        at = full_command.index(FLAG)
        given = {
            "name": full_command[-1],
            "source": full_command[at - 1],
            "arguments": full_command[at:],
            "environment": {**os.environ, **self._environment, **(env_vars or {})},
        }
        number, code = 0, 1
        try:
            ours, reader = self._fork()
        except ConnectionError:  # the host was killed
            return code
        with ours, ours.makefile() as answers, os.fdopen(reader, errors="replace") as said:
            with suppress(ConnectionError):
                ours.sendall(f"{json.dumps(given)}\n".encode())
                number = int(answers.readline() or number)
            if number:
                self._follow(number, said)
                with suppress(ConnectionError):
                    code = int(answers.readline() or code)
        return code

    def _follow(self, number: int, said: TextIO) -> None:
        """Print what a task says, until it has ended."""
        self._numbers.append(number)
        try:
            if self.stopped:  # since it was asked above
                _signal(number, signal.SIGTERM)
            for line in said:
                print(line, end="")
            print("\n")
        except BaseException:
            _signal(number, signal.SIGTERM)
            raise
        finally:
            # Its number may be another process's from here on.
            self._numbers.remove(number)

    def _fork(self) -> tuple[socket.socket, int]:
        """Have the host fork; return the socket of the new process and where to read its output."""
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        try:
            with theirs, self._asking:
                given = [theirs.fileno(), writer]
                try:
                    socket.send_fds(self._control(), [b"."], given)
                except ConnectionError:  # the host was killed just now: its socket closes first
                    self.close()
                    socket.send_fds(self._control(), [b"."], given)
        except BaseException:
            ours.close()
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return ours, reader

    def _control(self) -> socket.socket:
        """Return the socket of a host that runs."""
        if self._host and self._host[0].poll() is None:
            return self._host[1]
        self.close()
        control, its = socket.socketpair()
        with its:
            process = started_host(its, {**os.environ, **self._environment})
        self._host = process, control
        return control

    def close(self) -> None:
        """End the host; it ends with this process in any case."""
        if self._host:
            process, control = self._host
            control.close()
            process.terminate()  # it may be importing something
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop(self, again: bool) -> None:
        """Ask the tasks to end; the second time, end them."""
        self.stopped = True
        for task in list(self._numbers):
            _signal(task, signal.SIGKILL if again else signal.SIGTERM)


def started_host(its: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that forks tasks as it is asked to over a socket."""
    return subprocess.Popen(
        [sys.executable, "-m", task_host.__name__],
        stdin=its.fileno(),
        env=environment,
        process_group=0,  # Ctrl-C in a terminal reaches the run alone, which passes it on
    )


def _signal(task: int, number: signal.Signals) -> None:
    """Send a signal to a task's process and those that it started."""
    with suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(task, number)
        except ProcessLookupError:  # it has only just begun
            os.kill(task, number)


@contextmanager
def tasks_here(environment: Mapping[str, str]) -> Iterator[Tasks]:
    """Let KFP's local runner start tasks by way of `Tasks`, which signals to this process stop.

    Every task has the ``environment`` beside this process's own.
    """
    tasks = Tasks(environment)
    with started_by(tasks, subprocess_task_handler, "run_local_subprocess"), closing(tasks):
        yield tasks
