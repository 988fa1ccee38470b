"""scGPT's perturbation model in PyTorch alone: control cells and flags in, expression out.

The same network as `scgpt.model.TransformerGenerator` 0.2.4 (Cui et al. 2024) under the same tensor
names, so that weights go either way, and with the same fresh weights for the same seed. It differs
in what it spends: all cells of a batch share one window of tokens, so gene embeddings (and a prior)
are computed once a window, [S, d], not once a cell, [B, S, d]; no padding mask keeps attention from
the fused kernels; under autocast the residual stream stays in 16 bit, and the last layer computes
in float32, since the change a perturbation makes is smaller than bf16 can tell.

Shapes, which names of tensors end in where three or more meet: B cells, S tokens, D the width (d in
docstrings), H heads, E = D/H.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLAGS = 3
"""Rows of the flag embedding: not perturbed, perturbed, and one that is not used here."""
NOT_PERTURBED, PERTURBED = 0, 1
EFFECT_SCALE = 10.0
"""Known effects are tenths of a log1p unit, a few are whole ones: of ten times that, asinh leaves
the many about as they are and draws the few in."""
HIGHEST_VALUE = 512.0
"""Expression above this is taken for this: scGPT's own bound (`ContinuousValueEncoder`)."""


class TransformerGenerator(nn.Module):
    """Tokens of gene, expression and flag embeddings; an encoder; an affine decoder a token."""

    def __init__(
        self,
        *,
        tokens: int,
        pad: int,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        decoder_layers: int,
        dropout: float,
        pad_flag: int,
    ) -> None:
        """Build the model with fresh weights.

        Args:
            tokens: size of the vocabulary.
            pad: id of `<pad>`, whose embedding is not trained.
            width: d; a multiple of ``heads``.
            heads: attention heads.
            hidden: width of the feed-forward layers.
            layers: encoder layers.
            decoder_layers: layers of the unused cell type decoder.
            dropout: after expression embeddings, attention weights and each half of a layer.
            pad_flag: the flag whose embedding is zero and is not trained.
        """
        super().__init__()
        self.encoder = GeneEncoder(tokens, width, pad)
        self.value_encoder = ValueEncoder(width, dropout)
        self.pert_encoder = nn.Embedding(FLAGS, width, padding_idx=pad_flag)
        self.transformer_encoder = Encoder(width, heads, hidden, layers, dropout)
        self.decoder = AffineDecoder(width)
        self.flag_prior: nn.Module | None = None
        self.effect_encoder: nn.Module | None = None
        # Not called: scGPT's checkpoints have it, and must load strictly here and there.
        self.cls_decoder = CellTypeDecoder(width, decoder_layers)
        nn.init.uniform_(self.encoder.embedding.weight, -0.1, 0.1)

    def forward(
        self, ids: Tensor, values: Tensor, flags: Tensor, effects: Tensor | None = None
    ) -> Tensor:
        """Predict the expression of every token.

        Args:
            ids: token ids that all cells share, int64 [S].
            values: expression of control cells, log1p of counts per 10,000, float32 [B, S].
            flags: 1 on perturbed tokens, else 0, int64 [B, S], or [1, S] for all cells alike.
            effects: what the perturbation is known to change, float32 [B, S] or [1, S]; the output
                departs from it (see `give_effects`).

        Returns:
            Predicted expression, float32 [B, S].
        """
        value_BSD = self.value_encoder(values)
        none_D, perturbed_D = self.pert_encoder(torch.arange(2, device=ids.device))
        gene_SD = (self.encoder(ids) + none_D).to(value_BSD.dtype)
        change = perturbed_D - none_D  # [D], or [S, D] where a prior tells targets apart
        if self.flag_prior is not None:
            change = change + self.flag_prior(ids)
        flag_BS1 = flags.unsqueeze(-1).to(value_BSD.dtype)
        x_BSD = torch.addcmul(value_BSD + gene_SD, flag_BS1, change.to(value_BSD.dtype))
        if effects is None or self.effect_encoder is None:
            return self.decoder(self.transformer_encoder(x_BSD), values)
        x_BSD = x_BSD + self.effect_encoder(effects).to(value_BSD.dtype)
        return self.decoder(self.transformer_encoder(x_BSD), values) + effects


