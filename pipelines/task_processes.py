"""Tasks as processes of this machine, whose command lines tell none of their parameters.

KFP's local runner puts a task's parameters on its command line, which every user of the machine may
read, and an address among them may hold a password. Here the task's process gets them in its
environment, which its owner alone may read. Run as a module, this is that process.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kfp.dsl import executor_main
from kfp.local import subprocess_task_handler

INPUT = "SCGPT_PERTURB_EXECUTOR_INPUT"
FLAG = "--executor_input"


@contextmanager
def unseen_parameters() -> Iterator[None]:
    """Let tasks that KFP's local runner starts within have their parameters out of sight."""
    start = subprocess_task_handler.run_local_subprocess

    def unseen(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        command, given = handed_over(full_command)
        return int(start(full_command=command, env_vars={**(env_vars or {}), **given}))

    subprocess_task_handler.run_local_subprocess = unseen
    try:
        yield
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
