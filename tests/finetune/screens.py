"""Small screens as artifacts, and fine-tunes on them."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from components.finetune.finetune import finetune
from components.shared.artifacts.artifact import GENE_PRIOR, writing
from components.shared.model.vocabulary import vocabulary_digest
from components.split.split import split
from tests.helpers import cells_artifact, screen

VOCABULARY = {f"G{i}": i for i in range(40)} | {"X0": 40, "<pad>": 41}
QUICK = {"epochs": 2, "batch_size": 32, "max_genes": 16, "predict_window": 0}


def small_world(folder):
    """Fill a folder with cells, splits, a vocabulary, an empty prior and a table prior."""
    obs, X, genes = screen(  # noqa: N806
        perturbations=("G0", "G1", "G2", "G3", "X0", "Y0", "G1+G2"),
        genes=30,
        cells_each=12,
        controls_each=40,
    )
    cells_artifact(folder / "cells", obs, X, genes)
    split(
        folder / "cells",
        folder / "splits",
        train_lines=["k562", "jurkat", "hepg2"],
        test_line="rpe1",
        val_fraction=0.2,
    )
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    write_prior(folder / "none", None)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(VOCABULARY), 8)).astype(np.float32)
    write_prior(folder / "table", torch.from_numpy(table))
    return folder


def write_prior(folder, table, vocabulary=VOCABULARY, **more):
    with writing(folder, GENE_PRIOR, parameters={}) as draft:
        facts = {"kind": "none" if table is None else "table"}
        facts |= {"vocabulary_sha256": vocabulary_digest(vocabulary)} | more
        (draft.path / "prior.json").write_text(json.dumps(facts))
        if table is not None:
            save_file({"prior": table}, draft.path / "prior.safetensors")
        draft.summary |= facts


def train(world, target, *, prior="none", recipe="smoke", seed=0, pretrained=None, **overrides):
    finetune(
        world / "cells",
        world / "splits",
        world / prior,
        target,
        pretrained=pretrained or f"random://tiny?vocabulary={world / 'vocab.json'}",
        recipe=recipe,
        overrides=QUICK | overrides,
        seed=seed,
    )
    return target
