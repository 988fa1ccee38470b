"""Tasks as processes that are forked from one that has imported what they need."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from pipelines import signals
from pipelines.task_processes import FLAG, Tasks
from tests.pipelines.runs import ROOT


@pytest.fixture(scope="module")
def tasks() -> Iterator[Tasks]:
    started = Tasks({"SAID": "by the run"})
    yield started
    started.close()


def command(folder: Path, *lines: str) -> list[str]:
    """Return what KFP would start for a component whose function has these lines."""
    source = "\n    ".join(["import os, sys, threading, time\ndef task():", *lines])
    given = {"inputs": {}, "outputs": {"outputFile": str(folder / "out.json")}}
    return ["sh", "-ec", "…", source, FLAG, json.dumps(given), "--function_to_execute", "task"]


def test_a_task_says_what_it_says_and_has_the_runs_environment(tasks, tmp_path, capsys) -> None:
    told = "print(os.environ['SAID'], os.environ['MORE'], os.getcwd(), sys.stdin.read() == '')"
    assert tasks.start(command(tmp_path, told), {"MORE": "and the task"}) == 0
    assert f"by the run and the task {Path.cwd()} True" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("raise ValueError('no')", 1),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), 9)", -9),
    ],
)
def test_how_a_task_ends_is_its_exit_code(tasks, tmp_path, end: str, code: int) -> None:
    assert tasks.start(command(tmp_path, end)) == code


def test_a_task_that_ends_well_waits_for_its_threads_and_runs_what_it_left_for_its_exit(
    tasks, tmp_path, capsys
) -> None:
    lines = (
        "import atexit",
        "print('here', os.path.dirname(__file__))",
        "atexit.register(print, 'at exit', end='')",
        "threading.Timer(0.3, print, ['by a thread']).start()",
    )
    assert tasks.start(command(tmp_path, *lines)) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-2:] == ["by a thread", "at exit"]
    [folder] = (line.removeprefix("here ") for line in said if line.startswith("here "))
    assert folder and not Path(folder).exists()


def test_tasks_side_by_side_do_not_wait_for_each_other(tasks, tmp_path, capsys) -> None:
    """Each waits for a file of the other's."""

    def meet(mine: str, others: str) -> int:
        return tasks.start(
            command(
                tmp_path,
                f"open({str(tmp_path / mine)!r}, 'w').close()",
                f"while not os.path.exists({str(tmp_path / others)!r}): time.sleep(0.01)",
            )
        )

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(meet, ("a", "b"), ("b", "a"))) == [0, 0]


def test_a_task_that_is_asked_to_stop_ends_with_what_it_started(tmp_path) -> None:
    tasks, codes = Tasks({}), []
    ready = tmp_path / "ready"
    child = f"os.system('touch {ready}; sleep 600')"
    thread = threading.Thread(target=lambda: codes.append(tasks.start(command(tmp_path, child))))
    thread.start()
    while not ready.exists():
        thread.join(0.05)
    tasks.stop(again=False)
    thread.join(10)
    tasks.close()
    assert codes == [-signal.SIGTERM]
    assert tasks.start(command(tmp_path, "pass")) == 1  # no further one starts


def test_a_task_fails_whose_waiter_was_killed_and_the_next_one_runs(tasks, tmp_path) -> None:
    lines = ("os.kill(os.getppid(), 9)", "time.sleep(0.2)")
    assert tasks.start(command(tmp_path, *lines)) == 1
    assert tasks.start(command(tmp_path, "pass")) == 0


