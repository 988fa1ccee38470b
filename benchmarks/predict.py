"""Speed of predicting whole transcriptomes: our model beside scgpt's own `pred_perturb`.

    python -m benchmarks.predict [--device cuda] [--genes 6546] [--batch 128] ...

A step predicts all genes of a batch of control cells under each of a few perturbations, and brings
the result to the CPU:

- `pred_perturb`: scgpt's own, all genes at once, fp16 on a GPU and float32 on the CPU;
- `cells, all at once`: `predict_cells` doing the same; its error is against scgpt's float32 result
  for two cells, computed on the CPU;
- `cells, windows`: as the default recipe predicts, windows of `--window` tokens, with and without
  flags.

The floating point operations are those each side does (see `measure.forward_flops`): attention
costs windows less, a contrast runs the model twice. scgpt's side is left out where its package does
not import. On the CPU the pipeline computes in float32.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Side
from components.shared.model.inference import predict_cells
from components.shared.model.tokens import Targets, prediction_windows

FULL = {
    "batch": 128,
    "genes": 6546,
    "window": 1536,
    "perturbations": 8,
    "layers": 12,
    "width": 512,
    "heads": 8,
    "dropout": 0.2,
}
SMALL = {
    "batch": 8,
    "genes": 2048,
    "window": 512,
    "perturbations": 4,
    "layers": 4,
    "width": 128,
    "heads": 4,
    "dropout": 0.0,
}
CELLS_CHECKED = 2
THEIRS = "pred_perturb"
WHOLE, WINDOWS = OURS = ("cells, all at once", "cells, windows")


def scgpts_step(
    model: Any, basal: Tensor, targets: list[Targets], device: torch.device
) -> Callable[[], list[Tensor]]:
    """Return a function that predicts with scgpt's `pred_perturb`."""
    ids = np.arange(basal.shape[1])

    def graph(target: Targets) -> SimpleNamespace:
        """Return cells as scgpt takes them: expression and flag of each (cell, gene) in a row."""
        flags = torch.zeros(basal.shape)
        flags[:, target.measured] = 1
        x = torch.stack([basal.flatten(), flags.flatten()], dim=1).to(device)
        return SimpleNamespace(pert=["?"] * len(basal), x=x, to=lambda device: None)

    def step() -> list[Tensor]:
        with torch.no_grad():
            return [
                model.pred_perturb(
                    graph(target),
                    include_zero_gene="all",
                    gene_ids=ids,
                    amp=device.type == "cuda",
                ).cpu()
                for target in targets
            ]

    return step


def our_step(
    basal: Tensor, targets: list[Targets], options: argparse.Namespace, **how: Any
) -> Callable[[], list[Tensor]]:
    """Return a function that predicts with our model: cells of each perturbation."""
    model = measure.our_model(options).eval()
    ids = np.arange(options.genes)
    order = np.random.default_rng(0).permutation(options.genes)
    common = {"device": options.device, **how}

    def step() -> list[Tensor]:
        with measure.attention(options):
            return [
                predict_cells(model, basal, [target] * len(basal), ids, order, **common)
                for target in targets
            ]

    return step


def flops(
    options: argparse.Namespace, targets: list[Targets], *, window: int, passes: float
) -> float:
    """Count the operations of a step, the model run ``passes`` times a cell and window."""
    order = np.arange(options.genes)
    windows = prediction_windows(options.genes, window, targets[:1], order)
    one = sum(measure.forward_flops(options, len(tokens.genes)) for tokens, _ in windows)
    return one * passes * options.batch * len(targets)


def data(options: argparse.Namespace) -> tuple[Tensor, list[Targets]]:
    """Return control cells, and perturbations of a gene each."""
    torch.manual_seed(0)
    basal = measure.expression(options.batch, options.genes, torch.device("cpu"))
    none = np.empty(0, np.int64)
    return basal, [Targets(np.array([i]), none) for i in range(options.perturbations)]


def scgpts_side(options: argparse.Namespace) -> Side:
    """Return scgpt's side, warm; its step's first result is what ours is compared with."""
    basal, targets = data(options)

    def make() -> Callable[[], Any]:
        return scgpts_step(measure.scgpts_model(options), basal, targets, options.device)

    precision = "fp16" if options.device.type == "cuda" else "fp32"
    return _side(THEIRS, precision, options, make, window=0, passes=1)


def our_sides(
    options: argparse.Namespace, precision: str, names: Sequence[str] = OURS
) -> list[Side]:
    """Return our sides of those ``names``, warm."""
    basal, targets = data(options)
    common = {"precision": precision}
    windows = common | {"window": options.window, "contrast": True}
    ways: tuple[tuple[dict[str, Any], float], ...] = (
        (common | {"window": 0, "contrast": False}, 1.0),
        (windows, 2.0),
    )
    return [
        _side(
            name,
            precision,
            options,
            partial(our_step, basal, targets, options, **how),
            window=how["window"],
            passes=passes,
        )
        for name, (how, passes) in zip(OURS, ways, strict=True)
        if name in names
    ]


def _side(
    name: str,
    precision: str,
    options: argparse.Namespace,
    make: Callable[[], Any],
    *,
    window: int,
    passes: float,
) -> Side:
    pairs = options.batch * options.perturbations
    work = flops(options, data(options)[1], window=window, passes=passes)
    before = measure.held(options.device)
    return measure.warm_up(Side(name, precision, pairs, work, make()), before, options.device)


def note_errors(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """Compare the sides that do what scgpt does with its float32 result on the CPU."""
    there = argparse.Namespace(**vars(options) | {"device": torch.device("cpu")})
    basal, targets = data(options)
    checked = basal[:CELLS_CHECKED], targets[:1], there.device
    expected = scgpts_step(measure.scgpts_model(there), *checked)()[0]
    for one in sides:
        if one.name in (THEIRS, WHOLE) and not one.failed:
            one.error = measure.relative_error(one.step()[0][:CELLS_CHECKED], expected)


def main() -> None:
    """Make the sides ready, let them take turns and print the table."""
    made = measure.parser(__doc__.splitlines()[0], FULL, SMALL)
    options = measure.parsed(made, ["fp32"])
    scgpt = measure.scgpt_imports()
    sides = [scgpts_side(options)] if scgpt else []
    for precision in options.precision:
        sides += our_sides(options, precision)
    if scgpt:
        note_errors(sides, options)
    measure.compare(sides, options)


if __name__ == "__main__":
    main()
