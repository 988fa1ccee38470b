"""One run on a generated screen, by the stages that users run."""

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stored_results import BASELINES
from benchmarks.truth import TEST_LINE, TRAIN_LINES, Floats
from components.evaluate.contenders.baselines import baseline_means
from components.evaluate.inputs.training_lines import Training, basal_mean
from components.finetune.finetune import finetune
from components.ingest.generator import BATCH_COLUMN
from components.ingest.ingest import ingest
from components.predict.predict import predict
from components.prior.prior import prior
from components.shared.artifacts.artifact import code_version
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.predictions import KNOWN_MEANS, MEANS, PERTURBATIONS, Predictions
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import training_effects
from components.split.split import split

BIOLOGY = "escape=15&batches=3&pathways=10"
"""What real screens have: knock-downs that failed, uneven batches, shared pathways."""
PRETRAINED = "random://tiny"
SMALL = {
    "batch_size": 16,
    "max_genes": 96,
    "predict_window": 96,
    "set_size": 8,
    "learning_rate": 1.5e-3,
    "learning_rate_decay": 0.9,
}
"""Settings at the size of a generated screen and a tiny model, on a CPU."""


def screen(perturbations: int, seed: int, *, cells: int = 6000, genes: int = 400) -> str:
    """Return the URI of a seed's screen."""
    return (
        f"sim://screen?cells={cells}&genes={genes}&perturbations={perturbations}&lines=4"
        f"&seed={seed}&{BIOLOGY}"
    )


def cells_of(uri: str, target: Path) -> Cells:
    """Return a screen's cells, made where they are not there yet."""
    if not target.exists():
        with _quiet():
            ingest(uri, target, batch_column=BATCH_COLUMN)
    return Cells.open(target)


def splits_of(cells: Cells, target: Path, **options: Any) -> Splits:
    """Return the split of three lines against the fourth, made where it is not there yet."""
    if not target.exists():
        lines = {"train_lines": TRAIN_LINES, "test_line": TEST_LINE}
        with _quiet():
            split(cells.artifact.path, target, **lines, **options)
    return Splits.open(target, cells)


@dataclass(frozen=True)
class Predicted:
    """What a run predicts of the test line."""

    perturbations: list[str]
    means: Floats
    """[perturbations, genes], log1p of counts per 10,000."""
    known: Floats | None
    """The same by known effects alone, where the model was given them."""
    facts: dict[str, Any]
    """For the record: epoch kept, validation sets, seconds of CPU, code."""


def run(
    cells: Cells,
    splits: Splits,
    place: Path,
    *,
    uri: str,
    recipe: str,
    overrides: Mapping[str, Any],
    seed: int,
) -> Predicted:
    """Make a prior, fine-tune and predict; what the stages wrote is not kept."""
    shutil.rmtree(place, ignore_errors=True)
    inputs = cells.artifact.path, splits.artifact.path
    started = time.process_time()
    with _quiet():
        prior(uri, PRETRAINED, place / "prior", seed=seed)
        finetune(
            *inputs,
            place / "prior",
            place / "model",
            pretrained=PRETRAINED,
            recipe=recipe,
            overrides=overrides,
            seed=seed,
        )
        predict(place / "model", *inputs, place / "predictions", seed=seed)
    stats = json.loads((place / "model" / "training_stats.json").read_text())
    found = Predictions.open(place / "predictions").anndata
    facts = {
        "best_epoch": stats["best_epoch"],
        "cpu_seconds": round(time.process_time() - started, 1),
        "code": code_version(),
    }
    known = np.asarray(found.varm[KNOWN_MEANS].T, float) if KNOWN_MEANS in found.varm else None
    names = [str(name) for name in found.uns[PERTURBATIONS]]
    made = Predicted(names, np.asarray(found.varm[MEANS].T, float), known, facts)
    shutil.rmtree(place)
    return made


def baselines(cells: Cells, splits: Splits, perturbations: Sequence[str]) -> dict[str, Floats]:
    """Return the means [perturbations, genes] that need no model, by title."""
    effects = training_effects(cells, splits)
    training = Training.of(effects, basal_mean(cells, splits), cells.genes)
    means, _ = baseline_means(training, perturbations)
    return {title: np.asarray(means[name], float) for name, title in BASELINES.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what stages say: the bars of several processes say nothing together."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
