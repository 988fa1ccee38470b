"""What carries over to another line: real effects of four cell types, and generated screens.

    python -m benchmarks.transfer [--op3 <op3_ranks.npz>] [--seeds 3] [--folder runs/transfer]

Two parts. Of OP3's compounds (`Z` [4 cell types, 135 compounds, 6,349 genes], normal scores of
signed significance; montilab/sigrecon, MIT) each cell type is told by the other three, in each way
that known effects can be told and in their stack. On generated screens the stages that users run
train the demo's model and score it beside copying. Finished runs are kept as JSON and not done
again; docs/transfer.md is written after each.
"""

import argparse
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation import TEST_LINE, TRAIN_LINES
from benchmarks.confidence import NETWORK, _mean_sd, _row, cells_of, kept
from components.evaluate.evaluate import evaluate
from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.effects import line_key
from components.finetune.evidence import correlations
from components.finetune.finetune import finetune
from components.finetune.parts import PARTS, told_by, weights_of
from components.predict.predict import predict
from components.prior.prior import prior
from components.shared.errors import one_line_errors
from components.split.split import split

SCREEN = "sim://screen?cells=5000&genes=300&perturbations=40&lines=4&seed={seed}"
WAYS = ("none", "effects")
"""Priors."""
METRICS = ("pearson_delta", "discrimination_score_l1", "mae_delta", "roc_auc")
COPYING, NOTHING = "same_perturbation_delta", "control_mean"
PAGE = Path("docs/transfer.md")


def op3(path: Path) -> dict[str, dict[str, float]]:
    """Tell each cell type by the others; return the mean correlation by way and cell type."""
    with np.load(path, allow_pickle=False) as file:
        scores, names = file["Z"].astype(float), [str(name) for name in file["lines"]]
    # No compound is the control, whose row known effects leave out.
    change = np.concatenate([np.zeros_like(scores[:, :1]), scores], axis=1)
    there = np.ones(change.shape[:2], bool)
    there[:, 0] = False
    found: dict[str, dict[str, float]] = {way: {} for way in (*PARTS, "stack")}
    for left, name in enumerate(names):
        others = [i for i in range(len(names)) if i != left]
        # What two cell types differ by: errors are not given, so it stands for their noise too.
        pairs = [np.square(scores[a] - scores[b]) / 2 for a in others for b in others if a < b]
        variance = np.broadcast_to(np.mean(pairs, axis=(0, 1)), change[others].shape).copy()
        part = LineDeltas([names[i] for i in others], change[others], variance, there[others])
        tellers = [(part, i) for i in range(len(others))]
        told, weights = told_by(tellers), weights_of(tellers, line_key)
        for way, effects in (*told.parts.items(), ("stack", told.combined(weights))):
            found[way][name] = _agreement(effects, scores[left])
    return found


def _agreement(told: Floats, measured: Floats) -> float:
    """Return the mean over rows of the correlation over genes."""
    centred = (each - each.mean(axis=1, keepdims=True) for each in (told, measured))
    return float(np.nanmean(correlations(*centred)))


