"""How long a fine-tune takes, and what memory and disk: estimates from measured rates.

Time is floating point operations over a rate. The operations are those of matrix products, a
training step being three forward passes, as `benchmarks/measure.py` counts them; each rate is of a
whole fine-tune that was timed, validation and loading included.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.parameters.pretrained import SIZES, parse_pretrained

GPU_RATE = 82e12
"""Operations a second of the published reference run on one H100: 229 cells/s of 1,536 tokens,
360 GFLOP each (30 epochs in 393.6 minutes)."""
CPU_RATE = 2.5e10
"""... of one CPU: docs/ablation.md, 30 fine-tunes of 16 epochs of 3,850 cells of 96 tokens with
random://tiny, 54 MFLOP a cell, in 67 minutes."""
VALUE = 4
"""Bytes of a float32."""
STORED = 8
"""Bytes of a value in the cells artifact: float32 and the number of its column."""
COPIES = 2
"""Training cells are dense in memory, and as much again while they are loaded."""
BESIDE = 2e9
"""Bytes of PyTorch and of a whole-human model with Adam's moments (51 million parameters)."""
WHOLE_HUMAN = "whole-human"
RECIPES = {"default": (30, 1536), "reference": (30, 1536), "smoke": (2, 96)}
"""Epochs and tokens a cell of each recipe, whose files are finetune's; a test holds them equal."""


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    cells: int
    training_cells: int
    training_controls: int
    genes: int
    entries: int
    """Values that are stored of the kept cells."""
    download: int
    """Bytes."""
    runs: int = 1


@dataclass(frozen=True)
class Training:
    """What of a recipe takes time."""

    pretrained: str
    epochs: int
    max_genes: int
    """Tokens a cell; 0 = all genes."""
    gpus: int = 0


def training_of(parameters: Mapping[str, Any]) -> Training | None:
    """Return what the parameters of a run say of its training; None where nothing trains."""
    if parameters.get("recipe") not in RECIPES or not parameters.get("pretrained"):
        return None
    epochs, max_genes = RECIPES[parameters["recipe"]]
    overrides = parameters.get("overrides") or {}
    return Training(
        parameters["pretrained"],
        int(overrides.get("epochs", epochs)),
        int(overrides.get("max_genes", max_genes)),
        int(parameters.get("gpus", 0)),
    )


def forward_flops(pretrained: str, tokens: int) -> float:
    """Return a cell's floating point operations in a forward pass (`benchmarks/measure.py`)."""
    asked = parse_pretrained(pretrained)
    shape = SIZES[asked.random_size or WHOLE_HUMAN]
    d = shape["embsize"]
    layer = 6 * d * d + 2 * tokens * d
    return 2.0 * tokens * (shape["nlayers"] * layer + 5 * d * d)


def seconds(size: Size, training: Training, cpus: int) -> float:
    """Return how long the fine-tunes of a run take that stop at no epoch before the last."""
    tokens = min(training.max_genes or size.genes, size.genes)
    cell = 3 * forward_flops(training.pretrained, tokens)
    rate = GPU_RATE * training.gpus if training.gpus else CPU_RATE * cpus
    return size.runs * training.epochs * size.training_cells * cell / rate


def memory(size: Size) -> float:
    """Return the bytes that a fine-tune needs."""
    return COPIES * VALUE * size.genes * (size.training_cells + size.training_controls) + BESIDE


def disk(size: Size) -> float:
    """Return the bytes of the download and the cells artifact."""
    return float(size.download + STORED * size.entries)


def estimated(size: Size, training: Training) -> dict[str, str]:
    """Return the estimates as facts to print, and what this machine has."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on = f"{training.gpus} GPU as fast as an H100" if training.gpus else f"{cpus} CPUs"
    each = f", {size.runs} runs one after another" if size.runs > 1 else ""
    facts = {
        "estimate": f"fine-tune up to {_time(seconds(size, training, cpus))} on {on}{each} "
        f"({training.epochs} epochs), {_bytes(memory(size))} of memory, {_bytes(disk(size))} of "
        "disk: from rates measured elsewhere, right to a factor of two or three"
    }
    lacks = []
    if (there := _memory_here()) and memory(size) > there:
        lacks.append(f"{_bytes(there)} of memory")
    if disk(size) > (free := shutil.disk_usage(Path.cwd()).free):
        lacks.append(f"{_bytes(free)} of disk free here")
    if lacks and not training.gpus:
        facts["warning"] = f"this machine has {' and '.join(lacks)}; leave cells out (obs_filter)"
    return facts


def _memory_here() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 0.0


def _time(spent: float) -> str:
    if spent < 90:
        return "1 minute" if spent > 30 else "half a minute"
    for unit, length in (("minutes", 60), ("hours", 3600), ("days", 86400)):
        if spent < 100 * length or unit == "days":
            return f"{spent / length:.0f} {unit}"
    raise AssertionError


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"
