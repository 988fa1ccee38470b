"""scGPT's perturbation model: built, loaded from a pretrained checkpoint, given a gene prior.

The class is scgpt's own `TransformerGenerator`. A gene prior is a frozen table, projected to the
model's width and added to the gene embedding before its layer norm. Since that is a sum, it can be
folded into the embedding's weights when training ends: the published checkpoint is a plain
`TransformerGenerator` that needs no table.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.shared.checkpoint import Checkpoint, check_shapes
from components.shared.scgpt_package import transformer_generator
from components.shared.vocabulary import PAD, Vocabulary

PRETRAINED_PREFIXES = ("encoder.", "value_encoder.", "transformer_encoder.")
"""What is taken from a pretrained checkpoint; decoder and flag encoder start fresh."""

PAD_VALUE = -2
FLAG_PERTURBED = 1


class PriorEmbedding(nn.Embedding):
    """A gene embedding plus the projection of a frozen per-gene table."""

    def __init__(self, embedding: nn.Embedding, table: Tensor) -> None:
        """Wrap ``embedding`` [tokens, d_model] with ``table`` [tokens, prior width]."""
        super().__init__(
            embedding.num_embeddings, embedding.embedding_dim, padding_idx=embedding.padding_idx
        )
        self.weight = embedding.weight
        self.prior: Tensor
        self.register_buffer("prior", table, persistent=False)
        self.projection = nn.Linear(table.shape[1], embedding.embedding_dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids [batch, tokens]; a batch that shares its tokens is embedded once."""
        if ids.dim() == 2 and ids.stride(0) == 0:
            return self.forward(ids[0]).expand(ids.shape[0], -1, -1)
        return super().forward(ids) + self.projection(self.prior[ids])

    def folded(self) -> Tensor:
        """Return the weights of the plain embedding that computes the same, [tokens, d_model]."""
        return self.weight + self.projection(self.prior)


def build(args: dict[str, Any], vocabulary: Vocabulary) -> Any:
    """Build a `TransformerGenerator` as `args.json` says, with fresh weights."""
    return transformer_generator()(
        ntoken=len(vocabulary),
        d_model=args["embsize"],
        nhead=args["nheads"],
        d_hid=args["d_hid"],
        nlayers=args["nlayers"],
        nlayers_cls=args["n_layers_cls"],
        n_cls=1,
        vocab=vocabulary,
        dropout=args["dropout"],
        pad_token=PAD,
        pad_value=PAD_VALUE,
        pert_pad_id=args["pert_pad_id"],
        use_fast_transformer=False,
    )


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