def hosts() -> list[int]:
    """Return the processes from which tasks are forked that this process has."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, line in lines.items() if b"task_host" in line]


def test_a_task_fails_that_waits_for_a_host_that_is_killed_and_the_next_one_runs(tmp_path) -> None:
    before, tasks = hosts(), Tasks({})
    assert tasks.start(command(tmp_path, "pass")) == 0
    [host] = set(hosts()) - set(before)
    os.kill(host, signal.SIGSTOP)  # what is asked of it waits
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tasks.start, command(tmp_path, "pass"))
        time.sleep(0.3)
        assert not waiting.done()
        os.kill(host, signal.SIGKILL)
        assert waiting.result(10) == 1
    assert tasks.start(command(tmp_path, "pass")) == 0
    tasks.close()


def test_without_a_folder_for_temporary_files_a_task_fails_in_one_line(tmp_path, capsys) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    remembers = tmp_path / "sitecustomize.py"  # as a library does that made a file there
    remembers.write_text("import tempfile\ntempfile.gettempdir()\n")
    tasks = Tasks({"TMPDIR": str(folder), "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"})
    assert tasks.start(command(tmp_path, "pass")) == 0
    shutil.rmtree(folder)
    assert tasks.start(command(tmp_path, "pass")) == 1
    said = capsys.readouterr().out
    assert "task: error: no temporary file can be written ([Errno 2] No such file" in said
    assert "Traceback" not in said
    tasks.close()


class Closed(io.StringIO):
    """As standard output is whose reader ends with a line."""

    def write(self, text: str) -> int:
        if text.strip() == "enough":
            raise BrokenPipeError
        return super().write(text)


def test_output_that_nobody_reads_is_an_error_of_its_own_and_ends_the_task(tasks, tmp_path) -> None:
    lines = (f"print(os.getpid(), file=open({str(tmp_path / 'pid')!r}, 'w'), flush=True)",)
    lines += ("print('enough', flush=True)", "time.sleep(600)")
    with redirect_stdout(Closed()), pytest.raises(BrokenPipeError):
        tasks.start(command(tmp_path, *lines))
    task, until = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while Path(f"/proc/{task}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{task}").exists()


def test_signals_that_come_together_are_one(monkeypatch) -> None:
    asked: list[bool] = []
    with signals.signals_to(asked.append):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert asked == [False]
        monkeypatch.setattr(signals, "ONCE", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == [False, True]


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked: list[bool] = []
    try:
        with signals.signals_to(asked.append):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == []


def test_a_host_ends_by_itself_amid_an_import(tmp_path, monkeypatch) -> None:
    """Killed, it would leave what its libraries remove when their process ends."""
    hosts: list[subprocess.Popen] = []
    start = subprocess.Popen

    def kept(*given: Any, **more: Any) -> subprocess.Popen:
        hosts.append(start(*given, **more))
        return hosts[-1]

    monkeypatch.setattr(subprocess, "Popen", kept)
    begun = tmp_path / "begun"
    slow = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(slow)
    tasks = Tasks({"PYTHONPATH": str(tmp_path)})
    assert tasks.start(command(tmp_path, "pass")) == 0
    until = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < until, "nothing was imported"
        time.sleep(0.05)
    tasks.close()
    assert [host.returncode for host in hosts] == [0]


LEAVING = """
import atexit, socket, sys, time
from pipelines import task_host
task_host.IMPORTED = ("serving",)
atexit.register(lambda: (print("leaving", flush=True), time.sleep(1)))
task_host.main(socket.socket(fileno=0))
"""


@pytest.mark.parametrize("by_signal", [False, True])
def test_a_host_that_is_told_to_end_while_it_ends_says_nothing(tmp_path, by_signal: bool) -> None:
    (tmp_path / "serving.py").write_text("print('serving', flush=True)")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ours, its = socket.socketpair()
    host = subprocess.Popen(
        [sys.executable, "-c", LEAVING],
        env=environment,
        stdin=its.fileno(),
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )
    its.close()
    assert host.stdout and host.stdout.readline() == "serving\n"
    if by_signal:
        host.terminate()
    else:
        ours.close()
    assert host.stdout.readline() == "leaving\n"
    host.terminate()
    assert host.communicate(timeout=60) == ("", "") and host.returncode == 0
    ours.close()


def test_a_host_that_is_dead_and_not_yet_waited_for_is_replaced(tmp_path, monkeypatch) -> None:
    """Its socket closes before the system says that it ended."""
    before, tasks = hosts(), Tasks({})
    assert tasks.start(command(tmp_path, "pass")) == 0
    [host] = set(hosts()) - set(before)
    os.kill(host, signal.SIGKILL)
    poll, asked = subprocess.Popen.poll, []
    monkeypatch.setattr(
        subprocess.Popen, "poll", lambda one: poll(one) if asked else asked.append(one)
    )
    while Path(f"/proc/{host}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert tasks.start(command(tmp_path, "pass")) == 0
    tasks.close()
