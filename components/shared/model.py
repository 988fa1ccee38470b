"""scGPT's perturbation model: built, loaded from a pretrained checkpoint, given a gene prior.

The class is the `TransformerGenerator` of `components.shared.transformer`, or scgpt's own, which
computes the same; weights fit either. A gene prior is a frozen table, projected to the model's
width and added to the gene embedding before its layer norm. Since that is a sum, it can be folded
into the embedding's weights when training ends: the published checkpoint is a plain
`TransformerGenerator` that needs no table.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.shared.checkpoint import Checkpoint, check_shapes
from components.shared.scgpt_package import build_scgpt
from components.shared.transformer import PriorEmbedding, TransformerGenerator
from components.shared.vocabulary import PAD, Vocabulary

OURS, SCGPT = "ours", "scgpt"
IMPLEMENTATIONS = (OURS, SCGPT)

PRETRAINED_PREFIXES = ("encoder.", "value_encoder.", "transformer_encoder.")
"""What is taken from a pretrained checkpoint; decoder and flag encoder start fresh."""


def build(args: dict[str, Any], vocabulary: Vocabulary, implementation: str = OURS) -> Any:
    """Build a `TransformerGenerator` as `args.json` says, with fresh weights.

    Args:
        args: see `checkpoint.read_args`; and `pert_pad_id`, the flag whose embedding is zero.
        vocabulary: token to id.
        implementation: ours, or scgpt's own class, called the same way.

    Raises:
        InputError: scgpt's own is asked for and the package is not installed.
    """
    if implementation == SCGPT:
        model = build_scgpt(args, vocabulary)
    else:
        model = TransformerGenerator(
            tokens=len(vocabulary),
            pad=vocabulary[PAD],
            width=args["embsize"],
            heads=args["nheads"],
            hidden=args["d_hid"],
            layers=args["nlayers"],
            decoder_layers=args["n_layers_cls"],
            dropout=args["dropout"],
            pad_flag=args["pert_pad_id"],
        )
    # Never called, so never trained: DDP would wait for its gradients.
    model.cls_decoder.requires_grad_(False)
    return model


def compile_on(model: Any, device: torch.device) -> bool:
    """Let torch.compile fuse what lies between the model's matrix products, on a GPU.

    Triton, which makes the kernels, needs a C compiler where it runs; without one nothing is done.

    Returns:
        Whether the model is compiled; its tensors keep their names.
    """
    if device.type != "cuda" or not isinstance(model, TransformerGenerator):
        return False
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return False
    # A kernel that cannot be made costs speed, never the run.
    torch._dynamo.config.suppress_errors = True
    model.compile()
    return True


def load_pretrained(model: nn.Module, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Copy the pretrained parts of ``checkpoint`` into ``model``; return the names copied.

    Raises:
        InputError: a tensor is missing or its shape does not fit `args.json`.
    """
    own = model.state_dict()
    wanted = {name: own[name] for name in own if name.startswith(PRETRAINED_PREFIXES)}
    check_shapes(wanted, checkpoint.state, path, strict=False)
    model.load_state_dict(own | {name: checkpoint.state[name] for name in wanted})
    return sorted(wanted)


def add_prior(model: Any, table: Tensor) -> None:
    """Inject a frozen prior ``table`` [tokens, width] at the model's gene embedding."""
    model.encoder.embedding = PriorEmbedding(model.encoder.embedding, table)


def export_state(model: Any) -> dict[str, Tensor]:
    """Return the plain `TransformerGenerator` state_dict on the CPU, a prior folded in."""
    embedding = model.encoder.embedding
    state = {
        name: tensor for name, tensor in model.state_dict().items() if ".projection" not in name
    }
    if isinstance(embedding, PriorEmbedding):
        with torch.no_grad():
            state["encoder.embedding.weight"] = embedding.folded()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def load_finetuned(checkpoint: Checkpoint, path: Path) -> Any:
    """Build the model of a fine-tuned checkpoint, every tensor loaded, ready to predict.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    model = build(checkpoint.args, checkpoint.vocabulary)
    check_shapes(model.state_dict(), checkpoint.state, path, strict=True)
    model.load_state_dict(checkpoint.state)
    return model.eval()
