"""The artifacts that an evaluation reads, open and checked against each other."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from components.evaluate.inputs import checks
from components.evaluate.inputs.asked import asked_of, read_asked
from components.evaluate.inputs.pair import Pair, Predicted, predicted_of
from components.evaluate.inputs.training_lines import known_of_training, no_training
from components.shared.artifacts.artifact import GENE_PRIOR, Artifact, opening
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.predictions import Predictions
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.model.checkpoint_files import STATS_FILE
from components.shared.storage.documents import read_json


@dataclass(frozen=True)
class Inputs:
    """Predictions, and what they are held against."""

    predictions: Predictions
    cells: Cells
    splits: Splits
    prior: Artifact | None
    predicted: Predicted
    """All that was predicted."""
    pair: Pair | None
    """What of it was measured, None = nothing."""
    asked: pd.DataFrame
    """What is said of each perturbation, see `predictions.PERTURBATION_COLUMNS`."""
    kind: str
    """What the predicted cells are, one of `PREDICTED_CELLS`."""
    training: TrainingEffects | None
    """Of the training lines; None = not known here, and then nothing was measured."""

    @classmethod
    def of(
        cls,
        predictions: Path | str,
        cells: Path | str,
        splits: Path | str,
        prior: Path | str | None,
    ) -> "Inputs":
        """Open the artifacts and check that the predictions are of these cells and splits.

        Raises:
            InputError: an artifact that cannot be used or that does not go with the others.
        """
        opened = Cells.open(cells)
        split = Splits.open(splits, opened)
        given = Predictions.open(predictions)
        table = opening(prior, GENE_PRIOR) if prior is not None else None
        checks.check_same_splits(given.artifact, split)
        where = str(given.file)
        whole, pair = predicted_of(given.on_disk, where)
        checks.check_genes(whole, opened.genes, where)
        said = read_asked(given.artifact.path)
        asked = asked_of(whole, pair.perturbations if pair else [], said, given.artifact.path)
        wanted = None if said is None else set(asked["perturbation"])
        checks.check_cells(whole, pair, split, wanted, where)
        kind = checks.check_means(given.on_disk, whole, where)
        training = known_of_training(opened, split, given.artifact.path)
        if pair and training is None:
            raise no_training(split)
        return cls(given, opened, split, table, whole, pair, asked, kind, training)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts by the names of the task's inputs."""
        found = {
            "predictions": self.predictions.artifact,
            "cells": self.cells.artifact,
            "splits": self.splits.artifact,
        }
        return found | ({"gene_prior": self.prior} if self.prior else {})

    @cached_property
    def stats(self) -> dict[str, Any]:
        """How the model was trained, empty where the predictions do not bring it along."""
        file = self.predictions.artifact.path / STATS_FILE
        return read_json(file, str(file), "run the predict task again") if file.is_file() else {}
