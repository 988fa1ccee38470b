"""What carries over to another line: real effects of four cell types, and generated screens.

    python -m benchmarks.transfer [--op3 <op3_ranks.npz>] [--seeds 3] [--folder runs/transfer]

Two parts. Of OP3's compounds (`Z` [4 cell types, 135 compounds, 6,349 genes], normal scores of
signed significance; montilab/sigrecon, MIT) each cell type is predicted from the other three, by
each estimate of known effects and by their stack. On generated screens known effects alone are
scored beside copying. Finished runs are kept as JSON and not done again; docs/transfer.md is
written last.
"""

import argparse
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.confidence import Case, cells_of, splits_of
from benchmarks.stored_results import header, kept, mean_sd, row
from benchmarks.truth import TestLine
from components.finetune.cross_line_effects import known_effects, others_of
from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas, line_deltas
from components.finetune.effect_parts import COMMON, COPIED, PARTS, estimates_from
from components.finetune.effect_sizes import as_large_as_measured
from components.finetune.effect_weights import weights_of
from components.finetune.loading import load_training_data
from components.finetune.selection import discrimination, pearson
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import correlations
from components.shared.artifacts.splits import Splits
from components.shared.model.tokens import GeneTokens, Ints
from components.shared.telling.errors import one_line_errors

SCREENS = {
    "usual": "cells=12000&genes=600&perturbations=80",
    "few cells": "cells=5000&genes=1000&perturbations=60",
    "many cells": "cells=30000&genes=800&perturbations=120",
    "ten pathways": "cells=12000&genes=600&perturbations=80&pathways=10",
    "a fifth escape, three batches": "cells=12000&genes=600&perturbations=80&escape=20&batches=3",
}
"""What is asked of the generator, beside four lines and a seed."""
CPU = torch.device("cpu")
TRAINING = {"three lines": 3, "two lines": 2, "one line": 1}
METRICS = ("pearson_delta", "discrimination", "mae_delta", "mse_delta")
WHOLE = "stack, nothing held back"
WAYS = ("nothing", "copying", "known effects")
PAGE = Path("docs/transfer.md")


def op3(path: Path, each: int = 1) -> dict[str, dict[str, tuple[float, float]]]:
    """Tell each cell type by the others; return scores (`_agreement`) by way and cell type.

    Every ``each``-th compound is taken.
    """
    with np.load(path, allow_pickle=False) as file:
        scores = file["Z"][:, ::each].astype(float)
        names = [str(name) for name in file["lines"]]
    # No compound is the control, whose row known effects leave out.
    change = np.concatenate([np.zeros_like(scores[:, :1]), scores], axis=1)
    there = np.ones(change.shape[:2], bool)
    there[:, 0] = False
    ways = (*PARTS, WHOLE, "stack")
    found: dict[str, dict[str, tuple[float, float]]] = {way: {} for way in ways}
    for left, name in enumerate(names):
        others = [i for i in range(len(names)) if i != left]
        # What two cell types differ by: errors are not given, so it stands for their noise too.
        pairs = [np.square(scores[a] - scores[b]) / 2 for a in others for b in others if a < b]
        variance = np.broadcast_to(np.mean(pairs, axis=(0, 1)), change[others].shape).copy()
        part = LineDeltas([names[i] for i in others], change[others], variance, there[others])
        tellers = [(part, i) for i in range(len(others))]
        estimates, weights = estimates_from(tellers), weights_of(tellers)
        whole = estimates.combined(weights | {COMMON: max(weights[COMMON], 0.0)})
        stacks = {WHOLE: whole, "stack": estimates.combined(weights)}
        for way, effects in (estimates.parts | stacks).items():
            found[way][name] = _agreement(effects, scores[left])
    return found


def _agreement(told: Floats, measured: Floats) -> tuple[float, float]:
    """Return means over rows: of the correlation over genes, and of discrimination."""
    centred = (each - each.mean(axis=1, keepdims=True) for each in (told, measured))
    no_targets = [np.array([], np.int64)] * len(measured)  # a compound is no gene
    apart = discrimination(np.ascontiguousarray(told, dtype=float), measured, no_targets)
    return float(np.nanmean(correlations(*centred))), float(np.nanmean(apart))


def screen(asked: str, lines: int, seed: int, folder: Path) -> dict[str, Any]:
    """Tell the fourth line by known effects and by copying; return the scores of each."""
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        uri = f"sim://screen?{asked}&lines=4&seed={seed}"
        cells = Cells.open(cells_of(uri, folder))
        case = Case("", lines=lines)
        splits = Splits.open(splits_of(case, seed, cells.artifact.path), cells)
        tokens = GeneTokens.of(cells.genes, {gene: i for i, gene in enumerate(cells.genes)})
        data = load_training_data(cells, splits, tokens, CPU, token_for_unmeasured=True)
        deltas = [line_deltas(data)]
        known = known_effects(data.perturbations, deltas, None)
        line = TestLine.of(cells, splits)
    copied = estimates_from(others_of(None, deltas))
    place = {label: i for i, label in enumerate(data.perturbations)}
    told = [i for i, name in enumerate(line.perturbations) if copied.there[place[name]]]
    rows = [place[line.perturbations[i]] for i in told]
    row_of = np.cumsum(copied.there) - 1
    factor = known.sizes.factor or as_large_as_measured(copied, known.weights)
    changes = {
        "nothing": np.zeros((len(rows), len(cells.genes))),
        "copying": copied.parts[COPIED][row_of[rows]],
        "known effects": factor * known.change[-1].numpy().astype(float)[rows],
    }
    targets = [line.targets[i] for i in told]
    scores = {way: _scored(line, told, change, targets) for way, change in changes.items()}
    return {"scores": scores, "weights": known.weights, "factor": factor}


