"""What each prior is worth on generated screens whose effects are known, by the stages users run.

    python -m benchmarks.compare_priors [--seeds 3] [--epochs 12] [--folder runs/priors]

A third of the perturbations train in no line, and are predicted beside the others. The oracle is
what the generator knows: how much each perturbation moves each of its modules. Its shuffled twin
and random vectors tell nothing. Finished runs are kept as JSON and not done again;
docs/priors.md is written after each.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation import COLUMNS, TEST_LINE, TRAIN_LINES, Scores, TestLine, verdict
from components.evaluate.baselines import (
    CONTROL_MEAN,
    MEAN_DELTA,
    SAME_PERTURBATION_DELTA,
    baseline_means,
)
from components.evaluate.training import training_pseudobulks
from components.finetune.finetune import finetune
from components.ingest.ingest import ingest
from components.predict.predict import predict
from components.prior.prior import prior
from components.shared.cells import Cells
from components.shared.errors import one_line_errors
from components.shared.predictions import KNOWN_MEANS, MEANS, PERTURBATIONS, Predictions
from components.shared.splits import Splits
from components.split.split import split

UNSEEN = 1 / 3
"""Of the perturbations."""
PRIORS = {
    "none": "none",
    "oracle": "{oracle}",
    "shuffled oracle": "shuffled:{oracle}",
    "random": "random:8",
    "wide random": "random:512",
    "effects": "effects",
    "effects and oracle": "concat(effects, {oracle})",
}
OVERRIDES = {
    "early_stop_after": 100,
    "batch_size": 16,
    "max_genes": 96,
    "predict_window": 96,
    "set_size": 8,
    "learning_rate": 1.5e-3,
}
BASELINES = {
    CONTROL_MEAN: "control mean",
    MEAN_DELTA: "control mean + mean training delta",
    SAME_PERTURBATION_DELTA: "control mean + that perturbation's training delta",
}
METRIC = "pearson_delta"
SEEN, NEW = "seen", "unseen"
COMPARED = [
    ("oracle", "none", NEW),
    ("shuffled oracle", "none", NEW),
    ("random", "none", NEW),
    ("shuffled oracle", "none", SEEN),
    ("random", "none", SEEN),
    ("wide random", "none", SEEN),
    ("effects", BASELINES[SAME_PERTURBATION_DELTA], SEEN),
    ("effects", BASELINES[SAME_PERTURBATION_DELTA], NEW),
]
HEAD = """\
# Priors on generated screens

Three lines train, the fourth is predicted; a third of the perturbations train in no line
("unseen"). `make priors` repeats it; `benchmarks/compare_priors.py` writes this page. Screens:
`{screen}`
and the next seeds; model `random://tiny`, {epochs} epochs, recipe `default` at the size of
`docs/ablation.md`. {done} of {all} runs are done.

The oracle is what the generator knows of each perturbation: how much it moves each module.
"known effects alone" are what a run with `effects` starts from: the training lines' deltas with
their noise taken out, before the network has its say. Metrics as in `docs/ablation.md`; mean over
perturbations, then mean ± standard deviation over seeds.
"""

Rows = dict[str, dict[int, dict[str, Scores]]]
"""Scores by row, seed, and whether the perturbations were seen."""


def screen(seed: int) -> str:
    """Return the URI of a seed's screen."""
    return f"sim://screen?cells=6000&genes=400&perturbations=48&lines=4&seed={seed}"


def prepared(folder: Path, seed: int) -> tuple[Cells, Splits, Path]:
    """Return a seed's cells, split and oracle table, made where they are not there yet."""
    place = folder / f"seed{seed}"
    if not (place / "cells").exists():
        ingest(screen(seed), place / "cells")
    cells = Cells.open(place / "cells")
    truth = np.load(place / "cells" / "truth.npz")
    names = truth["perturbations"].astype(str)
    oracle = place / "oracle.npz"
    np.savez(oracle, genes=names, embeddings=truth["loadings"].astype(np.float32))
    if not (place / "splits").exists():
        rng = np.random.default_rng([seed, 11])
        hidden = sorted(rng.choice(names, round(UNSEEN * len(names)), replace=False).tolist())
        held = sorted(rng.choice(sorted(set(names) - set(hidden)), 5, replace=False).tolist())
        parts = [f'[training]\nscreen = "train"\n\n[zeroshot]\n"screen.{TEST_LINE}" = "test"\n']
        perturbed = cells.obs[~cells.obs["is_control"]]
        for number, line in enumerate(TRAIN_LINES):
            there = set(perturbed["perturbation"][perturbed["cell_line"] == line])
            kept = json.dumps([name for name in hidden if name in there])
            val = json.dumps([name for name in held if name in there and not number])
            parts.append(f'[fewshot."screen.{line}"]\nval = {val}\ntest = {kept}\n')
        (place / "split.toml").write_text("\n".join(parts))
        split(
            place / "cells",
            place / "splits",
            train_lines=TRAIN_LINES,
            test_line=TEST_LINE,
            split_file=str(place / "split.toml"),
            restrict_test_to_training=False,
            seed=seed,
        )
    return cells, Splits.open(place / "splits", cells), oracle


def scored(line: TestLine, splits: Splits, means: NDArray[np.float64]) -> dict[str, Scores]:
    """Score predicted means [perturbations, genes], seen and unseen perturbations apart."""
    known = splits.training_perturbations()
    seen = np.array([name in known for name in line.perturbations])
    return {
        name: replace(
            line,
            perturbations=[p for p, mine in zip(line.perturbations, rows, strict=True) if mine],
            measured=line.measured[rows],
            true=line.true[rows],
            targets=[t for t, mine in zip(line.targets, rows, strict=True) if mine],
        ).scores(means[rows])
        for name, rows in ((SEEN, seen), (NEW, ~seen))
    }


