"""What each prior is worth on generated screens whose effects are known, by the stages users run.

    python -m benchmarks.compare_priors [--seeds 3] [--epochs 16] [--folder runs/priors]

A third of the perturbations train in no line, and are predicted beside the others. The oracle is
what the generator knows: how much each perturbation moves each of its pathways. Its shuffled twin
tells nothing. Finished runs are kept as JSON and not done again;
docs/priors.md is written at the end,
and what there is of it in --folder after each.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.staged_run import PRETRAINED, SMALL, baselines, cells_of, run, screen, splits_of
from benchmarks.stored_results import BASELINES, gains, kept, score_table, verdict
from benchmarks.truth import TEST_LINE, TRAIN_LINES, Floats, Scores, TestLine
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.evaluation import SAME_PERTURBATION_DELTA
from components.shared.artifacts.splits import Splits
from components.shared.telling.errors import one_line_errors

UNSEEN = 1 / 3
"""Of the perturbations."""
HELD_OUT = 4
"""Perturbations that validate, in each line others."""
PERTURBATIONS = 48
PRIORS = {
    "none": "none",
    "oracle": "{oracle}",
    "shuffled oracle": "shuffled:{oracle}",
    "effects": "effects",
    "effects and oracle": "concat(effects, {oracle})",
}
SEEN, NEW = "seen", "unseen"
COPYING = BASELINES[SAME_PERTURBATION_DELTA]
COMPARED = [
    ("oracle", "none", NEW),
    ("shuffled oracle", "none", NEW),
    ("shuffled oracle", "none", SEEN),
    ("none", COPYING, SEEN),
    ("effects", COPYING, SEEN),
    ("effects", COPYING, NEW),
    ("effects and oracle", COPYING, NEW),
]
METRICS = ("pearson_delta", "discrimination", "mae_delta")
HEAD = """\
# Priors on generated screens

Three lines train, the fourth is predicted; a third of the perturbations train in no line
("unseen"). `make priors` repeats it; `benchmarks/compare_priors.py` writes this page. Screens:
`{screen}`
and the next seeds; model `{pretrained}`, {epochs} epochs, recipe `default` at the size of
`docs/ablation.md`. {done} of {all} runs are done. Code: {code}.

The oracle is what the generator knows of each perturbation: how much it moves each pathway.
"known effects alone" are what a run with `effects` starts from: the training lines' deltas with
their noise taken out, before the network changes them. Metrics as in `docs/ablation.md`; mean over
perturbations, then mean ± standard deviation over seeds.
"""

Rows = dict[str, dict[int, dict[str, Scores]]]
"""Scores by row, seed, and whether the perturbations were seen."""


def prepared(folder: Path, seed: int) -> tuple[Cells, Splits, Path]:
    """Return a seed's cells, split and oracle table, made where they are not there yet."""
    place = folder / f"seed{seed}"
    cells = cells_of(screen(PERTURBATIONS, seed), place / "cells")
    truth = np.load(place / "cells" / "truth.npz")
    names = truth["perturbations"].astype(str)
    oracle = place / "oracle.npz"
    np.savez(oracle, genes=names, embeddings=truth["loadings"].astype(np.float32))
    file = place / "split.toml"
    file.write_text(_split_file(cells, names, seed))
    options = {"split_file": str(file), "restrict_test_to_training": False, "seed": seed}
    return cells, splits_of(cells, place / "splits", **options), oracle


def _split_file(cells: Cells, names: Sequence[str], seed: int) -> str:
    """Return a split that hides perturbations in all training lines and holds others out in one."""
    rng = np.random.default_rng([seed, 11])
    hidden = sorted(rng.choice(names, round(UNSEEN * len(names)), replace=False).tolist())
    seen = rng.permutation(sorted(set(names) - set(hidden))).tolist()
    parts = [f'[training]\nscreen = "train"\n\n[zeroshot]\n"screen.{TEST_LINE}" = "test"\n']
    perturbed = cells.obs[~cells.obs["is_control"]]
    for number, line in enumerate(TRAIN_LINES):
        there = set(perturbed["perturbation"][perturbed["cell_line"] == line])
        held = seen[number * HELD_OUT : (number + 1) * HELD_OUT]
        val, test = (json.dumps([n for n in own if n in there]) for own in (held, hidden))
        parts.append(f'[fewshot."screen.{line}"]\nval = {val}\ntest = {test}\n')
    return "\n".join(parts)