class LayerNorm(nn.LayerNorm):
    """Layer norm that gives back the precision it was given, where autocast would give float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return super().forward(x).to(x.dtype)


class GeneEncoder(nn.Module):
    """The part of a gene's token that does not depend on its expression."""

    def __init__(self, tokens: int, width: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=pad)
        self.enc_norm = LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids [S] as [S, d]."""
        return self.enc_norm(self.embedding(ids))


class PriorTable(nn.Module):
    """A frozen per-gene table, [tokens, prior width].

    Modules that share it have one copy on a device too: a buffer of each would be moved for each.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows: Tensor
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of token ids [S], [S, prior width]."""
        return self.rows[ids]


class PriorProjection(nn.Module):
    """The projection of a prior table, which starts as zero."""

    def __init__(self, prior: PriorTable, width: int) -> None:
        """Project ``prior`` to ``width``."""
        super().__init__()
        self.prior = prior
        self.projection = nn.Linear(prior.rows.shape[1], width, bias=False)
        nn.init.zeros_(self.projection.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids [S] as [S, d]."""
        return self.projection(self.prior(ids))

    def folded(self) -> Tensor:
        """Return the weights of the plain embedding that computes the same, [tokens, d]."""
        return self.projection(self.prior.rows)


class EffectEncoder(nn.Module):
    """A known change of expression as a vector, which starts as zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, effects: Tensor) -> Tensor:
        """Embed changes [B, S] as [B, S, d]."""
        x = torch.asinh(EFFECT_SCALE * effects).unsqueeze(-1)
        return self.linear2(F.relu(self.linear1(x)))


class PriorEmbedding(nn.Embedding):
    """A gene embedding plus the projection of a prior table."""

    def __init__(
        self, embedding: nn.Embedding, prior: PriorTable, *, neutral: bool = False
    ) -> None:
        """Wrap ``embedding`` [tokens, d] with ``prior`` of the same tokens.

        A ``neutral`` projection starts as zero.
        """
        super().__init__(
            embedding.num_embeddings, embedding.embedding_dim, padding_idx=embedding.padding_idx
        )
        self.weight = embedding.weight
        self.prior = prior
        self.projection = nn.Linear(prior.rows.shape[1], embedding.embedding_dim, bias=False)
        if neutral:
            nn.init.zeros_(self.projection.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids [S]; or [B, S] as scgpt's class has it, once if the rows are one."""
        if ids.dim() == 2 and ids.stride(0) == 0:
            return self.forward(ids[0]).expand(ids.shape[0], -1, -1)
        return super().forward(ids) + self.projection(self.prior(ids))

    def folded(self) -> Tensor:
        """Return the weights of the plain embedding that computes the same, [tokens, d]."""
        return self.weight + self.projection(self.prior.rows)


class ValueEncoder(nn.Module):
    """A continuous expression value as a vector."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Embed expression [B, S] as [B, S, d]."""
        x = values.clamp(max=HIGHEST_VALUE).unsqueeze(-1)
        # linear1 written out: a matrix product of inner size 1 has a slow gradient on a GPU.
        hidden = torch.addcmul(self.linear1.bias, x, self.linear1.weight.squeeze(-1))
        return self.dropout(self.norm(self.linear2(F.relu(hidden))))


class Encoder(nn.Module):
    """Encoder layers, which start alike as PyTorch's do."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        layer = EncoderLayer(width, heads, hidden, dropout)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Let tokens [B, S, d] see each other."""
        for layer in self.layers:
            x = layer(x)
        return x


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward network, each normalised after its residual is added."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, S, d] to [B, S, d]."""
        x = self.norm1(x + self.dropout(self.self_attn(x)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class Attention(nn.Module):
    """Attention of every token to every token, its three projections one matrix product."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, S, d] to [B, S, d]; queries, keys and values are views, not copies."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        parts_BSHE = projected.unflatten(-1, (3, self.heads, -1)).unbind(2)
        q_BHSE, k_BHSE, v_BHSE = (part.transpose(1, 2) for part in parts_BSHE)
        dropout = self.dropout if self.training else 0.0
        mixed_BHSE = F.scaled_dot_product_attention(q_BHSE, k_BHSE, v_BHSE, dropout_p=dropout)
        return self.out_proj(mixed_BHSE.transpose(1, 2).flatten(-2))


class AffineDecoder(nn.Module):
    """Predicted expression: a coefficient times the control cell's value, plus a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coeff_decoder = TokenDecoder(width)
        self.bias_decoder = TokenDecoder(width)

    def forward(self, x: Tensor, values: Tensor) -> Tensor:
        """Decode tokens [B, S, d] with their values [B, S] as expression, float32 [B, S]."""
        return self.coeff_decoder(x) * values + self.bias_decoder(x)


class TokenDecoder(nn.Module):
    """A number for each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width),
            nn.LeakyReLU(),
            nn.Linear(width, width),
            nn.LeakyReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, S, d] to numbers, float32 [B, S]."""
        *hidden, last = self.fc
        for layer in hidden:
            x = layer(x)
        # last written out: in float32 under autocast too, and one pass over x when compiled.
        weight, bias = last.parameters()
        return (x * weight).sum(-1) + bias


class CellTypeDecoder(nn.Module):
    """The tensors of scGPT's cell type decoder, which predicting expression does not call."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self._decoder = nn.ModuleList()
        for _ in range(layers - 1):
            self._decoder.extend([nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)])
        self.out_layer = nn.Linear(width, 1)
