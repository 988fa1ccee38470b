"""What this machine, or this container, has: CPUs and memory; and what is too large for it."""

import os
from pathlib import Path

MAPPED_FROM = 0.5
"""Share of the memory from which a matrix is a file mapped into it: model, measured changes and
known effects need their part."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container finds its memory limit: cgroup version 2, and 1."""


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def memory() -> int:
    """Return the bytes of memory that this process may take: its container's, else the host's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in LIMITS if path.exists()]
    return min([whole, *(int(limit) for limit in limits if limit.isdecimal())])


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
