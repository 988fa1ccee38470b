"""The settings that a model was fine-tuned with, as its `args.json` keeps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.errors import InputError

OURS, SCGPT = "ours", "scgpt"
IMPLEMENTATIONS = (OURS, SCGPT)
"""Whose class of the model is trained."""
PRECISIONS = ("fp16", "bf16", "fp32")
OWN = "scgpt_perturb"
"""Key of `args.json` under which a fine-tune says how it trained."""


def settings_of(args: Mapping[str, Any], folder: Path | str) -> dict[str, Any]:
    """Return the settings a model was fine-tuned with, from its `args.json`.

    Raises:
        InputError: it was not fine-tuned by this pipeline.
    """
    try:
        return dict(args[OWN]["settings"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{folder}/args.json: has no settings under '{OWN}': an scGPT checkpoint that was "
            f"never fine-tuned here; fine-tune it first, or give what publish wrote"
        ) from None