def _scored(
    line: TestLine, told: list[int], change: Floats, targets: list[Ints]
) -> dict[str, float]:
    """Return the mean scores of predicted changes, clipped as predictions are."""
    predicted = np.maximum(line.control + change, 0.0) - line.control
    measured = line.measured[told]
    missed = predicted - measured
    moves = predicted.any(axis=1)
    found = [pearson(a, b) for a, b in zip(predicted[moves], measured[moves], strict=True)]
    return {
        "pearson_delta": float(np.nanmean(found)) if found else 0.0,
        "discrimination": float(np.nanmean(discrimination(predicted, measured, targets))),
        "mae_delta": float(np.abs(missed).mean()),
        "mse_delta": float(np.square(missed).mean()),
    }


def op3_table(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[str]:
    """Return one row per way: the correlation in each cell type, and the means of both scores."""
    names = list(next(iter(found.values())))
    lines = header(["prediction", *names, "mean", "discrimination"])
    for way, scores in found.items():
        values = [score for score, _ in scores.values()]
        means = np.mean(list(scores.values()), axis=0)
        lines.append(row([way, *(f"{value:.3f}" for value in (*values, *means))]))
    return lines


def screen_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return rows for each kind of screen, means over seeds."""
    head = ["screen", "predicted by", *METRICS, "copied, shrunk, kernel, mean; factor"]
    lines = header(head)
    for name, runs in found.items():
        for way in WAYS:
            scores = [mean_sd([run["scores"][way][m] for run in runs], 3) for m in METRICS]
            parts = ", ".join(
                f"{np.mean([run['weights'][part] for run in runs]):.2f}" for part in PARTS
            )
            factor = np.mean([run["factor"] for run in runs])
            last = f"{parts}; {factor:.2f}" if way == WAYS[-1] else ""
            lines.append(row([name, way, *scores, last]))
    return lines


def ahead(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return in how many seeds known effects are ahead of copying, one row per kind of screen."""
    lines = header(["ahead of copying in", *METRICS])
    for name, runs in found.items():
        cells = []
        for metric in METRICS:
            sign = 1 if metric in ("pearson_delta", "discrimination") else -1
            pairs = [[run["scores"][way][metric] for way in WAYS[:0:-1]] for run in runs]
            cells.append(f"{sum(sign * (a - b) > 0 for a, b in pairs)} of {len(pairs)}")
        lines.append(row([name, *cells]))
    return lines


TEXT = """# What carries over to another line

Written by `python -m benchmarks.transfer`.

## Real effects: OP3's compounds in four cell types

135 compounds in NK, B, T and myeloid cells of blood (GSE279945), each cell type predicted from the
other three: mean over compounds of the correlation over 6,349 genes, and of discrimination.
`copied` is the mean of those three; the stack's weights are learned from the three alone
(`components/finetune/effect_weights.py`). What shares over perturbations agrees more with the truth
and tells like compounds less apart; so as much of the mean effect is held back as is needed to tell
them apart as well as copying does. Both cannot be had here: of everything tried that is told apart
as well as by copying, the correlation is 0.336 at most (`docs/log.md`).

{op3}

## Generated screens

{seeds} seeds of each (`components/ingest/README.md`), the fourth line predicted from the others, by
known effects alone: what the prior `effects` starts from, and stays at if the network adds
nothing significant. Copying is the mean of the other lines' changes. Controls are not halved, so
predicting nothing has a pearson_delta of 0. Mean ± standard deviation over seeds.

{screens}

{ahead}
"""


def page(found: Mapping[str, Sequence[Mapping[str, Any]]], real: list[str]) -> str:
    """Return docs/transfer.md."""
    return TEXT.format(
        op3="\n".join(real),
        seeds=max(map(len, found.values())),
        screens="\n".join(screen_table(found)),
        ahead="\n".join(ahead(found)),
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
    found: dict[str, list[dict[str, Any]]] = {}
    kinds = [(name, "three lines") for name in SCREENS]
    kinds += [("usual", "two lines"), ("usual", "one line"), ("few cells", "one line")]
    for name, lines in kinds:
        title = f"{name}, {lines}"
        for seed in range(1, asked.seeds + 1):
            file = asked.folder / f"{re.sub(r'[^a-z]+', '-', title)}-{seed}.json"
            make = partial(screen, SCREENS[name], TRAINING[lines], seed, asked.folder)
            found.setdefault(title, []).append(kept(file, make))
        print("\n".join(screen_table({title: found[title]})[2:]), flush=True)
    PAGE.write_text(page(found, real))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    with one_line_errors("transfer"):
        main()
