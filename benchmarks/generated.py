"""A small fine-tune on generated cells, which needs no more than the training core itself.

Two lines share the effects of their perturbations; the last perturbation of each is held out. The
same seeds give the same cells, weights and steps on every device; dropout is drawn by the device,
so what is to be compared across devices trains without.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.data import TrainingData, ValidationSet
from components.finetune.state import Fit
from components.finetune.training import fit
from components.finetune.workers import ALONE, Workers
from components.shared.model.model import build
from components.shared.model.tokens import Ints, Targets
from components.shared.model.vocabulary import Vocabulary
from components.shared.parameters.recipe import Recipe

LINES = ("one", "other")
PERTURBATIONS = 6
CELLS = 32
"""Of a perturbation in a line."""
CONTROLS = 64
"""Of a line."""
SIZE = 0.6
"""Standard deviation of an effect on a gene, log units."""

SETTINGS: dict[str, Any] = {
    "version": 3,
    "epochs": 30,
    "early_stop_after": 10,
    "batch_size": 192,
    "max_genes": 1536,
    "learning_rate": 1.0e-4,
    "learning_rate_decay": 0.9,
    "gradient_clip": 1.0,
    "precision": "bf16",
    "implementation": "ours",
    "targets_in_window": True,
    "token_for_unmeasured": True,
    "zero_no_flag": True,
    "redraw_controls": True,
    "control_partner": "other",
    "set_size": 16,
    "delta_weight": 50.0,
    "predict_window": 1536,
    "contrast": True,
    "predicted_cells": "rank",
    "validation_cells": 32,
    "selection": "reliable",
    "prior_neutral": True,
    "scale_effects": True,
    "match_batches": False,
    "centre_lines": False,
}
"""The recipe `default`, whose file takes a YAML reader."""


def recipe(options: Namespace, precision: str) -> Recipe:
    """Return the recipe `default` at a size that trains in seconds."""
    epochs = options.epochs
    return Recipe(
        **SETTINGS
        | {
            "epochs": epochs,
            "early_stop_after": epochs,
            "batch_size": 64,
            "max_genes": options.genes // 2,
            "predict_window": options.genes // 2,
            "learning_rate": 1.0e-3,
            "precision": precision,
        }
    )


def cells(genes: int, device: torch.device) -> TrainingData:
    """Return generated training data, its expression on ``device``."""
    rng = np.random.default_rng(0)
    effects = rng.normal(0, SIZE, (PERTURBATIONS + 1, genes))
    effects[0] = 0
    sizes = [CONTROLS] + [CELLS] * PERTURBATIONS
    codes = np.tile(np.repeat(np.arange(PERTURBATIONS + 1), sizes), len(LINES))
    lines = np.repeat(LINES, sum(sizes))
    base = {line: rng.gamma(2.0, 0.8, genes) for line in LINES}
    rates = np.array([base[line] for line in lines]) * np.exp(effects[codes])
    expression = np.log1p(rng.poisson(rates)).astype(np.float32)
    held_out = [
        (codes == PERTURBATIONS - number) & (lines == line) for number, line in enumerate(LINES)
    ]
    trained = np.flatnonzero((codes > 0) & ~np.any(held_out, axis=0))
    controls = {line: np.flatnonzero((codes == 0) & (lines == line)) for line in LINES}
    names = [f"P{code}" for code in range(PERTURBATIONS + 1)]
    return TrainingData(
        torch.from_numpy(expression).to(device),
        np.arange(genes),
        names,
        [Targets(_places(code), _places(0)) for code in range(PERTURBATIONS + 1)],
        trained,
        codes[trained],
        controls,
        controls,
        lines,
        {line: expression[rows].mean(0, dtype=np.float64) for line, rows in controls.items()},
        [
            ValidationSet(line, names[PERTURBATIONS - number], np.flatnonzero(held_out[number]))
            for number, line in enumerate(LINES)
        ],
    )


def _places(code: int) -> Ints:
    """Return the gene of a perturbation; the control has none."""
    return np.arange(code - 1, code) if code else np.empty(0, np.int64)


def fresh_model(options: Namespace) -> Any:
    """Return a model of the generated genes with weights of seed 0, on the CPU."""
    vocabulary: Vocabulary = {f"G{i}": i for i in range(options.genes)} | {"<pad>": options.genes}
    torch.manual_seed(0)
    return build(measure.model_args(options), vocabulary)


def trained(
    options: Namespace,
    device: torch.device,
    precision: str,
    *,
    model: Any = None,
    checkpoints: Checkpoints | None = None,
    saved: Saved | None = None,
    workers: Workers = ALONE,
) -> tuple[Any, Fit]:
    """Fine-tune a model on generated cells; return it and how that went.

    Args:
        options: sizes: genes, epochs, width, heads, layers, dropout.
        device: where to train.
        precision: fp16, bf16 or fp32; the CPU computes in float32.
        model: what to train, else a fresh one.
        checkpoints: see `fit`, as the next.
        saved: the checkpoint to go on from.
        workers: the processes that train together.
    """
    model = model or fresh_model(options)
    found = fit(
        model,
        cells(options.genes, device),
        recipe(options, precision),
        seed=0,
        device=device,
        on_epoch=lambda epoch: None,
        checkpoints=checkpoints,
        saved=saved,
        workers=workers,
    )
    return model, found


def curve(found: Fit, name: str) -> list[float]:
    """Return a column of a fine-tune's history."""
    return [asdict(epoch)[name] for epoch in found.history]
