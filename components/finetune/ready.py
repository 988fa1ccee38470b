"""All that training needs, read and checked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from components.finetune import given, loading, start
from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.confidence_fit import confidence
from components.finetune.cross_line_effects import vectors_of
from components.finetune.data import TrainingData
from components.finetune.effect_weights import in_words
from components.finetune.facts import coverage_of, facts_of_start, other_scale
from components.finetune.left_out import Screen
from components.finetune.places import Place
from components.finetune.state import Epoch, Fit
from components.finetune.training import Measured, fit
from components.finetune.workers import Workers
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import Confidence
from components.shared.artifacts.gene_prior import EFFECTS
from components.shared.artifacts.known_effects import EffectTable
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import TrainingEffects, training_effects
from components.shared.model import model as scgpt_model
from components.shared.model.tokens import GeneTokens
from components.shared.model.vocabulary import Vocabulary
from components.shared.parameters.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """Arguments of one fine-tune, with its inputs open."""

    cells: Cells
    splits: Splits
    prior: Artifact
    pretrained: str
    recipe: str
    settings: Recipe
    seed: int
    place: Place | None
    """Of checkpoints; None: none are kept."""

    @property
    def inputs(self) -> dict[str, Artifact]:
        """Its input artifacts by name."""
        return {"cells": self.cells.artifact, "splits": self.splits.artifact, "prior": self.prior}


@dataclass(frozen=True)
class Ready:
    """A model at its start, its data, and what is known of both."""

    model: nn.Module
    args: dict[str, Any]
    vocabulary: Vocabulary
    data: TrainingData
    measured: Measured
    effects: EffectTable | None
    training: TrainingEffects | None
    """Of its training lines; of the first process alone, as is what follows."""
    confidence: Confidence | None
    """How far known effects were right in lines that were left out."""
    asked: Asked
    workers: Workers
    store: Checkpoints | None
    saved: Saved | None
    facts: dict[str, Any]

    def fit(self, on_epoch: Callable[[Epoch], None]) -> Fit:
        """Train; see `training.fit`."""
        return fit(
            self.model,
            self.data,
            self.asked.settings,
            seed=self.asked.seed,
            device=self.workers.device,
            on_epoch=on_epoch,
            checkpoints=self.store,
            saved=self.saved,
            workers=self.workers,
            measured=self.measured,
        )


def made_ready(asked: Asked, workers: Workers) -> Ready:
    """Build the model, find the checkpoint to resume from, and read and check the cells.

    Raises:
        InputError: an input that cannot be used; see the message.
    """
    cells, splits, prior, settings = asked.cells, asked.splits, asked.prior, asked.settings
    device = workers.device
    torch.manual_seed(asked.seed)
    model, args, vocabulary, source = start.start_model(asked.pretrained, settings)
    identity = start.identity_of(asked.inputs, source, settings, asked.seed, device)
    store = Checkpoints(asked.place, identity) if asked.place else None
    saved = start.found_checkpoint(store) if store else None
    checkpoint = f"checkpoint {saved.uri}" if saved else "no checkpoint"
    start.check_same_start(f"pretrained weights {source[:12]} and {checkpoint}", workers)

    given.check_total_of_effects(prior, cells)
    table = start.gene_table(prior, vocabulary)
    if table is not None:
        scgpt_model.add_prior(model, table, neutral=settings.prior_neutral)
    tokens = GeneTokens.of(cells.genes, vocabulary)
    data = _data(asked, tokens, workers)
    genes = [cells.genes[column] for column in tokens.columns]

    deltas, scaled = given.deltas_told(prior, data, genes, splits.test_line, tell=workers.first)
    vectors = None if table is None else vectors_of(data.perturbations, table, vocabulary)
    known, effects = None, None
    if prior.summary.get(EFFECTS) is not None:
        scgpt_model.give_effects(model)
        known = given.effects_known(
            data.perturbations, deltas, vectors, centre=settings.centre_lines
        )
        data = replace(data, effects=known.change[:-1].to(data.expression.device))
        by_gene = None
        if table is not None and known.near:  # for perturbations that are named later
            by_gene = given.vectors_by_gene(table, vocabulary)
        new = known.change[-1].numpy()
        effects = EffectTable(data.perturbations, genes, new, known.origin, known.near, by_gene)

    facts = facts_of_start(model, data, cells, tokens, workers, asked.pretrained, prior)
    if not facts["random_init"]:
        facts |= other_scale(args, cells)
    training, learned = None, None
    if workers.first:
        training = training_effects(cells, splits, match_batches=settings.match_batches)
        screen = Screen(data.perturbations, genes, deltas, vectors, training)
        learned = confidence(screen, known)
        facts |= {
            "scale": learned.scale,
            "held_out_pearson_delta": learned.reached(),
            "held_out_pearson_delta_untrained": learned.reached(trained=False),
            "expectations": learned.why or "learned",
        }
    if known is not None:
        facts |= {"effects_weights": known.weights, "effects_are": in_words(known.weights)}
        facts |= {"effects_scaled": scaled} if scaled else {}
    if table is not None:
        facts["prior_coverage"] = coverage_of(table, vocabulary, cells, splits)
    facts["compiled"] = scgpt_model.compile_on(model.to(device), device)
    return Ready(
        model,
        args,
        vocabulary,
        data,
        Measured.of(data, settings, deltas[0]),
        effects,
        training,
        learned,
        asked,
        workers,
        store,
        saved,
        facts,
    )


def _data(asked: Asked, tokens: GeneTokens, workers: Workers) -> TrainingData:
    """Read the training cells, which the vocabulary must know."""
    settings, splits = asked.settings, asked.splits
    loading.check_symbols(asked.cells.genes, tokens.vocabulary)
    if asked.prior.summary.get(EFFECTS) is None:
        loading.check_told(splits.training_perturbations(), tokens, settings.token_for_unmeasured)
    data = loading.load_training_data(
        asked.cells,
        splits,
        tokens,
        workers.device,
        token_for_unmeasured=settings.token_for_unmeasured,
        match_batches=settings.match_batches,
        workers=workers,
    )
    if settings.match_batches and workers.first:
        print(f"finetune: {loading.batches_in_words(data)}", flush=True)
    return data