def screen(way: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train, predict and evaluate by the stages; return the headline beside its baselines."""
    torch.set_num_threads(1)
    place = folder / f"{way}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        cells = cells_of(SCREEN.format(seed=seed), folder)
        lines = {"train_lines": TRAIN_LINES, "test_line": TEST_LINE}
        split(cells, place / "splits", **lines, val_fraction=0.15, seed=seed)
        prior(way, "random://tiny", place / "prior", seed=seed)
        inputs = cells, place / "splits"
        start = {"pretrained": "random://tiny", "overrides": NETWORK, "seed": seed}
        finetune(*inputs, place / "prior", place / "model", **start)
        predict(place / "model", *inputs, place / "predictions", seed=seed)
        evaluate(place / "predictions", *inputs, place / "evaluation", prior=place / "prior")
    scores = json.loads((place / "evaluation" / "metrics.json").read_text())
    stats = json.loads((place / "model" / "training_stats.json").read_text())
    shutil.rmtree(place)
    told = {"model": scores["model"], **scores["baselines"]}
    facts = ("best_epoch", "network_weight", "scale", "effects_weights")
    return {
        "scores": {name: {m: row[m] for m in METRICS} for name, row in told.items()},
        "ceiling": scores["ceiling"],
        **{fact: stats.get(fact) for fact in facts},
    }


def op3_table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a row a way."""
    names = list(next(iter(found.values())))
    lines = [_row(["way to tell", *names, "mean"]), _row(["---"] * (len(names) + 2))]
    for way, row in found.items():
        values = [*row.values(), float(np.mean(list(row.values())))]
        lines.append(_row([way, *(f"{value:.3f}" for value in values)]))
    return lines


def screen_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return a row for each model and each baseline, means over seeds."""
    lines = [_row(["prediction", *METRICS, "epoch kept"]), _row(["---"] * (len(METRICS) + 2))]
    runs = next((each for each in found.values() if each), [])
    for name in (NOTHING, COPYING):
        lines.append(_row([f"`{name}`", *_scores(runs, name), ""]))
    for way, each in found.items():
        epochs = ", ".join(str(run["best_epoch"]) for run in each)
        lines.append(_row([way, *_scores(each, "model"), epochs]))
    return lines


def _scores(runs: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return [_mean_sd([run["scores"][name][metric] for run in runs], 3) for metric in METRICS]


def ahead(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return in how many seeds each model is ahead of copying, a row a model."""
    lines = [_row(["ahead of copying in", *METRICS]), _row(["---"] * (len(METRICS) + 1))]
    for way, runs in found.items():
        cells = []
        for metric in METRICS:
            sign = -1 if metric.startswith("mae") else 1
            pairs = [[run["scores"][x][metric] for x in ("model", COPYING)] for run in runs]
            cells.append(f"{sum(sign * (a - b) > 0 for a, b in pairs)} of {len(pairs)}")
        lines.append(_row([way, *cells]))
    return lines


TEXT = """# What carries over to another line

Written by `python -m benchmarks.transfer`.

## Real effects: OP3's compounds in four cell types

135 compounds in NK, B, T and myeloid cells of blood (GSE279945), each cell type told by the other
three: mean over compounds of the correlation over 6,349 genes. `copied` is the mean of the three;
the stack's weights are learned from the three alone (`components/finetune/parts.py`).

{op3}

## Generated screens

{seeds} seeds of `{screen}`, the fourth
line told by three, the demo's settings for {epochs} epochs from random weights. Mean ± standard
deviation over seeds; the epoch that is kept, by seed, 0 = known effects alone.

{screens}

{ahead}

The parts of known effects (copied, shrunk, kernel, mean) and what the network adds, by seed:
{weights}
"""


def page(found: Mapping[str, Sequence[Mapping[str, Any]]], real: list[str]) -> str:
    """Return docs/transfer.md."""
    weights = [
        f"{', '.join(f'{value:.2f}' for value in run['effects_weights'].values())}; "
        f"{run['network_weight']:.2f}; factor {run['scale']:.2f}"
        for run in found["effects"]
    ]
    return TEXT.format(
        op3="\n".join(real),
        seeds=max(map(len, found.values())),
        screen=SCREEN.format(seed="…"),
        epochs=NETWORK["epochs"],
        screens="\n".join(screen_table(found)),
        ahead="\n".join(ahead(found)),
        weights="\n".join(f"{i}. {text}" for i, text in enumerate(weights, 1)),
    )


def main() -> None:
    """Run what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--op3", type=Path, help="op3_ranks.npz; left out: without that part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    real = op3_table(op3(asked.op3)) if asked.op3 else ["Not computed: give `--op3`."]
    print("\n".join(real), flush=True)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in range(1, asked.seeds + 1):
        for way in WAYS:
            file = asked.folder / f"{way}-{seed}.json"
            found[way].append(kept(file, lambda w=way, s=seed: screen(w, s, asked.folder)))  # type: ignore[misc]
            print(way, seed, json.dumps(found[way][-1]["scores"]["model"]), flush=True)
        if all(found.values()):
            PAGE.write_text(page(found, real))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    with one_line_errors("transfer"):
        main()
