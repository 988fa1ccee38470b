"""How long a fine-tune takes, and what memory and disk: estimates from measured rates.

Time is floating point operations over a rate. The operations are those of matrix products, a
training step being three forward passes, as `benchmarks/measure.py` counts them; each rate is of a
whole fine-tune that was timed, validation and loading included. Other machines differ, so a time is
given as a range, from half to double.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.parameters.pretrained import SIZES, parse_pretrained
from components.shared.parameters.recipe import load_recipe
from components.shared.storage import machine
from components.shared.telling.facts import count

GPU_RATE = 82e12
"""Operations a second of the published reference run on one H100: 229 cells/s of 1,536 tokens,
360 GFLOP each (30 epochs in 393.6 minutes)."""
CPU_RATE = 2.5e10
"""... of one CPU: docs/ablation.md, 30 fine-tunes of 16 epochs of 3,850 cells of 96 tokens with
random://tiny, 54 MFLOP a cell, in 67 minutes."""
VALUE = 4
"""Bytes of a float32."""
VALUE_FOR_GPU = 2
"""... of a training cell's value where a GPU trains."""
STORED = 8
"""Bytes of a value in the cells artifact: float32 and the number of its column."""
STATE = 16
"""Bytes a parameter of a model in training: itself, its gradient and Adam's two moments."""
ON_DISK = 40
"""... of a run: two checkpoints of the weights, the best ones and the moments, and the model."""
ACTIVATIONS = 16
"""Values a token, feature and layer that a step keeps for the gradient: queries, keys and values,
attention, projections, norms, feed-forward, residuals and their dropout."""
PROCESS = 0.7e9
"""Bytes of a process with PyTorch: the peak of a fine-tune of 200 cells."""
BESIDE = 30e6
"""Bytes of a run's pages, tables and predictions of a small screen."""
VOCABULARY = 60_697
"""Genes that scGPT has an embedding for."""
BUSY = 1.5
"""Processes a CPU from which on a machine is busy."""
WHOLE_HUMAN = "whole-human"


@dataclass(frozen=True)
class Size:
    """How large a run is."""

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
    """Settings of a recipe on which its cost depends."""

    pretrained: str
    epochs: int
    max_genes: int
    """Tokens a cell; 0 = all genes."""
    batch_size: int
    gpus: int = 0


def training_of(parameters: Mapping[str, Any]) -> Training | None:
    """Return what the parameters of a run say of its training; None where nothing trains."""
    if not parameters.get("recipe") or not parameters.get("pretrained"):
        return None
    recipe = load_recipe(parameters["recipe"], parameters.get("overrides") or {})
    return Training(
        parameters["pretrained"],
        recipe.epochs,
        recipe.max_genes,
        recipe.batch_size,
        int(parameters.get("gpus", 0)),
    )


def forward_flops(pretrained: str, tokens: int) -> float:
    """Return a cell's floating point operations in a forward pass (`benchmarks/measure.py`)."""
    shape = _shape(pretrained)
    d = shape["embsize"]
    layer = 6 * d * d + 2 * tokens * d
    return 2.0 * tokens * (shape["nlayers"] * layer + 5 * d * d)


def model_parameters(pretrained: str) -> float:
    """Return about how many parameters a model has: embeddings and the layers' matrices."""
    shape = _shape(pretrained)
    d = shape["embsize"]
    return float(VOCABULARY * d + shape["nlayers"] * 6 * d * d)


def _shape(pretrained: str) -> Mapping[str, Any]:
    """Return the sizes of a model; a checkpoint is taken for whole-human."""
    return SIZES[parse_pretrained(pretrained).random_size or WHOLE_HUMAN]


def seconds(size: Size, training: Training, cpus: int) -> float:
    """Return how long the fine-tunes of a run take that stop at no epoch before the last."""
    cell = 3 * forward_flops(training.pretrained, _tokens(size, training))
    rate = GPU_RATE * training.gpus if training.gpus else CPU_RATE * cpus
    return size.runs * training.epochs * size.training_cells * cell / rate


def _tokens(size: Size, training: Training) -> int:
    return min(training.max_genes or size.genes, size.genes)


def training_cells(size: Size, training: Training) -> int:
    """Return the bytes of the training cells, which a fine-tune holds as a dense matrix."""
    value = VALUE_FOR_GPU if training.gpus else VALUE
    return value * size.genes * (size.training_cells + size.training_controls)


def memory(size: Size, training: Training) -> float:
    """Return the bytes that a fine-tune needs beside its training cells.

    A step on a GPU is in the GPU's memory.
    """
    shape = _shape(training.pretrained)
    kept = ACTIVATIONS * VALUE * shape["embsize"] * shape["nlayers"]
    step = 0 if training.gpus else training.batch_size * _tokens(size, training) * kept
    return PROCESS + STATE * model_parameters(training.pretrained) + step


def disk(size: Size, training: Training) -> float:
    """Return the bytes of the download, the cells artifact, and what each fine-tune leaves."""
    run = ON_DISK * model_parameters(training.pretrained) + BESIDE
    return size.download + STORED * size.entries + size.runs * run


def estimated(size: Size, training: Training) -> dict[str, str]:
    """Return the estimates as facts to print, and what this machine lacks if it is to train."""
    here = not training.gpus and "KUBERNETES_SERVICE_HOST" not in os.environ
    cpus = machine.cpus()
    on = count(cpus, "idle CPU")
    if training.gpus:
        on = f"{count(training.gpus, 'GPU')} as fast as an H100"
    each = f", {size.runs} runs one after another" if size.runs > 1 else ""
    likely = seconds(size, training, cpus)
    cells, needed = training_cells(size, training), memory(size, training)
    stored = disk(size, training)
    mapped = cells if here and machine.is_mapped(cells) else 0
    needed += cells - mapped
    facts = {
        "estimate": f"training takes {_time(likely / 2)} to {_time(2 * likely)} on {on}{each} "
        f"({count(training.epochs, 'epoch')}, fewer if it stops early), "
        f"about {_bytes(needed)} of memory and {_bytes(stored + mapped)} of disk"
        + (f", {_bytes(mapped)} of it in {tempfile.gettempdir()}" if mapped else "")
    }
    # Of the last minute; 0 where nobody counts them.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if here and load > BUSY * cpus:
        facts["busy"] = (
            f"{load:.0f} processes share this machine's {count(cpus, 'CPU')} now: "
            "expect a multiple of that"
        )
    if here and (lacks := _lacks(needed, stored, mapped)):
        facts["warning"] = f"this machine has {' and '.join(lacks)}; leave cells out (obs_filter)"
    return facts


def _lacks(memory: float, disk: float, temporary: float) -> list[str]:
    """Return what this machine has of that of which it has too little, all in bytes."""
    found = []
    if memory > (there := machine.memory()):
        found.append(f"{_bytes(there)} of memory")
    here, folder = Path.cwd(), Path(tempfile.gettempdir())
    one = here.stat().st_dev == folder.stat().st_dev
    if disk + (temporary if one else 0) > (free := shutil.disk_usage(here).free):
        found.append(f"{_bytes(free)} of disk free here")
    elif temporary > (free := shutil.disk_usage(folder).free):
        found.append(f"{_bytes(free)} of disk free in {folder} (TMPDIR names it)")
    return found


def _time(spent: float) -> str:
    if spent < 90:
        return count(max(1, round(spent / 10) * 10 if spent > 10 else round(spent)), "second")
    for unit, length in (("minute", 60), ("hour", 3600)):
        if spent < 100 * length:
            return count(round(spent / length), unit)
    return count(round(spent / 86400), "day")


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"
