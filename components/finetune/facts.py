"""Facts of a fine-tune before training starts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.finetune.data import TrainingData
from components.finetune.given import vectors_by_gene
from components.finetune.workers import Workers
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.gene_prior import coverage
from components.shared.artifacts.normalisation import TARGET_SUM, total_of_model, unit_of
from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.splits import TEST, TRAIN, Splits
from components.shared.model.tokens import GeneTokens
from components.shared.model.vocabulary import Vocabulary
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.recipe import Recipe
from components.shared.storage.downloads import shown
from components.shared.telling.errors import say


def facts_of_start(
    model: nn.Module,
    data: TrainingData,
    cells: Cells,
    tokens: GeneTokens,
    workers: Workers,
    pretrained: str,
    prior: Artifact,
) -> dict[str, Any]:
    """Return what is known before training starts."""
    device = workers.device
    trained = [data.perturbations[code] for code in set(data.train_codes.tolist())]
    genes = set(cells.genes)
    return {
        "pretrained": parse_pretrained(pretrained).shown,
        "random_init": bool(parse_pretrained(pretrained).random_size),
        "prior": prior.summary,
        "prior_asked_for": prior.provenance["parameters"].get("uri", prior.summary["kind"]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": workers.count,
        "training_data_on": f"{data.expression.device.type}, {data.expression.dtype}",
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_cells": len(data.train_rows),
        "training_controls": sum(len(rows) for rows in data.basal.values()),
        "training_perturbations": len(trained),
        "validation_perturbations": len(data.validation),
        "validation_perturbations_seen": len(data.seen()),
        TARGET_SUM: cells.target_sum,
        "genes": len(cells.genes),
        "genes_modelled": len(tokens.ids),
        "unmeasured_targets": sum(not set(genes_of(label)) <= genes for label in trained),
        "unflagged_perturbations": len(data.unflagged()),
    }


def other_scale(args: Mapping[str, Any], cells: Cells) -> dict[str, str]:
    """Return a warning where pretrained weights are of another scale than the cells."""
    total = total_of_model(args)
    if total == cells.target_sum:
        return {}
    return {
        "other_scale": f"The pretrained weights are of {unit_of(total)}, the cells are "
        f"{unit_of(cells.target_sum)}; the weights may help less than on their own scale."
    }


def coverage_of(
    table: Tensor, vocabulary: Vocabulary, cells: Cells, splits: Splits
) -> dict[str, dict[str, int | float]]:
    """Return how many of the measured and of the perturbed genes the prior has a vector for."""
    with_vector = vectors_by_gene(table, vocabulary)
    asked = {"measured genes": set(cells.genes)}
    for what, role in (("perturbed in training", TRAIN), ("perturbed in the test line", TEST)):
        labels = set(splits.table["perturbation"].iloc[splits.rows(role)])
        asked[what] = {gene for label in labels for gene in genes_of(label)}
    return {what: coverage(with_vector, genes) for what, genes in asked.items()}


def announce(facts: Mapping[str, Any], recipe: Recipe) -> None:
    """Print what training starts with."""
    for what, found in facts.get("prior_coverage", {}).items():
        print(f"finetune: {found['covered']} of {found['genes']} {what} have a prior", flush=True)
    if facts["random_init"]:
        say(
            f"finetune: WARNING: {facts['pretrained']} starts from random weights, without "
            "pretraining: this model shows that the pipeline runs, not what scGPT can do"
        )
    if "other_scale" in facts:
        say(f"finetune: WARNING: {facts['other_scale']}")
    print(
        f"finetune: {facts['training_cells']:,} training cells of "
        f"{facts['training_perturbations']:,} perturbations, "
        f"{facts['genes_modelled']:,} of {facts['genes']:,} genes in the vocabulary, prior "
        f"{shown(facts['prior_asked_for'])}, {facts['parameters'] / 1e6:.1f} M "
        f"parameters on {facts['processes']} x {facts['device']}"
        f"{', compiled' if facts['compiled'] else ''}, batch {recipe.batch_size}",
        flush=True,
    )
    if facts["unmeasured_targets"]:
        print(
            f"finetune: note: the target of {facts['unmeasured_targets']:,} perturbations is not "
            f"measured; {facts['unflagged_perturbations']:,} of them the model cannot tell apart",
            flush=True,
        )
