"""The finetune stage: cells, splits and a gene prior in, an scGPT checkpoint out."""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.finetune.checkpoint_manager import CHECKPOINT_MINUTES
from components.finetune.checkpoints import Checkpoints, Identity, Saved
from components.finetune.confidence_fit import confidence
from components.finetune.cross_line_effects import (
    Effects,
    known_effects,
    line_key,
    of_other_screens,
    vectors_of,
)
from components.finetune.curves import curves_page
from components.finetune.data import Floats, TrainingData
from components.finetune.deltas import LineDeltas, line_deltas
from components.finetune.effect_parts import in_words
from components.finetune.known import check_symbols, check_told
from components.finetune.left_out import Screen
from components.finetune.loading import batches_in_words, load_training_data
from components.finetune.places import Place, open_place
from components.finetune.state import Epoch, Fit, history_of
from components.finetune.table_scale import brought_to_scale
from components.finetune.tracking import Tracker
from components.finetune.training import fit
from components.finetune.workers import Workers, joined, launch
from components.shared.artifacts.artifact import GENE_PRIOR, MODEL, Artifact, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import CONFIDENCE_FILE, ORIGINS, Confidence
from components.shared.artifacts.gene_prior import (
    EFFECTS,
    FACTS_FILE,
    TABLE_FILE,
    TENSOR,
    OtherEffects,
    coverage,
    genes_with_vector,
)
from components.shared.artifacts.gene_prior import EFFECTS_FILE as OTHER_EFFECTS_FILE
from components.shared.artifacts.known_effects import EFFECTS_FILE, EffectTable
from components.shared.artifacts.licences import STATE_LICENCE_FILE
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, total_of_model, unit_of
from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.splits import TEST, TRAIN, Splits
from components.shared.artifacts.training_effects import (
    TRAINING_EFFECTS_FILE,
    TrainingEffects,
    training_effects,
)
from components.shared.findings.origins import facts_of
from components.shared.model import model as scgpt_model
from components.shared.model.checkpoint import (
    ARGS_FILE,
    CHECKPOINT_FILES,
    EXTRA_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
)
from components.shared.model.checkpoint_files import STATS_FILE
from components.shared.model.tokens import GeneTokens
from components.shared.model.vocabulary import VOCAB_FILE, Vocabulary, vocabulary_digest
from components.shared.parameters.pretrained import SIZES, parse_pretrained, resolve_vocabulary
from components.shared.parameters.recipe import Recipe, load_recipe
from components.shared.storage.digests import sha256_of
from components.shared.storage.files import fetched_folder
from components.shared.telling.errors import InputError

FRESH_ARGS = {"n_layers_cls": 3}
CURVES_FILE = "training_curves.html"
TITLE = "How the fine-tune went"
PRIOR_FILE = "gene_prior.json"


def finetune(
    cells: Path | str,
    splits: Path | str,
    prior: Path | str,
    target: Path | str,
    *,
    pretrained: str,
    recipe: str = "default",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoints: str = "",
    processes: int = 1,
) -> None:
    """Fine-tune scGPT's perturbation model and write a model artifact.

    Args:
        cells: cells artifact.
        splits: splits artifact made from it.
        prior: gene prior artifact aligned to the vocabulary of ``pretrained``.
        target: folder of the model artifact.
        pretrained: folder or URI with `best_model.pt`, `args.json` and `vocab.json`, or
            random://<size> for fresh weights, ?vocabulary=<uri of a vocab.json> if wanted.
        recipe: name of a recipe.
        overrides: settings of the recipe to replace.
        seed: reaches initial weights, control partners, batch order, windows and dropout.
        checkpoints: folder or URI of a bucket where the state of training is kept; what is
            there already is gone on with, by as many processes or others. Empty: it is kept
            nowhere.
        processes: how many train it together on this machine, each on a GPU of its own where there
            are GPUs; they divide each batch.

    Raises:
        InputError: an input that cannot be used; see the message.
        SystemExit: SIGTERM came; the state is kept.
    """
    arguments: dict[str, Any] = {
        "cells": cells,
        "splits": splits,
        "prior": prior,
        "target": target,
        "pretrained": pretrained,
        "recipe": recipe,
        "overrides": dict(overrides or {}),
        "seed": seed,
        "checkpoints": checkpoints,
    }
    if processes > 1:
        launch(processes, _finetune, arguments)
    else:
        _finetune(**arguments)


