"""scGPT's perturbation model: built, loaded from a pretrained checkpoint, given a gene prior.

The class is the `TransformerGenerator` of `transformer`, or scgpt's own, which computes the same;
weights fit either. A gene prior is a frozen table, projected to the model's width and added to the
gene embedding before its layer norm. Since that is a sum, it can be folded into the embedding's
weights when training ends: the published checkpoint is a plain `TransformerGenerator` that needs no
table.

Two things scGPT's class does not have: a prior that also reaches the perturbed gene's token, so
that a target never seen in training is known by its prior there too; and known effects, from which
the output departs. Their tensors are kept in a file of their own.
"""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from components.shared.artifacts.settings import OURS, SCGPT
from components.shared.model.checkpoint import Checkpoint, check_shapes
from components.shared.model.checkpoint_files import ARGS_FILE
from components.shared.model.scgpt_package import build_scgpt
from components.shared.model.transformer import (
    FLAGS,
    NOT_PERTURBED,
    PERTURBED,
    EffectEncoder,
    PriorEmbedding,
    PriorProjection,
    PriorTable,
    TransformerGenerator,
)
from components.shared.model.vocabulary import PAD, Vocabulary
from components.shared.telling.errors import InputError

PRETRAINED_PREFIXES = ("encoder.", "value_encoder.", "transformer_encoder.")
"""The parts taken from a pretrained checkpoint; decoder and flag encoder start fresh."""
EXTRA = ("flag_prior.", "effect_encoder.")
"""The parts that scGPT's class does not have."""
LAST_LAYERS = ("decoder.coeff_decoder.fc.4.", "decoder.bias_decoder.fc.4.")
"""Of both halves of scGPT's affine decoder: what they give is linear in these weights."""
AS_WIDE_AS = 8
"""Width of a prior whose numbers have a mean square of 1; a wider one's are smaller in proportion.

Adam moves each weight of the projection as far, so with numbers of one size a step would move what
is projected the farther the wider the prior: a wide one would be learned by heart (Yang et al.
2022, "Tensor Programs V": input weights)."""


def build(args: dict[str, Any], vocabulary: Vocabulary, implementation: str = OURS) -> nn.Module:
    """Build a `TransformerGenerator` as `args.json` says, with fresh weights.

    ``args`` are as in `checkpoint.read_args`, with `pert_pad_id`, the flag whose embedding is zero.
    ``implementation`` is ours, or scgpt's own class, which is called the same way.

    Raises:
        InputError: scgpt's own is requested and the package is not installed.
    """
    if implementation == SCGPT:
        model: nn.Module = build_scgpt(args, vocabulary)
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
    model.get_submodule("cls_decoder").requires_grad_(False)
    return model


def has_compiler() -> bool:
    """Return whether there is a C compiler, without which torch.compile does nothing."""
    return any(map(shutil.which, ("cc", "gcc", "clang")))


def compile_on(model: nn.Module, device: torch.device) -> bool:
    """Let torch.compile fuse what lies between matrix products, on a GPU; return whether it does.

    Triton, which makes the kernels, needs a C compiler where it runs; without one nothing is done.
    Tensors keep their names.
    """
    ours = isinstance(model, TransformerGenerator)
    if device.type != "cuda" or not ours or not has_compiler():
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


def add_prior(model: nn.Module, table: Tensor, *, neutral: bool) -> None:
    """Inject a frozen prior ``table`` [tokens, width] at the gene embedding; a row of zeros = none.

    A ``neutral`` one starts without any weight on it, its numbers scaled so that its width does not
    set how fast it is learned, and reaches the perturbed gene's token too, which scgpt's own class
    cannot take. Else, as in the reference run, its projection starts random and the numbers are
    taken as they are.

    Raises:
        InputError: scgpt's own class cannot take a prior at the perturbed gene's token.
    """
    encoder = model.get_submodule("encoder")
    embedding = cast(nn.Embedding, encoder.get_submodule("embedding"))
    ours = _checked_ours(model, "prior_neutral=true") if neutral else None
    if ours is not None:
        rows = table[table.any(dim=1)]
        size = rows.square().mean().sqrt().clamp(min=1e-12)
        table = table * (AS_WIDE_AS / table.shape[1] / size)
    prior = PriorTable(table)
    if ours is not None:
        ours.flag_prior = PriorProjection(prior, embedding.embedding_dim)
    encoder.embedding = PriorEmbedding(embedding, prior, neutral=neutral)


def give_effects(model: nn.Module) -> None:
    """Let the model take known effects; its own part starts as zero.

    A perturbation's flag adds nothing at first, and neither do known effects to the input: what the
    flags change in the output is then exactly the known effect, until training moves it.
    """
    ours = _checked_ours(model, "prior=effects")
    ours.effect_encoder = EffectEncoder(ours.encoder.embedding.embedding_dim)
    with torch.no_grad():
        ours.pert_encoder.weight[PERTURBED] = ours.pert_encoder.weight[NOT_PERTURBED]


def _checked_ours(model: nn.Module, setting: str) -> TransformerGenerator:
    if not isinstance(model, TransformerGenerator):
        raise InputError(
            f"{setting} needs implementation={OURS}; scgpt's own class has no such input"
        )
    return model


def export_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors on the CPU, a prior folded in.

    Those under `EXTRA` are what scGPT's class does not have.
    """
    embedding = model.get_submodule("encoder.embedding")
    flag_prior = getattr(model, "flag_prior", None)
    state = {
        name: tensor for name, tensor in model.state_dict().items() if ".projection" not in name
    }
    with torch.no_grad():
        if isinstance(embedding, PriorEmbedding):
            state["encoder.embedding.weight"] = embedding.folded()
        if flag_prior is not None:
            state["flag_prior.weight"] = flag_prior.folded()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def weigh_network(state: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Return an exported state whose change of a control cell is ``weight`` times as large.

    Both last layers of scGPT's affine decoder are scaled, so all that flags and known effects
    change in the decoder's output is; the known effects themselves are added after it.
    """
    return {
        name: weight * part if name.startswith(LAST_LAYERS) else part
        for name, part in state.items()
    }


def parted(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what scGPT's class has of an exported state, and the rest."""
    extra = {name: tensor for name, tensor in state.items() if name.startswith(EXTRA)}
    return {name: tensor for name, tensor in state.items() if name not in extra}, extra


def load_finetuned(checkpoint: Checkpoint, path: Path) -> TransformerGenerator:
    """Build the model of a fine-tuned checkpoint, every tensor loaded, ready to predict.

    Raises:
        InputError: a tensor is missing, unknown or of another shape, or no flag is said to be zero.
    """
    flag = checkpoint.args.get("pert_pad_id")
    if type(flag) is not int or not 0 <= flag < FLAGS:
        raise InputError(
            f"{path.with_name(ARGS_FILE)}: 'pert_pad_id' is {flag!r:.60}; expected a whole number "
            f"from 0 to {FLAGS - 1}, as finetune writes it"
        )
    model = cast(TransformerGenerator, build(checkpoint.args, checkpoint.vocabulary))
    width = checkpoint.args["embsize"]
    if "flag_prior.weight" in checkpoint.state:
        model.flag_prior = nn.Embedding(len(checkpoint.vocabulary), width)
    if "effect_encoder.linear1.weight" in checkpoint.state:
        model.effect_encoder = EffectEncoder(width)
    check_shapes(model.state_dict(), checkpoint.state, path, strict=True)
    model.load_state_dict(checkpoint.state)
    return model.eval()
