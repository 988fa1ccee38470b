"""The settings that a model was fine-tuned with, as its `args.json` keeps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.artifacts.shapes import SETTINGS
from components.shared.storage.documents import check_shape
from components.shared.telling.errors import InputError

OURS, SCGPT = "ours", "scgpt"
IMPLEMENTATIONS = (OURS, SCGPT)
"""Whose class of the model is trained."""
PRECISIONS = ("fp16", "bf16", "fp32")
OWN = "scgpt_perturb"
"""Key of `args.json` under which a fine-tune says how it trained."""
CHOICES = {"predicted_cells": ("rank", "denoised"), "precision": ("fp32", "bf16", "fp16")}
"""Settings that are one of a few words, those of `rank_cells` and `inference`, which need numpy and
torch."""
LEAST = {"batch_size": 1, "predict_window": 0}
"""A window of 0 takes all genes at once."""


def settings_of(args: Mapping[str, Any], folder: Path | str) -> dict[str, Any]:
    """Return the settings of a fine-tune from its `args.json`; an scGPT checkpoint has none.

    Raises:
        InputError: it was not fine-tuned by this pipeline.
    """
    name = f"{folder}/args.json"
    try:
        found = dict(args[OWN]["settings"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{folder}/args.json: has no settings under '{OWN}': an scGPT checkpoint that was "
            f"never fine-tuned here; fine-tune it first, or give what publish wrote"
        ) from None
    check_shape(found, SETTINGS, f"{name}, settings", "fine-tune again")
    for key, allowed in CHOICES.items():
        if found[key] not in allowed:
            raise InputError(f"{name}: '{key}' is {found[key]!r}; expected {', '.join(allowed)}")
    for key, least in LEAST.items():
        if found[key] < least:
            raise InputError(f"{name}: '{key}' is {found[key]}; expected {least} or more")
    return found
