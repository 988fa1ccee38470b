"""GPUs: those requested must be there, and copies to one do not block."""

import torch
from torch import Tensor

from components.shared.telling.errors import InputError


def check_gpus(gpus: int) -> None:
    """Check that a task sees the GPUs that were asked of the cluster for it; 0 = no demand.

    A fine-tune on the CPU by mistake would take weeks.
    """
    if gpus < 0:
        raise InputError(f"gpus={gpus}: expected 0 (no demand) or more")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > there:
        raise InputError(
            f"gpus={gpus}: PyTorch {torch.__version__} sees {there or 'no'} GPU; check the node's "
            f"driver and the image's PyTorch, or give gpus={there}"
            + ("" if there else " to compute on the CPU")
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``; a copy from the host does not wait for what runs there."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    # Only a copy from pinned memory lets the host go on at once.
    return tensor.pin_memory().to(device, non_blocking=True)
