"""What this machine, or this container, has: CPUs and memory; and what is too large for it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAPPED_FROM = 0.5
"""Share of the memory from which a matrix is a file mapped into it: model, measured changes and
known effects need their part."""
M_ARENA_MAX = -8
"""glibc's number of the setting for its most pools of freed memory (malloc.h)."""
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where the kernel shows groups of processes, and which of them this process is in."""


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def memory() -> int:
    """Return the bytes of memory that this process may take: its group's, else the host's.

    A container is such a group, and so is a job of Slurm's or a service of systemd's.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = []
    for path in _limits():
        with suppress(OSError):  # there is none, or it is not ours to read
            said.append(path.read_text().strip())
    return min([whole, *(int(limit) for limit in said if limit.isdecimal())])


def _limits() -> Iterator[Path]:
    """Yield the files that may hold a limit: of this process's group and of those around it."""
    lines = OWN.read_text().splitlines() if OWN.exists() else []
    for _, kinds, own in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not kinds or "memory" in kinds.split(","):
            # Version 2 names no kind. A container may see its group as the root.
            root, name = (
                (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
            )
            group = Path(own)
            for around in (group, *group.parents):
                yield root / str(around).lstrip("/") / name


def is_mapped(size: int) -> bool:
    """Return whether a matrix of ``size`` bytes is a file mapped into memory here."""
    return size > MAPPED_FROM * memory()


def reserve(file: int, size: int) -> None:
    """Make the file of this descriptor ``size`` bytes long; its room is taken where that works.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        # A mapped file that finds the disk full later ends its process.
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)  # macOS


def share_freed_memory() -> None:
    """Let the threads that begin from now on use what others freed; only glibc keeps it apart.

    It has a pool for each thread, several for each CPU, and what is freed stays in its pool
    (mallopt(3)). Few threads that ask for large blocks hardly wait for one another.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give the system what glibc keeps of freed memory for itself, which takes milliseconds."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
