"""The one place where the scgpt package is imported.

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

from components.shared.errors import InputError


@cache
def transformer_generator() -> Any:
    """Return scgpt's class `scgpt.model.TransformerGenerator`.

    Raises:
        InputError: the scgpt package is not installed.
    """
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
