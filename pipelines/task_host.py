"""A process that has imported what tasks need, and forks one process a task.

Half of a small run would otherwise be imports, the same ones in task after task. It is asked over
a socket that only its run has, so that no parameter of a task is on a command line, which every
user of the machine may read. Each request brings two files: a socket for the task alone, on which
its command comes and its number and exit code go back, and where it writes what it says.
"""

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from kfp.dsl import executor_main

IMPORTED = (
    "components.split.split",
    "torch",
    "components.prior.prior",
    "torch._dynamo",  # which every optimizer imports
    "components.finetune.finetune",
    "components.predict.predict",
    "components.evaluate.evaluate",
    "umap",  # which cell-eval's clusters import
)
"""What takes long to import, as tasks come to need it."""


def serve(control: socket.socket) -> tempfile.TemporaryDirectory[str]:
    """Fork for each request; return in a task's process alone, which has its command in sys.argv.

    What is returned holds the task's code, until it is let go.

    Raises:
        SystemExit: the run has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal: the run passes it on
    signal.signal(signal.SIGTERM, _end)  # the run has ended, perhaps amid an import
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for tasks
    # Frameworks of macOS may not be used on both sides of a fork.
    wanted = [] if sys.platform == "darwin" else list(IMPORTED)
    while True:
        if wanted and not select.select([control], [], [], 0)[0]:
            with suppress(Exception):  # the task that needs it will say so
                importlib.import_module(wanted.pop(0))
            continue
        request, files, _, _ = socket.recv_fds(control, 1, 2)
        if not request:
            _end()
        gc.freeze()  # a task's own garbage is looked for among its own objects, also at its end
        if not os.fork():
            control.close()
            return _begin(socket.socket(fileno=files[0]), files[1])
        for file in files:
            os.close(file)


def _end(*_: object) -> NoReturn:
    """End this process; amid that, the signal to do so would come to a traceback."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit


def _begin(channel: socket.socket, output: int) -> tempfile.TemporaryDirectory[str]:
    """Fork once more and return in the new process; the old one waits for it and tells its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = json.loads(channel.makefile().readline())
    nothing = os.open(os.devnull, os.O_RDWR)
    if pid := os.fork():
        for number in (0, 1, 2, output):  # whoever reads them is not to wait for this process
            os.dup2(nothing, number)
        channel.sendall(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # the run has ended
            channel.sendall(b"%d\n" % code)
        os._exit(0)
    os.setpgid(0, 0)
    channel.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(command["environment"])
    for stream, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", encoding=was.encoding, errors=was.errors, buffering=1)
        for number, was in ((1, sys.stdout), (2, sys.stderr))
    )
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"task {command['name']}")  # for ps
    atexit.unregister(shutil.rmtree)  # of a folder that a library made for all of these processes
    try:
        folder = tempfile.TemporaryDirectory()
        source = Path(folder.name, "ephemeral_component.py")
        source.write_text(command["source"])
    except OSError as error:
        sys.exit(f"{command['name']}: error: no temporary file can be written ({error})")
    sys.argv[1:] = ["--component_module_path", str(source), *command["arguments"]]
    return folder


def _leave(done: list[str]) -> None:
    """Leave what this process shares with its host as it is: to tear it down is to copy it first.

    Only what ended well leaves so, since its exit code is known.
    """
    if done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main(control: socket.socket) -> None:
    """Serve a run, and in each process that is forked for it, do a task."""
    done: list[str] = []
    atexit.register(_leave, done)  # before all that is imported later, hence called after it
    with serve(control):
        executor_main.executor_main()
    done.append(sys.argv[0])


if __name__ == "__main__":
    main(socket.socket(fileno=os.dup(sys.stdin.fileno())))