def _finetune(
    cells: Path | str,
    splits: Path | str,
    prior: Path | str,
    target: Path | str,
    pretrained: str,
    recipe: str,
    overrides: dict[str, Any],
    seed: int,
    checkpoints: str,
) -> None:
    """Be the only process of a fine-tune, or one of those that were started for it."""
    settings = load_recipe(recipe, overrides)
    place = open_place(checkpoints) if checkpoints else None
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    prior_artifact = opening(prior, GENE_PRIOR)
    parameters = {
        "pretrained": parse_pretrained(pretrained).shown,
        "recipe": recipe,
        "overrides": overrides,
        "seed": seed,
    }
    inputs = {"cells": opened.artifact, "splits": split.artifact, "prior": prior_artifact}
    with joined() as workers:
        make_ready = partial(
            _made_ready, opened, split, prior_artifact, pretrained, settings, seed, place, workers
        )
        if not workers.first:
            make_ready().fit(lambda epoch: None)
            return
        with writing(target, MODEL, parameters=parameters, inputs=inputs) as draft:
            ready = make_ready()
            _announce(ready.facts, settings)
            with Tracker(parameters | {"settings": asdict(settings)} | ready.facts) as tracker:
                for epoch in history_of(ready.saved.parts) if ready.saved else ():
                    tracker.log(epoch.row())
                result = ready.fit(_reporting(tracker))
                stats = _stats(ready.facts, result, ready.data, parameters, settings)
                stats["wandb_run"] = tracker.finish(draft.path)
            own = {"recipe": recipe, "seed": seed, "settings": asdict(settings)}
            own[TARGET_SUM] = ready.facts[TARGET_SUM]
            args = ready.args | {"scgpt_perturb": own}
            _write(draft.path, result, args, ready.vocabulary, stats, prior_artifact)
            source = str(opened.artifact.summary.get("source", ""))
            page = curves_page(TITLE, result.rows(), result.best_epoch, facts_of(source, stats))
            (draft.path / CURVES_FILE).write_text(page, encoding="utf-8")
            if ready.effects:
                ready.effects.write(draft.path / EFFECTS_FILE)
            if ready.brought:
                ready.brought.write(draft.path)
            draft.summary |= {key: value for key, value in stats.items() if key != "history"}
    if ready.store:
        ready.store.keep(1)
    print(
        f"finetune: wrote {target}: best epoch {result.best_epoch} of {stats['epochs_run']}, "
        f"validation pearson_delta {stats['best_val_pearson_delta']}, {result.stop_reason}",
        flush=True,
    )


@dataclass(frozen=True)
class _Brought:
    """What a model brings along of its training lines."""

    training: TrainingEffects
    confidence: Confidence

    @property
    def facts(self) -> dict[str, Any]:
        """What the statistics say of it."""
        found = self.confidence
        return {
            "scale": found.scale,
            "held_out_pearson_delta": found.reached(),
            "held_out_pearson_delta_untrained": found.reached(trained=False),
            "expectations": found.why or "learned",
        }

    def write(self, folder: Path) -> None:
        """Write both files."""
        self.training.write(folder / TRAINING_EFFECTS_FILE)
        self.confidence.write(folder / CONFIDENCE_FILE)


@dataclass(frozen=True)
class _Ready:
    """All that training needs, read and checked."""

    model: Any
    args: dict[str, Any]
    vocabulary: Vocabulary
    data: TrainingData
    effects: EffectTable | None
    brought: _Brought | None
    """Of the first process alone."""
    settings: Recipe
    seed: int
    workers: Workers
    store: Checkpoints | None
    saved: Saved | None
    facts: dict[str, Any]

    def fit(self, on_epoch: Callable[[Epoch], None]) -> Fit:
        """Train; see `training.fit`."""
        return fit(
            self.model,
            self.data,
            self.settings,
            seed=self.seed,
            device=self.workers.device,
            on_epoch=on_epoch,
            checkpoints=self.store,
            saved=self.saved,
            workers=self.workers,
        )


