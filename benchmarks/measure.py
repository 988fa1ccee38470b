"""What the speed benchmarks share: options, models, data, and what a side takes in time and memory.

A side is one of the things compared. The sides take turns, since a machine that others use slows
down and recovers. With `--threads 1` on the CPU the time is the processor time of this process,
which others hardly touch.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.shared.artifacts.settings import PRECISIONS
from components.shared.model.inference import AUTOCAST
from components.shared.model.model import SCGPT, build
from components.shared.model.scgpt_package import transformer_generator

VOCABULARY = {f"G{i}": i for i in range(60_696)} | {"<pad>": 60_696}
"""As large as scGPT's whole-human vocabulary."""
DTYPES = AUTOCAST | {"fp32": torch.float32}
NO, DEFAULT, TUNED = "no", "default", "max-autotune-no-cudagraphs"
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
HEADER = """
| side | precision | ms a step: median (least to most) | cells/s | times the first | GiB at most \
| TFLOP/s | % of matmul | error |
|---|---|---|---|---|---|---|---|---|"""


@dataclass
class Side:
    """One of the things compared."""

    name: str
    precision: str
    cells: int
    """Of a step."""
    flops: float
    """Of a step."""
    step: Callable[[], Any]
    error: float = float("nan")
    """Relative error of the output."""
    peak: float = float("nan")
    """GiB that it takes, weights included."""
    failed: str = ""
    seconds: list[float] = field(default_factory=list)

    def figures(self, first: "Side", ceilings: dict[str, float]) -> dict[str, Any]:
        """Return what was measured, compared with the ``first`` side; NaN where there is nothing.

        Args:
            first: the side to compare with.
            ceilings: rate of large matrix products by precision, TFLOP/s.
        """
        named = {"side": self.name, "precision": self.precision, "batch": self.cells}
        if self.failed or not self.seconds:
            return named | {"failed": self.failed or "not timed"}
        median = statistics.median(self.seconds)
        rate, flops = self.cells / median, self.flops / median / 1e12
        timed = first.seconds and not first.failed
        others = statistics.median(first.seconds) / first.cells if timed else float("nan")
        return named | {
            "ms": median * 1e3,
            "ms_least": min(self.seconds) * 1e3,
            "ms_most": max(self.seconds) * 1e3,
            "cells_per_second": rate,
            "times_the_first": rate * others,
            "gib_at_most": self.peak,
            "tflops": flops,
            "percent_of_matmul": 100 * flops / ceilings[self.precision],
            "error": self.error,
        }

    def row(self, first: "Side", ceilings: dict[str, float]) -> str:
        """Return its line of the table, compared with the ``first`` side."""
        found = self.figures(first, ceilings)
        if "failed" in found:
            return f"| {self.name} | {self.precision} | {found['failed']} | | | | | | |"
        error = f"{self.error:.1e}" if self.error == self.error else ""
        return (
            f"| {self.name} | {self.precision} | {found['ms']:,.1f} "
            f"({found['ms_least']:,.1f} to {found['ms_most']:,.1f}) | "
            f"{found['cells_per_second']:,.1f} | {found['times_the_first']:.2f} | {self.peak:.2f} "
            f"| {found['tflops']:,.3g} | {found['percent_of_matmul']:.0f} | {error} |"
        )


def parser(description: str, full: dict[str, Any], small: dict[str, Any]) -> Any:
    """Return a parser whose default sizes are ``full`` on a GPU and ``small`` on the CPU."""
    made = argparse.ArgumentParser(description=description)
    made.set_defaults(full=full, small=small)
    for name, value in full.items():
        text = f"default {value}; {small[name]} on the CPU"
        made.add_argument(f"--{name}", type=type(value), help=text)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--steps", type=int, default=20, help="timed steps of each side")
    made.add_argument("--rounds", type=int, default=5, help="turns the sides take")
    made.add_argument("--threads", type=int, help="of the CPU")
    made.add_argument("--precision", nargs="+", choices=PRECISIONS, help="of our side")
    made.add_argument("--compile", choices=(NO, DEFAULT, TUNED), help="our side, by torch.compile")
    made.add_argument("--attention", choices=("auto", *ATTENTION), default="auto", help="our side")
    return made


