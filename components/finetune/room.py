"""Where training cells are kept: on the GPU, in memory, or in a file that is mapped into it."""

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components.finetune.data import WillRead, in_memory
from components.finetune.workers import ALONE, Workers
from components.shared.model.tokens import Ints
from components.shared.storage.machine import is_mapped, reserve
from components.shared.telling.errors import InputError

RESIDENT_SHARE = 0.25
"""Most of a GPU's memory that cells take: a step's activations need more than half of it."""


@dataclass(frozen=True)
class Room:
    """An empty matrix for cells."""

    cells: Tensor
    """[rows, modelled genes]"""
    will_read: WillRead = in_memory
    """Called with the rows that are used next: those in a file are then read side by side."""
    filled_by: Workers = ALONE
    """The processes that share it, each of which fills its part."""


def room_for(rows: int, columns: int, device: torch.device, workers: Workers = ALONE) -> Room:
    """Return an empty matrix for cells that train on ``device``.

    For the CPU it is float32. For a GPU it is float16, exact to 0.05 %, on the GPU if it takes no
    more than `RESIDENT_SHARE` of what is free on each, else in pinned memory of the host. What is
    too large for the host's memory, as often as there are processes (`machine.is_mapped`), is one
    file that all of them map (`_mapped`): the numbers are the same.

    Raises:
        InputError: the disk has no room for it.
    """
    on_gpu = device.type != "cpu"
    dtype = torch.float16 if on_gpu else torch.float32
    size = rows * columns * dtype.itemsize
    if on_gpu and not workers.any(size > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]):
        return Room(torch.empty(rows, columns, dtype=dtype, device=device))
    if workers.any(is_mapped(workers.count * size)):
        return _mapped(rows, columns, dtype, workers)
    return Room(torch.empty(rows, columns, dtype=dtype, pin_memory=on_gpu))


def _mapped(rows: int, columns: int, dtype: torch.dtype, workers: Workers) -> Room:
    """Return room in a file without a name, which goes with the processes.

    Raises:
        InputError: the folder for temporary files has no room for it.
    """
    width = columns * dtype.itemsize
    size = rows * width
    with _file_of(size, workers) as file:
        held = mmap.mmap(file, size)
    # A step takes its rows from all over: what the system would read beyond each (128 KiB, often
    # megabytes) is dropped before it is used.
    held.madvise(mmap.MADV_RANDOM)

    def will_read(chosen: Ints) -> None:
        for start in (chosen * width).tolist():
            page = start - start % mmap.PAGESIZE
            held.madvise(mmap.MADV_WILLNEED, page, start + width - page)

    return Room(torch.frombuffer(held, dtype=dtype).view(rows, columns), will_read, workers)


@contextmanager
def _file_of(size: int, workers: Workers) -> Iterator[int]:
    """Open a file in the folder for temporary files; its name is there until all have opened it."""
    if not workers.first:
        with Path(workers.told()).open("r+b") as opened:
            workers.meet()
            yield opened.fileno()
        return
    with tempfile.NamedTemporaryFile() as file:
        try:
            reserve(file.fileno(), size)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: no room for {size / 2**30:.1f} GiB of training cells "
                f"({error.strerror}), which are too large for the host's memory; give a larger "
                "disk (TMPDIR names the folder) or a host with more memory"
            ) from None
        workers.told(file.name)
        workers.meet()
        yield file.fileno()
