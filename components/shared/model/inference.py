"""Apply a perturbation model to control cells: full transcriptomes, in windows of tokens."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from components.shared.model.tokens import (
    Batch,
    Ints,
    Targets,
    Window,
    assemble,
    prediction_windows,
)

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return the mixed precision of a recipe; the CPU always computes in float32."""
    enabled = device.type == "cuda" and precision in AUTOCAST
    return torch.autocast(
        device.type, dtype=AUTOCAST.get(precision, torch.bfloat16), enabled=enabled
    )


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Return predicted expression of every token of the batch, [B, S]."""
    known = () if batch.effects is None else (batch.effects,)
    return model(batch.ids, batch.values, batch.flags, *known)


@torch.no_grad()
def predict_cells(
    model: nn.Module,
    basal: Tensor,
    targets: Sequence[Targets],
    ids: Ints,
    order: Ints,
    *,
    window: int,
    contrast: bool,
    device: torch.device,
    precision: str,
    effects: Tensor | None = None,
) -> Tensor:
    """Predict all modelled genes of control cells under perturbations.

    Args:
        model: a `TransformerGenerator` in evaluation mode.
        basal: control expression, log1p of counts per 10,000, float32 [B, genes].
        targets: the perturbation of each cell, [B].
        ids: token ids of the genes, [genes].
        order: the permutation that windows are cut from, [genes].
        window: tokens a window; 0 = all genes at once (as scGPT's `pred_perturb`).
        contrast: predict the control cell plus what the flags change in the model's output, rather
            than the output itself. What the model gets wrong about a line it never saw is the same
            with and without flags, so it cancels.
        device: where the model is.
        precision: fp16, bf16 or fp32.
        effects: what the perturbations are known to change, float32 [B or 1, genes], for a model
            that was given effects.

    Returns:
        Predicted expression, float32 [B, genes], on the CPU, not clipped.
    """
    predicted = torch.empty(basal.shape)
    for tokens, taken in prediction_windows(len(ids), window, targets, order):
        known = None if effects is None else _columns(effects, tokens)
        batch = assemble(_columns(basal, tokens), targets, tokens, ids, device, known)
        with autocast(device, precision):
            output = forward(model, batch)
            if contrast:
                output = output + _correction(model, batch)
        places = torch.from_numpy(np.searchsorted(tokens.genes, taken))
        predicted[:, torch.from_numpy(taken)] = output[:, places.to(device)].float().cpu()
    return predicted


def _columns(basal: Tensor, window: Window) -> Tensor:
    return basal[:, torch.from_numpy(window.genes).to(basal.device)]


def _correction(model: nn.Module, batch: Batch) -> Tensor:
    """Return the control cells less what the model makes of them unperturbed, [B, S].

    Training shows a model with known effects controls whose effect is 0, not controls without one.
    """
    none = None if batch.effects is None else torch.zeros_like(batch.effects[:1])
    unperturbed = replace(batch, flags=torch.zeros_like(batch.flags[:1]), effects=none)
    return batch.values - forward(model, unperturbed)
