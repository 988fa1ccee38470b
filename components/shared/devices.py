"""GPUs that were asked for must be there: a fine-tune on the CPU by mistake takes weeks."""

import torch

from components.shared.errors import InputError


def check_gpus(gpus: int) -> None:
    """Check that a task sees the GPU that was asked of the cluster for it.

    Args:
        gpus: 0 for no demand: a GPU is used where there is one.

    Raises:
        InputError: none is visible, or more than one was asked for.
    """
    if gpus not in (0, 1):
        raise InputError(f"gpus={gpus}: training and prediction use one GPU; give 1, or 0 for none")
    if gpus and not torch.cuda.is_available():
        raise InputError(
            f"gpus={gpus}: PyTorch {torch.__version__} sees no GPU; check the node's driver and "
            "the image's PyTorch, or give gpus=0 to compute on the CPU"
        )