def parsed(made: argparse.ArgumentParser, precisions: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; ``precisions`` are the defaults on the CPU."""
    options = made.parse_args()
    options.device = torch.device(options.device)
    cuda = options.device.type == "cuda"
    for name, value in (options.full if cuda else options.small).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.precision = options.precision or (["bf16"] if cuda else precisions)
    options.compile = options.compile or (DEFAULT if cuda else NO)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def scgpt_missing() -> str:
    """Return why scgpt's module cannot be had here, or an empty string."""
    try:
        transformer_generator()
    except Exception as error:  # whatever its imports raise on a bare machine
        return f"scgpt's own module is left out: {' '.join(str(error).split())}"
    return ""


def scgpt_imports() -> bool:
    """Return whether scgpt's module can be had here, with a line that says why not."""
    missing = scgpt_missing()
    if missing:
        print(missing, flush=True)
    return not missing


def scgpts_model(options: argparse.Namespace) -> Any:
    """Return scgpt's own module with fresh weights of seed 0, which are ours too."""
    torch.manual_seed(0)
    return build(model_args(options), VOCABULARY, SCGPT).to(options.device)


def our_model(options: argparse.Namespace) -> Any:
    """Return our model with fresh weights of seed 0, compiled if so asked."""
    torch.manual_seed(0)
    model = build(model_args(options), VOCABULARY).to(options.device)
    if options.compile != NO:
        mode = None if options.compile == DEFAULT else options.compile
        model.compile(fullgraph=True, dynamic=False, mode=mode)
    return model


def model_args(options: argparse.Namespace) -> dict[str, Any]:
    """Return the `args.json` of the model to measure."""
    return {
        "embsize": options.width,
        "nheads": options.heads,
        "d_hid": options.width,
        "nlayers": options.layers,
        "n_layers_cls": 3,
        "dropout": options.dropout,
        "pert_pad_id": 0,
    }


def forward_flops(options: argparse.Namespace, tokens: int) -> float:
    """Count a cell's floating point operations, two a multiply-add, in a forward pass.

    A token of a layer: four projections of d x d, two feed-forward ones, and attention to S tokens
    twice (scores and mixing). Beside the layers: d x d in the value encoder and two decoders of two
    d x d. Embeddings, norms and other work that is not a matrix product count nothing.
    """
    d = options.width
    layer = 6 * d * d + 2 * tokens * d
    return 2.0 * tokens * (options.layers * layer + 5 * d * d)


def expression(cells: int, genes: int, device: torch.device) -> Tensor:
    """Return log1p counts about as sparse as a screen's, float32 [cells, genes]."""
    rates = torch.rand(genes, device=device) * 2
    return torch.poisson(rates.expand(cells, -1)).log1p()


def mixed(device: torch.device, precision: str) -> AbstractContextManager:
    """Return autocast in ``precision``, on the CPU too, where the pipeline computes in float32."""
    return torch.autocast(
        device.type, dtype=AUTOCAST.get(precision, torch.bfloat16), enabled=precision in AUTOCAST
    )


def attention(options: argparse.Namespace) -> AbstractContextManager:
    """Return the choice of attention kernels for our side."""
    if options.attention == "auto":
        return nullcontext()
    return sdpa_kernel(ATTENTION[options.attention])


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    output, expected = output.double().cpu(), expected.double().cpu()
    return float((output - expected).norm() / expected.norm())


def warm_up(side: Side, before: float, device: torch.device) -> Side:
    """Run a side's first steps, and note what memory they take beyond ``before``, GiB."""
    _reset_peak(device)
    try:
        for _ in range(2):
            side.step()
        _wait(device)
    except torch.cuda.OutOfMemoryError:
        side.failed = "out of memory"
    side.peak = _peak(device) - before
    print(f"{side.name}, {side.precision}: {side.failed or 'ready'}", flush=True)
    return side


def take_turns(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """Time the sides in turns."""
    for turn in range(options.rounds):
        for side in sides:
            if not side.failed:
                held(options.device)
                _time(side, options.device, max(options.steps // options.rounds, 1))
        print(f"round {turn + 1} of {options.rounds} done", flush=True)


def ceilings_of(sides: Sequence[Side], device: torch.device) -> dict[str, float]:
    """Measure the rate of large matrix products in each precision of the sides and bf16."""
    used = {side.precision: DTYPES[side.precision] for side in sides} | {"bf16": torch.bfloat16}
    return {name: ceiling(device, dtype) for name, dtype in used.items()}


def device_name(device: torch.device) -> str:
    """Return the card's name, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def compare(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """Time the sides in turns, and print the table."""
    take_turns(sides, options)
    ceilings = ceilings_of(sides, options.device)
    name = device_name(options.device)
    sizes = ", ".join(f"{name} {getattr(options, name)}" for name in options.full)
    rates = ", ".join(f"{name} {rate:,.3g}" for name, rate in ceilings.items())
    print(
        f"\n{name}, {torch.get_num_threads()} CPU threads, PyTorch {torch.__version__}; {sizes}; "
        f"our side: compile {options.compile}, attention {options.attention}\n"
        f"large matrix products, TFLOP/s: {rates}"
    )
    print(HEADER)
    for side in sides:
        print(side.row(sides[0], ceilings))


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the rate of a large square matrix product of random numbers, TFLOP/s."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = Side("", "", 0, 0, lambda: a @ b)
    for _ in range(3):
        _time(product, device, 3)
    return 2 * size**3 / statistics.median(product.seconds) / 1e12


def _time(side: Side, device: torch.device, steps: int) -> None:
    side.step()  # not counted: another side had the caches
    for _ in range(steps):
        start = _now(device)
        side.step()
        side.seconds.append(_now(device) - start)


def _now(device: torch.device) -> float:
    """Return a clock's seconds, the device's work done: this process's own on one CPU thread."""
    _wait(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held(device: torch.device) -> float:
    """Let go of what is not in use, and return what is, GiB: tensors on a GPU, else the process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device) / 2**30
    ctypes.CDLL(None).malloc_trim(0)  # else what one side freed would be the next one's for nothing
    return _status("VmRSS")


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return _status("VmHWM")


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    """Return a figure of Linux's account of this process, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith(name))
