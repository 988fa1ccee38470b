"""What this machine has."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared.storage import machine

V1, V2 = "5:cpu,memory:/job/step\n", "0::/job/step\n"


@pytest.mark.parametrize(
    ("own", "file", "unlimited"),
    [
        (V2, "memory.max", "max\n"),
        (V2, "job/memory.max", "max\n"),
        (V2, "job/step/memory.max", "max\n"),
        (V1, "memory/memory.limit_in_bytes", "9223372036854771712\n"),
        (V1, "memory/job/step/memory.limit_in_bytes", "9223372036854771712\n"),
    ],
)
def test_a_containers_or_a_jobs_memory_is_what_there_is(
    own: str, file: str, unlimited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory() == whole  # macOS: there are no groups
    (tmp_path / "own").write_text("3:cpuset:/elsewhere\n" + own)
    limit = tmp_path / file
    limit.parent.mkdir(parents=True, exist_ok=True)
    for said, expected in ((unlimited, whole), ("1048576\n", 2**20)):
        limit.write_text(said)
        assert machine.memory() == expected
    assert machine.is_mapped(2**19 + 1) and not machine.is_mapped(2**19)
    limit.unlink()
    limit.mkdir()  # cannot be read
    assert machine.memory() == whole


def test_cpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.cpus() == 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cpus() == os.cpu_count()


@pytest.mark.parametrize("can_allocate", [True, False])
def test_a_reserved_file_is_as_large_as_said(
    can_allocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_allocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (tmp_path / "file").open("wb") as file:
        machine.reserve(file.fileno(), 12_345)
        found = os.fstat(file.fileno())
        assert found.st_size == 12_345
        if can_allocate and hasattr(os, "posix_fallocate"):
            assert found.st_blocks * 512 >= 12_345  # taken, not only promised


TURNS = """
import sys
from threading import Barrier, Lock, Thread
import numpy as np
from components.shared.storage.machine import share_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "shared":
    share_freed_memory()
del (first := [np.ones(2**21)])[:]  # 16 MiB freed: from now on glibc keeps what is smaller
met, turn = Barrier(8), Lock()

def work():
    met.wait()
    with turn:
        blocks = [np.ones(2**17) for _ in range(20)]  # of 1 MiB, which are freed at once
        del blocks
    met.wait()

before, threads = resident(), [Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((resident() - before) / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no pools")
def test_what_a_thread_freed_is_used_by_the_next() -> None:
    def kept(how: str) -> float:
        command = [sys.executable, "-c", TURNS, how]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert 3 * kept("shared") < kept("apart")


BETWEEN = """
import numpy as np
from components.shared.storage.machine import give_back_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before = resident()
blocks = [(np.ones(2**13), np.ones(2**6)) for _ in range(1000)]  # 64 KiB, then a small one
small = [second for _, second in blocks]
del blocks
kept = resident() - before
give_back_freed_memory()
print(kept / 2**20, (resident() - before) / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps less")
def test_what_lies_free_between_what_is_used_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", BETWEEN]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, left = map(float, said.split())
    assert kept > 50 and left < kept / 5
