"""The files of a model artifact."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components.finetune.curves import curves_page
from components.finetune.ready import Ready
from components.finetune.state import Fit
from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.confidence import CONFIDENCE_FILE
from components.shared.artifacts.gene_prior import EFFECTS, FACTS_FILE
from components.shared.artifacts.known_effects import EFFECTS_FILE
from components.shared.artifacts.licences import STATE_LICENCE_FILE
from components.shared.artifacts.normalisation import TARGET_SUM
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE
from components.shared.model import model as scgpt_model
from components.shared.model.checkpoint import EXTRA_FILE
from components.shared.model.checkpoint_files import ARGS_FILE, STATS_FILE, WEIGHTS_FILE
from components.shared.model.vocabulary import VOCAB_FILE
from components.shared.storage.documents import write_json, write_text
from components.shared.telling.addresses import dataset_of

CURVES_FILE = "training_curves.html"
TITLE = "Training curves"
PRIOR_FILE = "gene_prior.json"


def write_model(folder: Path, ready: Ready, result: Fit, stats: Mapping[str, Any]) -> None:
    """Write all files of a model."""
    asked = ready.asked
    own = {"recipe": asked.recipe, "seed": asked.seed, "settings": asdict(asked.settings)}
    own[TARGET_SUM] = ready.facts[TARGET_SUM]
    args = ready.args | {"scgpt_perturb": own}
    state, extra = scgpt_model.parted(result.state)
    with (folder / WEIGHTS_FILE).open("wb") as file:  # of a path PyTorch hides that a disk is full
        torch.save(state, file)
    if extra:
        save_file(extra, folder / EXTRA_FILE)
    for name, content in ((ARGS_FILE, args), (VOCAB_FILE, ready.vocabulary), (STATS_FILE, stats)):
        write_json(folder / name, content)
    _write_prior(folder, asked.prior)
    about = dataset_of(asked.cells.artifact.summary) | stats["known_by"]
    page = curves_page(TITLE, result.rows(), result.best_epoch, about)
    write_text(folder / CURVES_FILE, page)
    if ready.effects:
        ready.effects.write(folder / EFFECTS_FILE)
    if ready.training and ready.confidence:
        ready.training.write(folder / TRAINING_EFFECTS_FILE)
        ready.confidence.write(folder / CONFIDENCE_FILE)


def _write_prior(folder: Path, prior: Artifact) -> None:
    """Write what the prior says of itself, and a licence that came with it."""
    if prior.summary["kind"] != "none" or EFFECTS in prior.summary:
        shutil.copyfile(prior.path / FACTS_FILE, folder / PRIOR_FILE)
    if (prior.path / STATE_LICENCE_FILE).is_file():
        shutil.copyfile(prior.path / STATE_LICENCE_FILE, folder / STATE_LICENCE_FILE)
