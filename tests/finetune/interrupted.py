"""A fine-tune that tests interrupt: its world, and its arguments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.split.split import split
from tests.finetune.screens import VOCABULARY, write_prior
from tests.helpers import cells_artifact, screen

EPOCHS = 3
SETTINGS = {"epochs": EPOCHS, "early_stop_after": 9, "batch_size": 20, "max_genes": 16}


def interrupted_world(folder: Path) -> Path:
    """Fill a folder with cells, splits, a vocabulary and two priors."""
    obs, X, genes = screen(cells_each=8, controls_each=16)  # noqa: N806
    cells_artifact(folder / "cells", obs, X, genes)
    divide(folder, "splits", val_fraction=0.3)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    table = np.random.default_rng(0).normal(size=(len(VOCABULARY), 8)).astype(np.float32)
    write_prior(folder / "table", torch.from_numpy(table))
    write_prior(folder / "effects", None, effects={"uri": ""})
    return folder


def divide(world: Path, name: str, **options: Any) -> None:
    lines = ["k562", "jurkat", "hepg2"]
    split(world / "cells", world / name, train_lines=lines, test_line="rpe1", **options)


def arguments(world: Path, target: Path, checkpoints: Path | str, **changes: Any) -> dict[str, Any]:
    """Return keywords of `finetune`: a model with dropout and a trained projection of a prior."""
    return {
        "cells": world / "cells",
        "splits": world / "splits",
        "prior": world / "table",
        "target": target,
        "pretrained": f"random://small?vocabulary={world / 'vocab.json'}",
        "recipe": "smoke",
        "overrides": SETTINGS | changes.pop("overrides", {}),
        "seed": 5,
        "checkpoints": str(checkpoints),
    } | changes
