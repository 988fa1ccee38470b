"""Apply a perturbation model to control cells: full transcriptomes, in windows of tokens."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.shared.tokens import Batch, Ints, Targets, assemble, prediction_windows

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = (*AUTOCAST, "fp32")


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the mixed precision of a recipe; the CPU always computes in float32."""
    enabled = device.type == "cuda" and precision in AUTOCAST
    return torch.autocast(
        device.type, dtype=AUTOCAST.get(precision, torch.bfloat16), enabled=enabled
    )


def forward(model: Any, batch: Batch) -> Tensor:
    """Return predicted expression of every token of the batch, [B, S].

    The padding mask scGPT's `pred_perturb` passes is always empty here, since a batch shares its
    tokens; without it PyTorch's fused attention is free to run.
    """
    ids = batch.ids.expand(len(batch.values), -1)
    output = model(ids, batch.values, batch.flags, src_key_padding_mask=None)
    return output["mlm_output"]


@torch.no_grad()
def predict_cells(
    model: Any,
    basal: Tensor,
    targets: Sequence[Targets],
    ids: Ints,
    order: Ints,
    *,
    window: int,
    contrast: bool,
    device: torch.device,
    precision: str,
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

    Returns:
        Predicted expression, float32 [B, genes], on the CPU, not clipped.
    """
    predicted = torch.empty_like(basal)
    for tokens, taken in prediction_windows(len(ids), window, targets, order):
        batch = assemble(basal, targets, tokens, ids, device)
        with autocast(device, precision):
            output = forward(model, batch)
            if contrast:
                unperturbed = replace(batch, flags=torch.zeros_like(batch.flags))
                output = batch.values + output - forward(model, unperturbed)
        places = np.searchsorted(tokens.genes, taken)
        predicted[:, torch.from_numpy(taken)] = output[:, places].float().cpu()
    return predicted