def _made_ready(
    cells: Cells,
    splits: Splits,
    prior: Artifact,
    pretrained: str,
    settings: Recipe,
    seed: int,
    place: Place | None,
    workers: Workers,
) -> _Ready:
    """Build the model, find the checkpoint to go on from, and read the cells."""
    device = workers.device
    torch.manual_seed(seed)
    model, args, vocabulary, source = start_model(pretrained, settings)
    inputs = {"cells": cells.artifact, "splits": splits.artifact, "prior": prior}
    identity = _identity(inputs, source, settings, seed, device)
    store = Checkpoints(place, identity) if place else None
    saved = _go_on(store) if store else None
    checkpoint = f"checkpoint {saved.uri}" if saved else "no checkpoint"
    _check_same(f"pretrained weights {source[:12]} and {checkpoint}", workers)
    check_total_of_effects(prior, cells)
    table = _gene_table(prior, vocabulary)
    if table is not None:
        scgpt_model.add_prior(model, table, neutral=settings.prior_neutral)
    tokens = GeneTokens.of(cells.genes, vocabulary)
    check_symbols(cells.genes, vocabulary)
    if prior.summary.get(EFFECTS) is None:
        check_told(splits.training_perturbations(), tokens, settings.token_for_unmeasured)
    data = load_training_data(
        cells,
        splits,
        tokens,
        device,
        token_for_unmeasured=settings.token_for_unmeasured,
        match_batches=settings.match_batches,
    )
    if settings.match_batches and workers.first:
        print(f"finetune: {batches_in_words(data)}", flush=True)
    genes = [cells.genes[column] for column in tokens.columns]
    own = line_deltas(data)
    others, brought_said = _of_other_screens(prior, data, genes, own, splits.test_line, workers)
    deltas = [own, *others]
    vectors = None if table is None else vectors_of(data.perturbations, table, vocabulary)
    known, effects = None, None
    if prior.summary.get(EFFECTS) is not None:
        scgpt_model.give_effects(model)
        known = _known(data.perturbations, deltas, vectors, centre=settings.centre_lines)
        data = replace(data, effects=known.change[:-1].to(data.expression.device))
        effects = EffectTable(
            data.perturbations,
            genes,
            known.change[-1].numpy(),
            known.origin,
            known.near,
            _vectors(table, vocabulary) if table is not None and known.near else None,
        )
    facts = _facts(model, data, cells, tokens, workers, pretrained, prior)
    if not facts["random_init"] and total_of_model(args) != cells.target_sum:
        facts["other_scale"] = (
            f"The pretrained weights are of {unit_of(total_of_model(args))}, the cells are "
            f"{unit_of(cells.target_sum)}; the weights may help less than on their own scale."
        )
    brought = None
    if workers.first:
        training = training_effects(cells, splits, match_batches=settings.match_batches)
        screen = Screen(data.perturbations, genes, deltas, vectors, training)
        brought = _Brought(training, confidence(screen, known))
        facts |= brought.facts
    if known is not None:
        facts["effects_weights"] = known.weights
        facts["effects_are"] = in_words(known.weights)
        if brought_said:
            facts["effects_scaled"] = brought_said
    if table is not None:
        facts["prior_coverage"] = _coverage(table, vocabulary, cells, splits)
    facts["compiled"] = scgpt_model.compile_on(model.to(device), device)
    return _Ready(
        model,
        args,
        vocabulary,
        data,
        effects,
        brought,
        settings,
        seed,
        workers,
        store,
        saved,
        facts,
    )


