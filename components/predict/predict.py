"""The predict stage: the test line's control cells under every test perturbation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from components.predict.predictions_file import shell_of, write_predictions
from components.predict.predictor import Predictor, mean_of_cells
from components.predict.wanted import (
    Requested,
    Wanted,
    control_obs,
    perturbation_table,
    predicted_obs,
    wanted_cells,
)
from components.shared.artifacts import predictions
from components.shared.artifacts.artifact import MODEL, PREDICTIONS, link_or_copy, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import CONFIDENCE_FILE
from components.shared.artifacts.predictions import CELLS_KIND, MATCH_BATCHES, PREDICTIONS_FILE
from components.shared.artifacts.splits import Splits
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE
from components.shared.model.checkpoint_files import STATS_FILE
from components.shared.parameters.numbers import whole_number
from components.shared.telling.errors import InputError

MOST_CELLS = 200
"""Most cells of a perturbation that was not measured, unless more are requested: about what a
perturbation has in the published genome-scale screens."""


def predict(
    model: Path | str,
    cells: Path | str,
    splits: Path | str,
    target: Path | str,
    *,
    cells_per_perturbation: int = 0,
    seed: int = 0,
) -> None:
    """Predict the requested perturbations, each cell from a basal control cell.

    What was measured has as many predicted cells as measured ones. Genes that the model was not
    trained on keep the control cell's value. Values are clipped to what log1p of counts per 10,000
    can be, the mean kept where the recipe predicts a change; how many were clipped is counted.
    Where the recipe says so, the control cells mapped by rank to the perturbation's mean prediction
    take the place of the single predictions; with `match_batches`, a cell is made from a control of
    the batch of the measured cell that it stands for. From the same controls a prediction does not
    depend on what else is requested.

    Args:
        model: model artifact.
        cells: cells artifact.
        splits: splits artifact made from it.
        target: folder of the predictions artifact.
        cells_per_perturbation: cells of each perturbation that was not measured; 0 = as many as
            there are basal controls, at most 200.
        seed: draws the control partners.

    Raises:
        InputError: an artifact that cannot be used, no controls, or nothing that can be predicted.
    """
    seed = whole_number("seed", seed)
    cells_per_perturbation = whole_number("cells_per_perturbation", cells_per_perturbation)
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    trained = opening(model, MODEL)
    line = split.test_line
    basal, reference = split.basal(line), split.reference(line)
    if not len(basal) or not len(reference):
        raise InputError(f"{split.artifact.path}: no controls of '{line}'")
    inputs = {"model": trained, "cells": opened.artifact, "splits": split.artifact}
    parameters = {"cells_per_perturbation": cells_per_perturbation, "seed": seed}
    with writing(target, PREDICTIONS, parameters=parameters, inputs=inputs) as draft:
        predictor = Predictor(trained.path, opened, seed)
        requested = predictor.requested(split)
        wanted = wanted_cells(
            requested, split, cells_per_perturbation or min(len(basal), MOST_CELLS)
        )
        control = opened.rows(basal)
        blocks = predictor.blocks(control, wanted, predictor.partners(basal, wanted))
        shell = _shell(predictor, opened, split, requested, wanted)
        known = predictor.known(requested.predicted)
        if known is not None:
            known = np.maximum(mean_of_cells(control) + predictor.scale * known, 0)
        controls = opened.rows(reference)
        write_predictions(draft.path / PREDICTIONS_FILE, shell, blocks, controls, known)
        table = perturbation_table(
            wanted,
            opened.genes,
            mean_of_cells(control),
            flagged=predictor.flagged,
            training=predictor.training,
            confidence=predictor.confidence,
            origin=predictor.effects.origin_of if predictor.effects else None,
        )
        table.to_parquet(draft.path / predictions.PERTURBATIONS_FILE, index=False)
        for name in (TRAINING_EFFECTS_FILE, CONFIDENCE_FILE, STATS_FILE):
            if (trained.path / name).is_file():
                link_or_copy(trained.path / name, draft.path / name)
        draft.summary |= _summary(predictor, split, requested, wanted)
    unmeasured = f" ({len(requested.unmeasured)} not measured)" if requested.unmeasured else ""
    print(
        f"predict: wrote {target}: {len(wanted.labels):,} cells of {len(requested.predicted):,} "
        f"perturbations{unmeasured} in {line}, {len(reference):,} real controls",
        flush=True,
    )


def _shell(
    predictor: Predictor, cells: Cells, splits: Splits, requested: Requested, wanted: Wanted
) -> AnnData:
    """Return all of the predictions file but what the model predicts."""
    reference = splits.reference(splits.test_line)
    told = predictor.training.perturbations if predictor.training else []
    seen = told or splits.training_perturbations()
    obs = [predicted_obs(cells, splits, wanted, seen), control_obs(cells, reference)]
    shell = shell_of(cells, pd.concat(obs), wanted, reference)
    shell.uns |= {
        predictions.PERTURBATIONS: requested.predicted,
        CELLS_KIND: predictor.kind,
        predictions.NOT_PREDICTED: predictor.genes_left_out,
    }
    return shell


def _summary(
    predictor: Predictor, splits: Splits, requested: Requested, wanted: Wanted
) -> dict[str, Any]:
    """Return what the artifact says of itself, once all is predicted."""
    return predictor.facts(requested.predicted) | {
        "test_line": splits.test_line,
        "cells": len(wanted.labels),
        "controls": len(splits.reference(splits.test_line)),
        "perturbations": len(requested.predicted),
        "measured": len(requested.measured),
        "not_measured": len(requested.unmeasured),
        "not_predicted": requested.unknown,
        "scale": predictor.scale,
        CELLS_KIND: predictor.kind,
        MATCH_BATCHES: predictor.batches is not None,
        "clipped_fraction": predictor.clipped / predictor.values,
    }
