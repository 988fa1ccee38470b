"""A tiny finished run for the tests of publish: real artifacts, a real scGPT model in one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

from components.publish.published_files import groups
from components.shared.artifacts.artifact import (
    EVALUATION,
    MODEL,
    PREDICTIONS,
    SPLITS,
    Artifact,
    link_or_copy,
    opening,
    writing,
)
from components.shared.model import model as scgpt_model
from tests.helpers import cells_artifact, screen

VOCAB = {f"G{i}": i for i in range(30)} | {"<pad>": 30, "<cls>": 31, "<eoc>": 32}
ARGS = {
    "embsize": 16,
    "nheads": 2,
    "d_hid": 16,
    "nlayers": 1,
    "n_layers_cls": 3,
    "dropout": 0.0,
    "pert_pad_id": 0,
}
PRIOR = {"kind": "none", "source": "", "licence": "", "coverage": 0, "width": 0}

STATS: dict[str, Any] = {
    "recipe": "smoke",
    "seed": 7,
    "pretrained": "random://tiny",
    "random_init": True,
    "prior": PRIOR,
    "epochs_run": 2,
    "best_epoch": 1,
    "best_val_pearson_delta": 0.1234,
    "stop_reason": "all 2 epochs done",
    "cells_per_epoch": 90,
    "training_cells": 180,
    "cells_seen": 180,
    "cells_per_second": 55.5,
    "wall_clock_seconds": 90.0,
    "device": "cpu",
    "parameters": 12345,
    "wandb_run": "offline",
    "history": [{"epoch": 1, "val_pearson_delta": 0.1234}, {"epoch": 2, "val_pearson_delta": None}],
    "settings": {"batch_size": 8, "learning_rate": 1e-4, "max_genes": 20, "epochs": 2},
}

TESTS: dict[str, Any] = {
    "pearson_delta": {
        "control_mean": {
            "difference": 0.25,
            "low": 0.1,
            "high": 0.4,
            "p": 0.01,
            "p_holm": 0.02,
            "better": 2,
            "of": 2,
            "verdict": "beats",
        },
        "same_perturbation_delta": {
            "difference": -0.25,
            "low": -0.4,
            "high": -0.1,
            "p": 0.01,
            "p_holm": 0.02,
            "better": 0,
            "of": 2,
            "verdict": "falls short of",
        },
    }
}
METRICS: dict[str, Any] = {
    "model": {"pearson_delta": 0.25, "mae_delta": 0.125, "roc_auc": None},
    "seen": {"pearson_delta": 0.3, "mae_delta": 0.1, "roc_auc": None},
    "unseen": {"pearson_delta": None, "mae_delta": None, "roc_auc": None},
    "baselines": {
        "control_mean": {"pearson_delta": 0.0, "mae_delta": 0.25, "roc_auc": 0.4},
        "same_perturbation_delta": {"pearson_delta": 0.5, "mae_delta": 0.0625, "roc_auc": 0.6},
    },
    "ceiling": {"pearson_delta": 0.9, "mae_delta": None},
    "ours": {
        "model": {"pearson_delta_centred": 0.125},
        "same_perturbation_delta": {"pearson_delta_centred": 0.0625},
        "ceiling": {"pearson_delta_centred": 0.75},
    },
    "nan_counts": {"pearson_delta": 0, "mae_delta": 0, "roc_auc": 2},
    "perturbations": 2,
    "tests": TESTS,
    "comparisons": {
        "control_mean": {"model": 0.25, "baseline": 0.0, **TESTS["pearson_delta"]["control_mean"]},
        "same_perturbation_delta": {
            "model": 0.25,
            "baseline": 0.5,
            **TESTS["pearson_delta"]["same_perturbation_delta"],
        },
    },
    "predicted_cells": "rank",
    "metrics_of": {"means": ["pearson_delta", "mae_delta", "mse"], "cells": ["roc_auc"]},
}

SPLITS_SUMMARY: dict[str, Any] = {
    "train_lines": ["k562", "jurkat"],
    "test_line": "rpe1",
    "few_shot": False,
    "source": "hf://datasets/arcinstitute/State-Replogle-Filtered/replogle_concat.h5ad",
    "source_sha256": "ab" * 32,
    "training_cells": 180,
    "training_perturbations": 5,
    "test_cells": 24,
    "test_perturbations": 2,
    "test_controls_reference": 10,
}


CONFIDENCE: dict[str, Any] = {
    "scale": 0.75,
    "scale_from": "it fits left-out lines best.",
    "why": "",
    "held_out": [
        {
            "line": line,
            "control_similarity": 0.9,
            "perturbations": 5,
            "pearson_delta": 0.4,
            "untrained": 5,
            "untrained_pearson_delta": None,
        }
        for line in ("k562", "jurkat")
    ],
}


@dataclass(frozen=True)
class Run:
    """Folders of the four artifacts that publish reads."""

    model: Path
    predictions: Path
    evaluation: Path
    splits: Path

    def folders(self) -> tuple[Path, Path, Path, Path]:
        return self.model, self.predictions, self.evaluation, self.splits


def finished_run(
    folder: Path,
    *,
    stats: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    splits: dict[str, Any] | None = None,
    predictions: dict[str, Any] | None = None,
    gene_prior: bool = False,
    published_at: str = "",
) -> Run:
    """Write the artifacts of a run; the dicts replace entries of the defaults above."""
    folder.mkdir(parents=True, exist_ok=True)
    obs, expression, genes = screen(lines=("rpe1",), perturbations=("G1", "X0"), controls_each=4)
    cells = opening(cells_artifact(folder / "cells", obs, expression, genes), "cells/v1")
    split = _write_splits(folder / "splits", cells, splits or {})
    model = _write_model(folder / "model", cells, split, stats or {}, gene_prior)
    if published_at:
        with writing(folder / "taken", MODEL, parameters={}) as draft:
            for name in model.provenance["files"]:
                link_or_copy(model.path / name, draft.path / name)
            draft.summary["published_at"] = published_at
        model = opening(folder / "taken", MODEL)
    predicted = _write_predictions(
        folder / "predictions", obs, expression, genes, model, split, predictions or {}
    )
    _write_evaluation(folder / "evaluation", predicted, split, metrics or {})
    return Run(model.path, folder / "predictions", folder / "evaluation", folder / "splits")


def _write_splits(folder: Path, cells: Artifact, changes: dict[str, Any]) -> Artifact:
    with writing(folder, SPLITS, parameters={}, inputs={"cells": cells}) as draft:
        pd.DataFrame({"cell": ["a"]}).to_parquet(draft.path / "splits.parquet")
        draft.summary |= SPLITS_SUMMARY | changes
    return opening(folder, SPLITS)


def _write_model(
    folder: Path, cells: Artifact, splits: Artifact, changes: dict[str, Any], gene_prior: bool
) -> Artifact:
    torch.manual_seed(0)
    state = scgpt_model.export_state(scgpt_model.build(ARGS, VOCAB))
    inputs = {"cells": cells, "splits": splits}
    with writing(folder, MODEL, parameters={}, inputs=inputs) as draft:
        torch.save(state, draft.path / "best_model.pt")
        written = {"args": ARGS, "vocab": VOCAB, "training_stats": STATS | changes}
        if gene_prior:
            written["gene_prior"] = {"source": "table"}
        written["confidence"] = CONFIDENCE
        (draft.path / "training_effects.safetensors").write_text("effects")
        for name, content in written.items():
            (draft.path / f"{name}.json").write_text(json.dumps(content))
    return opening(folder, MODEL)


def _write_predictions(
    folder: Path,
    obs: pd.DataFrame,
    expression: np.ndarray,
    genes: list[str],
    model: Artifact,
    splits: Artifact,
    changes: dict[str, Any],
) -> Artifact:
    adata = anndata.AnnData(
        expression.astype(np.float32),
        obs=obs.assign(measured=True),
        var=pd.DataFrame(index=genes),
        layers={"truth": expression.astype(np.float32)},
        varm={"predicted_mean": np.zeros((len(genes), 2), np.float32)},
        uns={
            "perturbation_column": "perturbation",
            "control": "non-targeting",
            "perturbations": ["G1", "X0"],
            "predicted_cells": "rank",
        },
    )
    inputs = {"model": model, "splits": splits}
    with writing(folder, PREDICTIONS, parameters={}, inputs=inputs) as draft:
        adata.write_h5ad(draft.path / "scgpt_replogle_test.h5ad")
        draft.summary |= {
            "test_line": "rpe1",
            "cells": 12,
            "perturbations": 2,
            "genes": 30,
            "doubles": 0,
            "unmeasured_targets": 1,
            "unflagged_perturbations": 0,
            "predicted_cells": "rank",
            "clipped_fraction": 0.0,
        } | changes
    return opening(folder, PREDICTIONS)


def _write_evaluation(
    folder: Path, predictions: Artifact, splits: Artifact, changes: dict[str, Any]
) -> None:
    inputs = {"predictions": predictions, "splits": splits}
    with writing(folder, EVALUATION, parameters={}, inputs=inputs) as draft:
        content = METRICS | changes
        scored = content.get("scored", True)
        draft.summary["scored"] = scored
        for group in groups(scored=scored):
            for name in group.names if group.artifact == "evaluation" else ():
                (draft.path / name).write_text(f"{name}\n")
        if scored:
            (draft.path / "summary.csv").write_text(
                "prediction,metric,mean,median,max,undefined\n"
                "model,pearson_delta,0.25,0.24,0.3,0.0\n"
                "model,mae_delta,0.125,0.12,0.15,0.0\n"
                "model,roc_auc,,,,2.0\n"
                "model,pearson_delta_centred,0.125,0.1,0.2,0.0\n"
                "control_mean,pearson_delta,0.0,0.0,0.0,0.0\n"
            )
        (draft.path / "metrics.json").write_text(json.dumps(content))


FILES = {
    "best_model.pt",
    "args.json",
    "vocab.json",
    "training_stats.json",
    "training_effects.safetensors",
    "confidence.json",
    "eval/agg_results.csv",
    "eval/results.csv",
    "eval/summary.csv",
    "eval/scores.csv",
    "eval/comparisons.csv",
    "eval/strata.csv",
    "eval/undefined.csv",
    "eval/calibration.csv",
    "eval/called_by_expression.csv",
    "eval/metrics.json",
    "eval/report.html",
    "eval/explorer.html",
    "predictions/effects.parquet",
    "predictions/effects.csv.gz",
    "predictions/perturbations.csv",
    "predictions/scgpt_replogle_test.h5ad",
    "README.md",
    "provenance.json",
}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