def _coverage(
    table: Tensor, vocabulary: Vocabulary, cells: Cells, splits: Splits
) -> dict[str, dict[str, int | float]]:
    """Return how many of the measured and of the perturbed genes the prior has a vector for."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    with_vector = genes_with_vector(table.numpy(), tokens)
    asked = {"measured genes": set(cells.genes)}
    for what, role in (("perturbed in training", TRAIN), ("perturbed in the test line", TEST)):
        labels = set(splits.table["perturbation"].iloc[splits.rows(role)])
        asked[what] = {gene for label in labels for gene in genes_of(label)}
    return {what: coverage(with_vector, genes) for what, genes in asked.items()}


def check_total_of_effects(prior: Artifact, cells: Cells) -> None:
    """Check that what was measured on other cells was measured on the scale of these.

    Raises:
        InputError: it was not.
    """
    effects = prior.summary.get(EFFECTS) or {}
    theirs = effects.get(TARGET_SUM, USUAL)
    if effects.get("with_errors") and theirs != cells.target_sum:
        raise InputError(
            f"prior effects:{effects['uri']}: measured on {unit_of(theirs)}, and these cells are "
            f"{unit_of(cells.target_sum)}; ingest one of them with the other's {TARGET_SUM}"
        )


def _of_other_screens(
    prior: Artifact,
    data: TrainingData,
    genes: list[str],
    own: LineDeltas,
    test_line: str,
    workers: Workers,
) -> tuple[list[LineDeltas], str]:
    """Return the deltas that the prior brings of other screens, and what was done to them."""
    if not (prior.path / OTHER_EFFECTS_FILE).exists():
        return [], ""
    other, uri = OtherEffects.read(prior.path), prior.summary[EFFECTS]["uri"]
    _tell_lines(other.lines, uri, test_line)
    on_scale = brought_to_scale(other, data.perturbations, genes, own, test_line, uri)
    if on_scale.said and workers.first:
        print(f"finetune: WARNING: {on_scale.said}", file=sys.stderr, flush=True)
    given = of_other_screens(on_scale.effects, data.perturbations, genes, own, test_line)
    return [given], on_scale.said


def _known(
    labels: list[str], deltas: list[LineDeltas], vectors: Floats | None, *, centre: bool
) -> Effects:
    """Return what each line may know of each perturbation's effect, and say where it is from."""
    known = known_effects(labels, deltas, vectors, centre=centre)
    counts = Counter(known.origin[1:])
    said = ", ".join(f"{counts[origin]} {origin}" for origin in ORIGINS if counts[origin])
    print(f"finetune: effects that a new line is given: {said}", flush=True)
    print(f"finetune: they are {in_words(known.weights)}", flush=True)
    return known


