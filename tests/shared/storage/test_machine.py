"""What this machine has."""

import os
from pathlib import Path

import pytest

from components.shared.storage import machine


@pytest.mark.parametrize("place", [0, 1])
def test_a_containers_memory_is_what_there_is(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "LIMITS", limits)
    whole = machine.memory()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for unlimited in ("max\n", "9223372036854771712\n"):
        limits[place].write_text(unlimited)
        assert machine.memory() == whole
    limits[place].write_text("1048576\n")
    assert machine.memory() == 2**20
    assert machine.is_mapped(2**19 + 1) and not machine.is_mapped(2**19)


def test_cpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.cpus() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cpus() == os.cpu_count()


@pytest.mark.parametrize("can_allocate", [True, False])
def test_a_reserved_file_is_as_large_as_said(
    can_allocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_allocate:
        monkeypatch.delattr(os, "posix_fallocate")
    with (tmp_path / "file").open("wb") as file:
        machine.reserve(file.fileno(), 12_345)
        assert os.fstat(file.fileno()).st_size == 12_345
