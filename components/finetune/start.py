"""The start of a fine-tune: pretrained weights, the gene prior's table, a checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from components.finetune.checkpoint_manager import CHECKPOINT_MINUTES
from components.finetune.checkpoints import Checkpoints, Identity, Saved
from components.finetune.workers import Workers
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.gene_prior import TABLE_FILE, opened_table
from components.shared.model import model as scgpt_model
from components.shared.model.checkpoint import read_checkpoint
from components.shared.model.checkpoint_files import CHECKPOINT_FILES, WEIGHTS_FILE
from components.shared.model.vocabulary import Vocabulary, vocabulary_digest
from components.shared.parameters.pretrained import SIZES, parse_pretrained, resolve_vocabulary
from components.shared.parameters.recipe import Recipe
from components.shared.storage.digests import sha256_of
from components.shared.storage.files import fetched_folder
from components.shared.telling.errors import InputError

FRESH_ARGS = {"n_layers_cls": 3}


def start_model(
    pretrained: str, recipe: Recipe
) -> tuple[nn.Module, dict[str, Any], dict[str, int], str]:
    """Return the model to start from, its `args.json`, its vocabulary, a sha256 of its source.

    Raises:
        InputError: unknown size, or a checkpoint whose tensors do not fit its `args.json`.
    """
    source = parse_pretrained(pretrained)
    flags = {"pert_pad_id": 0 if recipe.zero_no_flag else 2}
    if source.random_size:
        vocabulary = resolve_vocabulary(pretrained)
        args = SIZES[source.random_size] | FRESH_ARGS
        digest = _digest(args, vocabulary)
        args |= flags
        return scgpt_model.build(args, vocabulary, recipe.implementation), args, vocabulary, digest
    with fetched_folder(source.folder, CHECKPOINT_FILES) as folder:
        checkpoint = read_checkpoint(folder)
        digest = _digest(checkpoint.args, checkpoint.vocabulary, sha256_of(folder / WEIGHTS_FILE))
        args = checkpoint.args | flags
        model = scgpt_model.build(args, checkpoint.vocabulary, recipe.implementation)
        scgpt_model.load_pretrained(model, checkpoint, folder / WEIGHTS_FILE)
        return model, args, checkpoint.vocabulary, digest


def _digest(args: Mapping[str, Any], vocabulary: Vocabulary, *weights: str) -> str:
    text = json.dumps([dict(args), vocabulary_digest(vocabulary), *weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def gene_table(prior: Artifact, vocabulary: Vocabulary) -> Tensor | None:
    """Return the prior's vector of each token, [tokens, width], None where it has none."""
    if prior.summary["kind"] == "none":
        return None
    if prior.summary["vocabulary_sha256"] != vocabulary_digest(vocabulary):
        raise InputError(
            f"{prior.path}: aligned to another vocabulary than that of the pretrained model, "
            f"{len(vocabulary)} tokens; run the prior task with the same pretrained"
        )
    with opened_table(prior.path / TABLE_FILE, "pt") as (rows, _):
        table = rows[:]
    if len(table) != len(vocabulary) or not table.isfinite().all():
        raise InputError(
            f"{prior.path / TABLE_FILE}: not a finite row for each of {len(vocabulary)} tokens; "
            "run the prior task again"
        )
    return table


def identity_of(
    inputs: Mapping[str, Artifact], source: str, recipe: Recipe, seed: int, device: torch.device
) -> Identity:
    """Return what a checkpoint must share with this fine-tune to be resumed from."""
    digests = {name: artifact.digest for name, artifact in inputs.items()}
    settings = asdict(recipe) | {"seed": seed, "device": device.type}
    return digests | {"pretrained": source} | settings


def found_checkpoint(store: Checkpoints) -> Saved | None:
    """Say where checkpoints are kept, and return the one to resume from."""
    print(
        f"finetune: checkpoints in {store.where}: after each epoch, every "
        f"{CHECKPOINT_MINUTES:g} minutes and on SIGTERM",
        flush=True,
    )
    saved = store.load()
    if saved:
        print(
            f"finetune: resuming from epoch {saved.epoch}, step {saved.step}: {saved.uri}",
            flush=True,
        )
    return saved


def check_same_start(start: str, workers: Workers) -> None:
    """Raise an InputError unless all processes start from the same weights and checkpoint."""
    starts = workers.gathered({workers.rank: start})
    for rank, other in starts.items():
        if other != starts[0]:
            raise InputError(
                f"process {rank} would start from {other}, process 0 from {starts[0]}; one could "
                "not read what was there: run it again"
            )