def do(folder: Path, name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Run the stages for one prior and seed; return and keep the scores."""
    cells, splits, oracle = prepared(folder, seed)
    place = folder / f"seed{seed}" / name.replace(" ", "_")
    shutil.rmtree(place, ignore_errors=True)
    prior(PRIORS[name].format(oracle=oracle), "random://tiny", place / "prior", seed=seed)
    started = time.process_time()
    finetune(
        cells.artifact.path,
        splits.artifact.path,
        place / "prior",
        place / "model",
        pretrained="random://tiny",
        overrides=OVERRIDES | {"epochs": epochs},
        seed=seed,
    )
    seconds = time.process_time() - started
    predict(
        place / "model",
        cells.artifact.path,
        splits.artifact.path,
        place / "predictions",
        seed=seed,
    )
    line = TestLine.of(cells, splits)
    found = Predictions.open(place / "predictions").anndata
    if list(found.uns[PERTURBATIONS]) != line.perturbations:
        raise RuntimeError("the predictions are of other perturbations than the test line's")
    stats = json.loads((place / "model" / "training_stats.json").read_text())
    kept = {
        "scores": scored(line, splits, np.asarray(found.varm[MEANS].T, float)),
        "best_epoch": stats["best_epoch"],
        "cpu_seconds": round(seconds, 1),
    }
    if KNOWN_MEANS in found.varm:
        kept["known"] = scored(line, splits, np.asarray(found.varm[KNOWN_MEANS].T, float))
    file = folder / f"seed{seed}-{epochs}-{name.replace(' ', '_')}.json"
    file.with_suffix(".partial").write_text(json.dumps(kept, indent=2) + "\n")
    file.with_suffix(".partial").rename(file)
    shutil.rmtree(place)
    return kept


def baselines(folder: Path, seed: int) -> dict[str, dict[str, Scores]]:
    """Return the scores of predictions that need no model."""
    cells, splits, _ = prepared(folder, seed)
    line = TestLine.of(cells, splits)
    means, _ = baseline_means(training_pseudobulks(cells, splits), line.perturbations)
    return {
        title: scored(line, splits, np.asarray(means[name], float))
        for name, title in BASELINES.items()
    }


def table(rows: Rows, part: str) -> str:
    """Return a Markdown table of the rows' scores over seeds."""
    lines = [
        f"| {part} perturbations | {' | '.join(COLUMNS)} | seeds |",
        f"|{' --- |' * (len(COLUMNS) + 2)}",
    ]
    for title, seeds in rows.items():
        cells = []
        for metric in COLUMNS:
            values = np.array([scores[part][metric] for scores in seeds.values()], float)
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(
                f"{values.mean():.3f}{spread}" if np.isfinite(values).all() else "undefined"
            )
        name = f"**{title}**" if title in PRIORS else title
        lines.append(f"| {name} | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def verdicts(rows: Rows) -> list[str]:
    """Return a line for each comparison whose seeds are all there."""
    lines = []
    for one, other, part in COMPARED:
        mine, theirs = rows.get(one, {}), rows.get(other, {})
        if mine and mine.keys() == theirs.keys():
            gains = [mine[seed][part][METRIC] - theirs[seed][part][METRIC] for seed in mine]
            lines.append(verdict(f"{METRIC}, {part} perturbations", one, other, gains))
    return lines


def page(folder: Path, seeds: Sequence[int], epochs: int) -> str:
    """Return docs/priors.md as far as runs are done."""
    rows: Rows = {}
    for seed in seeds:
        if not (folder / f"seed{seed}" / "splits").exists():
            continue
        for title, scores in baselines(folder, seed).items():
            rows.setdefault(title, {})[seed] = scores
    done = 0
    for name in PRIORS:
        for seed in seeds:
            file = folder / f"seed{seed}-{epochs}-{name.replace(' ', '_')}.json"
            if file.exists():
                done += 1
                kept = json.loads(file.read_text())
                if "known" in kept:
                    known = rows.setdefault(f"{name}: known effects alone", {})
                    known[seed] = kept["known"]
                rows.setdefault(name, {})[seed] = kept["scores"]
    head = HEAD.format(
        screen=screen(seeds[0]), epochs=epochs, done=done, all=len(PRIORS) * len(seeds)
    )
    return "\n".join([head, table(rows, SEEN), "", table(rows, NEW), "", *verdicts(rows), ""])


def main() -> None:
    """Do the runs that are missing and write the page after each."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument("--folder", type=Path, default=Path("runs/priors"))
    made.add_argument("--page", type=Path, default=Path("docs/priors.md"))
    given = made.parse_args()
    os.environ.setdefault("WANDB_MODE", "disabled")
    seeds = range(1, given.seeds + 1)
    with one_line_errors("compare_priors"):
        for seed in seeds:
            for name in PRIORS:
                file = given.folder / f"seed{seed}-{given.epochs}-{name.replace(' ', '_')}.json"
                if not file.exists():
                    kept = do(given.folder, name, seed, given.epochs)
                    print(f"seed {seed}, {name}: {json.dumps(kept['scores'])}", flush=True)
                given.page.write_text(page(given.folder, seeds, given.epochs))
    print(f"wrote {given.page}")


if __name__ == "__main__":
    main()