def _vectors(table: Tensor, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the prior's vector of each gene that has one, for perturbations named later."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    rows = table.numpy()
    filled = np.flatnonzero(rows.any(axis=1))
    return {tokens[row]: rows[row] for row in filled}


def _tell_lines(lines: Sequence[str], uri: str, test_line: str) -> None:
    """Say which lines another screen has, and what of it could give the test line away."""
    warnings = []
    key = line_key(test_line)
    if others := sorted({name for name in lines if name and line_key(name) != key}):
        told = f"finetune: {uri} tells of {', '.join(others)}"
        print(f"{told}; none may be the test line '{test_line}' by another name", flush=True)
    if same := sorted({name for name in lines if line_key(name) == key}):
        warnings.append(
            f"has cells of the test line '{same[0]}'; those are left out, since they are what is "
            "to be predicted"
        )
    if not all(lines):
        warnings.append(
            f"has rows that name no cell line; give them a cell_line: were they of '{test_line}', "
            "the prediction would be made from what it is compared with"
        )
    for warning in warnings:
        print(f"finetune: WARNING: {uri} {warning}", file=sys.stderr, flush=True)


def _identity(
    inputs: Mapping[str, Artifact], source: str, recipe: Recipe, seed: int, device: torch.device
) -> Identity:
    """Return what a checkpoint must share with this fine-tune to be gone on with."""
    digests = {name: artifact.digest for name, artifact in inputs.items()}
    settings = asdict(recipe) | {"seed": seed, "device": device.type}
    return digests | {"pretrained": source} | settings


def _go_on(store: Checkpoints) -> Saved | None:
    """Say where checkpoints are kept, and return the one to go on from."""
    print(
        f"finetune: checkpoints in {store.where}: after each epoch, every "
        f"{CHECKPOINT_MINUTES:g} minutes and on SIGTERM",
        flush=True,
    )
    saved = store.load()
    if saved:
        print(
            f"finetune: going on from epoch {saved.epoch}, step {saved.step}: {saved.uri}",
            flush=True,
        )
    return saved


def _check_same(start: str, workers: Workers) -> None:
    """Raise an InputError unless all processes start from the same weights and checkpoint."""
    starts = workers.gathered({workers.rank: start})
    for rank, other in starts.items():
        if other != starts[0]:
            raise InputError(
                f"process {rank} would start from {other}, process 0 from {starts[0]}; one could "
                "not read what was there: run it again"
            )


def _reporting(tracker: Tracker) -> Callable[[Epoch], None]:
    def report(epoch: Epoch) -> None:
        tracker.log(epoch.row())
        scores = (
            f"validation pearson_delta {epoch.val_pearson_delta:.4f}, discrimination "
            f"{epoch.val_discrimination:.3f}"
        )
        if epoch.epoch:
            words = f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, {scores}, "
            words += f"{epoch.cells_per_second:.0f} cells/s"
        else:
            words = f"known effects alone, before training: {scores}"
        print(f"finetune: {words}", flush=True)

    return report


def start_model(pretrained: str, recipe: Recipe) -> tuple[Any, dict[str, Any], dict[str, int], str]:
    """Return the model to start from, its `args.json`, its vocabulary and a sha256 of its source.

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


def _gene_table(prior: Artifact, vocabulary: Vocabulary) -> Tensor | None:
    """Return the prior's vector of each token, [tokens, width], None where it has none."""
    if prior.summary["kind"] == "none":
        return None
    if prior.summary["vocabulary_sha256"] != vocabulary_digest(vocabulary):
        raise InputError(
            f"{prior.path}: aligned to another vocabulary than that of the pretrained model, "
            f"{len(vocabulary)} tokens; run the prior task with the same pretrained"
        )
    return load_file(prior.path / TABLE_FILE)[TENSOR]


def _facts(
    model: Any,
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


def _announce(facts: Mapping[str, Any], recipe: Recipe) -> None:
    for what, found in facts.get("prior_coverage", {}).items():
        print(f"finetune: {found['covered']} of {found['genes']} {what} have a prior", flush=True)
    if facts["random_init"]:
        print(
            f"finetune: WARNING: {facts['pretrained']} starts from random weights; nothing was "
            "learnt from other data, so this model shows that the pipeline runs, not what scGPT "
            "can do",
            file=sys.stderr,
            flush=True,
        )
    if "other_scale" in facts:
        print(f"finetune: WARNING: {facts['other_scale']}", file=sys.stderr, flush=True)
    print(
        f"finetune: {facts['training_cells']} training cells of "
        f"{facts['training_perturbations']} perturbations "
        f"({facts['unmeasured_targets']} with a target that is not measured, "
        f"{facts['unflagged_perturbations']} the model cannot be told of), "
        f"{facts['genes_modelled']} of {facts['genes']} genes in the vocabulary, prior "
        f"{facts['prior']['kind']}, {facts['parameters'] / 1e6:.1f} M parameters on "
        f"{facts['processes']} x {facts['device']}{', compiled' if facts['compiled'] else ''}, "
        f"batch {recipe.batch_size}",
        flush=True,
    )


def _stats(
    facts: Mapping[str, Any],
    result: Fit,
    data: TrainingData,
    parameters: Mapping[str, Any],
    recipe: Recipe,
) -> dict[str, Any]:
    seen = sum(epoch.cells for epoch in result.history)
    training = sum(epoch.seconds for epoch in result.history)
    best = next(row for row in result.rows() if row["epoch"] == result.best_epoch)
    return {
        "recipe": parameters["recipe"],
        "seed": parameters["seed"],
        **facts,
        "settings": asdict(recipe),
        "epochs_run": result.history[-1].epoch,
        "best_epoch": result.best_epoch,
        **{f"best_{name}": value for name, value in best.items() if name.startswith("val_")},
        "network_weight": result.network if result.best_epoch else 0.0,
        "stop_reason": result.stop_reason,
        "cells_per_epoch": result.history[-1].cells,
        "cells_seen": seen,
        "cells_per_second": round(seen / training, 1),
        "wall_clock_seconds": round(result.seconds, 1),
        "unflagged": data.unflagged(),
        "history": result.rows(),
    }


def _write(
    folder: Path,
    result: Fit,
    args: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    stats: Mapping[str, Any],
    prior: Artifact,
) -> None:
    state, extra = scgpt_model.parted(result.state)
    torch.save(state, folder / WEIGHTS_FILE)
    if extra:
        save_file(extra, folder / EXTRA_FILE)
    for name, content in ((ARGS_FILE, args), (VOCAB_FILE, vocabulary), (STATS_FILE, stats)):
        (folder / name).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    if prior.summary["kind"] != "none" or EFFECTS in prior.summary:
        shutil.copyfile(prior.path / FACTS_FILE, folder / PRIOR_FILE)
    if (prior.path / STATE_LICENCE_FILE).is_file():
        shutil.copyfile(prior.path / STATE_LICENCE_FILE, folder / STATE_LICENCE_FILE)
