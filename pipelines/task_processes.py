"""Tasks as processes of this machine, whose command lines tell none of their parameters.

KFP's local runner puts a task's parameters on its command line, which every user of the machine may
read, and an address among them may hold a password. Here the task's process gets them in its
environment, which its owner alone may read. Run as a module, this is that process.

Ctrl-C stops a run as SIGTERM stops a task: what is being trained finishes its step and writes a
checkpoint. A second one ends the tasks at once.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from kfp.dsl import executor_main
from kfp.local import subprocess_task_handler

from pipelines.signals import signals_to

INPUT = "SCGPT_PERTURB_EXECUTOR_INPUT"
FLAG = "--executor_input"


class Tasks:
    """The processes of the tasks of a run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        """What every task's environment has beside this process's own."""
        self.stopped = False
        """Whether the run was asked to stop: no further task starts."""
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a task to its end and return its exit code, as KFP's `run_local_subprocess` does."""
        if self.stopped:
            return 1
        command, given = handed_over(full_command)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env={**os.environ, **self.environment, **(env_vars or {}), **given},
            process_group=0,  # Ctrl-C in a terminal reaches the run alone, which passes it on
        ) as process:
            self._processes.append(process)
            if self.stopped:  # since it was asked above
                _signal(process, signal.SIGTERM)
            for line in process.stdout or ():
                print(line, end="")
            print("\n")
            code = process.wait()
            # Its number may be another process's from here on.
            self._processes.remove(process)
            return code

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: ask the tasks to end; the second time, end them."""
        for process in list(self._processes):
            _signal(process, signal.SIGKILL if self.stopped else signal.SIGTERM)
        self.stopped = True


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a task's process and those that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextmanager
def tasks_here(environment: Mapping[str, str]) -> Iterator[Tasks]:
    """Let KFP's local runner start tasks by way of `Tasks`, which signals to this process stop."""
    tasks = Tasks(environment)
    start = subprocess_task_handler.run_local_subprocess
    subprocess_task_handler.run_local_subprocess = tasks.start
    try:
        with signals_to(tasks.stop):
            yield tasks
    finally:
        subprocess_task_handler.run_local_subprocess = start


def handed_over(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a task's command without its parameters, and the environment that has them."""
    at = command.index(FLAG)
    kept = [*command[:at], *command[at + 2 :]]
    ours = [part.replace(f"-m {executor_main.__name__}", f"-m {__name__}") for part in kept]
    return ours, {INPUT: command[at + 1]}


if __name__ == "__main__":
    sys.argv += [FLAG, os.environ.pop(INPUT)]
    executor_main.executor_main()
