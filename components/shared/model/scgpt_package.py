"""The one place where the scgpt package is imported, for its own model class.

`scgpt/__init__.py` (0.2.4) imports every part of the package, and with it torchtext, which no
longer loads on current torch, and scanpy, datasets and scib, which the model does not need. So a
bare module stands in for `scgpt/__init__.py`, with its search path and its logger, and only
`scgpt.model` is imported, unchanged, from the installed package.
"""

import importlib
import importlib.util
import logging
import sys
import types
import warnings
from functools import cache
from typing import Any

from torch import Tensor, nn

from components.shared.model.vocabulary import PAD, Vocabulary
from components.shared.telling.errors import InputError

PAD_VALUE = -2
"""scGPT's own, of its tutorials; no token here is padding."""


@cache
def transformer_generator() -> Any:
    """Return scgpt's class `scgpt.model.TransformerGenerator`."""
    if "scgpt" not in sys.modules:
        found = importlib.util.find_spec("scgpt")
        if found is None or found.submodule_search_locations is None:
            raise InputError("package scgpt is not installed; pip install --no-deps scgpt==0.2.4")
        package = types.ModuleType("scgpt")
        package.__path__ = list(found.submodule_search_locations)
        package.__spec__ = found
        package.logger = logging.getLogger("scGPT")  # type: ignore[attr-defined]
        sys.modules["scgpt"] = package
    with warnings.catch_warnings():
        # It warns that flash-attn is absent; PyTorch's own fused attention is used instead.
        warnings.simplefilter("ignore")
        return importlib.import_module("scgpt.model.generation_model").TransformerGenerator


def build_scgpt(args: dict[str, Any], vocabulary: Vocabulary) -> nn.Module:
    """Build scgpt's own `TransformerGenerator` as `args.json` says; see `model.build`."""
    return _window_generator()(
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


@cache
def _window_generator() -> Any:
    class WindowGenerator(transformer_generator()):  # type: ignore[misc]
        """scgpt's class, which can also be called as ours is: with ids [S] that all cells share."""

        def forward(
            self,
            ids: Tensor,
            values: Tensor,
            flags: Tensor,
            src_key_padding_mask: Tensor | None = None,
            **tasks: bool,
        ) -> Any:
            if ids.dim() == 2:
                return super().forward(ids, values, flags, src_key_padding_mask, **tasks)
            # The mask of `pred_perturb` would be empty; without it attention may be fused.
            ids = ids.expand(len(values), -1)
            return super().forward(ids, values, flags, None)["mlm_output"]

    return WindowGenerator
