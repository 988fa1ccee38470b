"""Processes that train one model together, each on a GPU of its own; or the only one.

Every process draws the same steps, takes its part of each step's cells, and adds its gradients to
those of the others, so that all make the same update. The sum is taken once the whole of a part is
done, not while it is under way as `DistributedDataParallel` does: a process that runs out of memory
can then halve its part without the others' help, and a step's losses travel with its gradients, so
that every process sees the same.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.shared.telling.errors import InputError, one_line_errors, say


@dataclass(frozen=True)
class Workers:
    """Which of the processes this is, and what they do together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cpu")

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor by its sum over the processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        lengths = [tensor.numel() for tensor in tensors]
        for tensor, total in zip(tensors, flat.split(lengths), strict=True):
            tensor.copy_(total.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in one of the processes."""
        if self.count == 1:
            return flag
        found = torch.tensor(float(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.all_reduce(torch.zeros(1))

    def told(self, text: str = "") -> str:
        """Return the text that the first process gives."""
        given = [text]
        if self.count > 1:
            dist.broadcast_object_list(given)
        return given[0]

    def own(self, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """Return this process's share of some work, numbered."""
        return list(enumerate(items))[self.rank :: self.count]

    def gathered(self, results: Mapping[int, Any]) -> dict[int, Any]:
        """Return the results of all processes by the number of their work."""
        if self.count == 1:
            return dict(results)
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, dict(results))
        return {number: part[number] for part in parts for number in part}


ALONE = Workers()
CRASHED = 70
"""Exit code of a process that ended with a fault of ours or of another process."""
LEAVES_FIRST = 3
"""Seconds that one waits whose fault may be that another ended: that one is to be noticed first."""
TORCHRUN = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")
"""Loggers that tell with tracebacks of theirs that a process ended, which we say in a line."""
STOPS_WITHIN = 60
"""Seconds that a process has after SIGTERM, to keep a checkpoint."""


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that were started together with this one, if any were."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield ALONE
        return
    workers = Workers(int(os.environ["RANK"]), count)
    if workers.device.type == "cuda":
        torch.cuda.set_device(workers.device)
    # Flags and results go through gloo, which waits for no GPU.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if workers.device.type == "cuda" else "gloo",
        rank=workers.rank,
        world_size=count,
    )
    try:
        yield workers
    finally:
        dist.destroy_process_group()


def launch(processes: int, function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
    """Call ``function`` in several processes of this machine, as torchrun does.

    SIGTERM reaches all of them.

    Raises:
        InputError: one of them ended with an error; its own line says which.
        SystemExit: SIGTERM came to this process or to one of them, or one was killed or crashed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
        shutdown_timeout=STOPS_WITHIN,
    )
    try:
        with _handlers_restored(), _silent(TORCHRUN):
            elastic_launch(config, _work)(function, dict(arguments))
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        if 1 not in codes:  # 1 is an error that was told; a retry may well mend any other end
            worst = min(codes)
            if codes != {128 + signal.SIGTERM}:
                say(f"finetune: note: one of {processes} processes ended, exit code {worst}")
            raise SystemExit(128 - worst if worst < 0 else worst) from None
        raise InputError(
            f"{len(failed.failures)} of {processes} processes ended early, exit code "
            f"{', '.join(map(str, sorted(codes)))}; the line above says why"
        ) from None
    except SignalException as signalled:
        raise SystemExit(128 + signalled.sigval) from None


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Put back the handlers of signals that torchrun replaces, in a main thread alone."""
    main = threading.current_thread() is threading.main_thread()
    replaced = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in replaced if main}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was or signal.SIG_DFL)


@contextmanager
def _silent(names: tuple[str, ...]) -> Iterator[None]:
    """Let the loggers whose names begin so say nothing."""
    loggers = map(logging.getLogger, sorted(logging.root.manager.loggerDict))
    silenced = [one for one in loggers if one.name.startswith(names) and not one.disabled]
    for logger in silenced:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in silenced:
            logger.disabled = False


def _work(function: Callable[..., None], arguments: dict[str, Any]) -> None:
    """Be one of the processes; the first alone tells how it goes."""
    if int(os.environ["RANK"]):
        os.environ["TQDM_DISABLE"] = "1"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        with one_line_errors("finetune"):
            function(**arguments)
    except Exception:
        found = traceback.format_exc()
        time.sleep(LEAVES_FIRST)  # where another ended, this one is ended before it speaks
        print(found, file=sys.stderr, flush=True)
        raise SystemExit(CRASHED) from None