def scored(line: TestLine, splits: Splits, means: Floats) -> dict[str, Scores]:
    """Score predicted means [perturbations, genes], seen and unseen perturbations apart."""
    known = splits.training_perturbations()
    seen = np.array([name in known for name in line.perturbations])
    return {
        name: line.only(rows).scores(means[rows]) for name, rows in ((SEEN, seen), (NEW, ~seen))
    }


def do(folder: Path, name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Run the stages for one prior and seed; return the scores."""
    torch.set_num_threads(1)
    cells, splits, oracle = prepared(folder, seed)
    found = run(
        cells,
        splits,
        folder / f"seed{seed}" / name.replace(" ", "_"),
        uri=PRIORS[name].format(oracle=oracle),
        recipe="default",
        overrides=SMALL | {"epochs": epochs, "early_stop_after": epochs},
        seed=seed,
    )
    line = TestLine.of(cells, splits)
    if found.perturbations != line.perturbations:
        raise RuntimeError("the predictions are of other perturbations than the test line's")
    known = {} if found.known is None else {"known": scored(line, splits, found.known)}
    return {"scores": scored(line, splits, found.means), **known, **found.facts}


def file_of(folder: Path, name: str, seed: int, epochs: int) -> Path:
    """Return where what came out of a run is kept."""
    return folder / f"seed{seed}-{epochs}-{name.replace(' ', '_')}.json"


def page(folder: Path, seeds: Sequence[int], epochs: int) -> str:
    """Return docs/priors.md as far as runs are done."""
    rows: Rows = {}
    revisions, done = set(), 0
    for seed in seeds:
        files = {name: file_of(folder, name, seed, epochs) for name in PRIORS}
        if not any(file.exists() for file in files.values()):
            continue
        cells, splits, _ = prepared(folder, seed)
        line = TestLine.of(cells, splits)
        for title, means in baselines(cells, splits, line.perturbations).items():
            rows.setdefault(title, {})[seed] = scored(line, splits, means)
        for name, file in files.items():
            if file.exists():
                found = json.loads(file.read_text())
                done += 1
                revisions.add(found["code"]["revision"])
                if "known" in found:
                    rows.setdefault(f"{name}: known effects alone", {})[seed] = found["known"]
                rows.setdefault(name, {})[seed] = found["scores"]
    head = HEAD.format(
        screen=screen(PERTURBATIONS, seeds[0]),
        pretrained=PRETRAINED,
        epochs=epochs,
        done=done,
        all=len(PRIORS) * len(seeds),
        code=", ".join(sorted(revisions)),
    )
    tables = [
        score_table(
            f"{part} perturbations",
            {title: [scores[part] for scores in found.values()] for title, found in rows.items()},
        )
        for part in (SEEN, NEW)
    ]
    return "\n".join([head, *tables[0], "", *tables[1], "", *verdicts(rows), ""])


def verdicts(rows: Rows) -> list[str]:
    """Return a line for each comparison whose seeds are all there."""
    lines = []
    for one, other, part in COMPARED:
        mine, theirs = rows.get(one, {}), rows.get(other, {})
        for metric in METRICS if mine and mine.keys() == theirs.keys() else ():
            pair = ([found[seed][part] for seed in mine] for found in (mine, theirs))
            name = f"{metric}, {part} perturbations"
            lines.append(verdict(name, one, other, gains(metric, *pair)))
    return lines


def main() -> None:
    """Do the runs that are missing and write the page."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--epochs", type=int, default=16)
    made.add_argument("--folder", type=Path, default=Path("runs/priors"))
    made.add_argument("--page", type=Path, default=Path("docs/priors.md"))
    given = made.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(1, given.seeds + 1):
        for name in PRIORS:
            asked = given.folder, name, seed, given.epochs
            found = kept(file_of(*asked), lambda asked=asked: do(*asked))
            print(f"seed {seed}, {name}: {json.dumps(found['scores'])}", flush=True)
            # The page is part of the tree, whose state each run notes: it is written last.
            text = page(given.folder, range(1, given.seeds + 1), given.epochs)
            (given.folder / "page.md").write_text(text)
    given.page.write_text(text)
    print(f"wrote {given.page}")


if __name__ == "__main__":
    with one_line_errors("compare_priors"):
        main()
