"""What a comparison reads of a run, with known scores."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from components.compare.statistics import (
    METRICS,
)
from components.shared.artifacts.artifact import (
    EVALUATION,
    Artifact,
    writing,
)

PERTURBATIONS = [f"G{i}" for i in range(40)]


def evaluation(
    folder: Path,
    *,
    shift: float,
    seed: int,
    unseen_shift: float = 0.0,
    known: float | None = None,
    cells: str = "c",
    not_scored: str = "",
) -> Path:
    """Write the files of an evaluation that a comparison reads; every fourth is unseen.

    ``shift`` is added to the model's score of every perturbation, `unseen_shift` to the unseen,
    ``known`` to that of the known effects, if the model was given any.
    """
    rng = np.random.default_rng(7)
    base = rng.normal(0.4, 0.1, len(PERTURBATIONS))
    noise = np.random.default_rng(seed).normal(0, 0.01, len(PERTURBATIONS))
    seen = np.arange(len(PERTURBATIONS)) % 4 != 0
    model = base + noise + shift + np.where(seen, 0, unseen_shift)
    predictions = {"model": model, "same_perturbation_delta": base}
    predictions |= {} if known is None else {"known_effects": base + noise + known}
    rows = [
        {"prediction": name, "perturbation": label, "metric": metric, "value": value}
        for metric in ("pearson_delta", "mae_delta")
        for name, values in predictions.items()
        for label, value in zip(PERTURBATIONS, -values if METRICS[metric] else values, strict=True)
    ]
    inputs = {
        name: Artifact(folder, digest, {"format": f"{name}/v1"})
        for name, digest in (("cells", cells), ("splits", "s"))
    }
    with writing(folder, EVALUATION, parameters={}, inputs=inputs) as draft:
        if not_scored:
            numbers = {"scored": False, "not_scored": not_scored, "model": {}}
            (draft.path / "metrics.json").write_text(json.dumps(numbers))
            return folder
        pd.DataFrame(rows).to_csv(draft.path / "scores.csv", index=False)
        pd.DataFrame(
            {"perturbation": PERTURBATIONS, "training": np.where(seen, "seen", "unseen")}
        ).to_csv(draft.path / "groups.csv", index=False)
        (draft.path / "report.html").write_text(f"<html>seed {seed}")
        numbers = {
            "model": {"pearson_delta": float(model.mean())},
            "ceiling": {"pearson_delta": 0.876, "mae_delta": None},
            "run": {"dataset": "sim://<screen>", "prior": "none", "seed": "0"},
        }
        (draft.path / "metrics.json").write_text(json.dumps(numbers))
    return folder


def stats(file: Path, seed: int, validation: float = 0.3, best_epoch: int = 2) -> Path:
    facts = {
        "seed": seed,
        "best_val_pearson_delta": validation,
        "cells_per_second": 200.0,
        "wall_clock_seconds": 1800.0,
        "processes": 2,
        "device": "cuda",
        "epochs_run": 3,
        "best_epoch": best_epoch,
    }
    file.write_text(json.dumps(facts))
    return file
