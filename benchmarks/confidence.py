"""How far expectations and the factor hold, on generated screens whose test line is measured.

    python -m benchmarks.confidence [--seeds 5] [--networks 3] [--folder runs/confidence]

Screens are predicted by known effects alone, without a network: as they are; with two training
lines; of few cells; with a third of the perturbations in no training line, with and without a prior
that knows them; and without signal. Then small models are trained to see whether the factor suits
what a network predicts. Finished runs are kept as JSON and not done again; docs/confidence.md is
written after each.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.ablation import TEST_LINE, TRAIN_LINES, TestLine
from components.evaluate.trust import kept_surest
from components.finetune.confidence import confidence
from components.finetune.deltas import line_deltas
from components.finetune.effects import known_effects
from components.finetune.left_out import Screen
from components.finetune.loading import load_training_data
from components.finetune.validation import pearson
from components.ingest.ingest import ingest
from components.shared.cells import Cells
from components.shared.confidence import (
    MEASURED,
    Confidence,
    control_similarity,
)
from components.shared.perturbation import CONTROL
from components.shared.splits import TRAIN, UNUSED, Splits
from components.shared.tokens import GeneTokens
from components.shared.training_effects import training_effects
from components.split.split import split

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
UNSEEN = 1 / 3
"""Of the perturbations, where some train in no line."""
KNOWN_BUT_FOR = 0.15
"""Noise on the strength of each module that the prior's vectors hold."""


@dataclass(frozen=True)
class Case:
    """A kind of generated screen."""

    name: str
    cells: int = 12000
    genes: int = 600
    perturbations: int = 80
    lines: int = 3
    unseen: bool = False
    prior: bool = False
    shuffled: str = ""
    """What is shuffled among a line's cells: `perturbed` keeps what all share, `all` nothing."""

    def screen(self, seed: int) -> str:
        """Return the URI of a seed's screen."""
        return (
            f"sim://screen?cells={self.cells}&genes={self.genes}"
            f"&perturbations={self.perturbations}&lines=4&seed={seed}"
        )


CASES = (
    Case("three training lines"),
    Case("many cells", cells=30000, genes=800, perturbations=120),
    Case("few cells", cells=5000, genes=1000, perturbations=60),
    Case("two training lines", lines=2),
    Case("a third in no training line", unseen=True),
    Case("the same, a prior knows them", unseen=True, prior=True),
    Case("labels of perturbed cells shuffled", shuffled="perturbed"),
    Case("all labels shuffled", shuffled="all"),
)


def cells_of(uri: str, folder: Path) -> Path:
    """Return where a screen's cells are, made where they are not there yet."""
    target = folder / uri.split("?")[1].replace("&", "-").replace("=", "")
    if not target.exists():
        ingest(uri, target)
    return target


def splits_of(case: Case, seed: int, cells: Path) -> Path:
    """Return where a case's split is, made where it is not there yet."""
    target = cells.with_name(f"{cells.name}-{case.lines}-lines")
    if not target.exists():
        split(
            cells,
            target,
            train_lines=TRAIN_LINES[: case.lines],
            test_line=TEST_LINE,
            val_fraction=0.0,
            restrict_test_to_training=False,
            seed=seed,
        )
    return target


def changed(splits: Splits, case: Case, seed: int) -> Splits:
    """Return a split whose labels are shuffled, or where some perturbations do not train."""
    table = splits.table.copy()
    rng = np.random.default_rng([seed, 8])
    if case.unseen:
        names = sorted(set(table["perturbation"]) - {CONTROL})
        hidden = rng.choice(names, round(UNSEEN * len(names)), replace=False)
        table.loc[table["perturbation"].isin(hidden) & (table["role"] == TRAIN), "role"] = UNUSED
    if case.shuffled:
        values = table[["perturbation", "role"]].to_numpy(object)
        for line in sorted(set(table["cell_line"])):
            own = table["cell_line"] == line
            if case.shuffled == "perturbed":
                own &= table["perturbation"] != CONTROL
            rows = np.flatnonzero(own)
            values[rows] = values[rng.permutation(rows)]
        table[["perturbation", "role"]] = values
    return replace(splits, table=table)


def vectors_of(cells: Cells, labels: Sequence[str], seed: int) -> Floats:
    """Return vectors that know how much each perturbation moves each module, about."""
    truth = np.load(cells.artifact.path / "truth.npz")
    place = {str(name): i for i, name in enumerate(truth["perturbations"])}
    noise = np.random.default_rng([seed, 9]).normal(0, KNOWN_BUT_FOR, truth["loadings"].shape)
    found = np.zeros((len(labels), noise.shape[1]))
    for row, label in enumerate(labels):
        if label in place:
            found[row] = (truth["loadings"] + noise)[place[label]]
    return found


def do(case: Case, seed: int, folder: Path) -> dict[str, Any]:
    """Predict a screen's test line by known effects, and score it."""
    torch.set_num_threads(1)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        cells = Cells.open(cells_of(case.screen(seed), folder))
        splits = Splits.open(splits_of(case, seed, cells.artifact.path), cells)
        splits = changed(splits, case, seed)
        tokens = GeneTokens.of(cells.genes, {gene: i for i, gene in enumerate(cells.genes)})
        data = load_training_data(cells, splits, tokens, CPU, token_for_unmeasured=True)
        labels, deltas = data.perturbations, [line_deltas(data)]
        vectors = vectors_of(cells, labels, seed) if case.prior else None
        known = known_effects(labels, deltas, vectors)
        training = training_effects(cells, splits)
        screen = Screen(labels, cells.genes, deltas, vectors, training)
        found = confidence(screen, known)
        line = TestLine.of(cells, splits)
    rows = pd.Index(labels).get_indexer(pd.Index(line.perturbations))
    similarity = control_similarity(line.control, cells.genes, training)
    return _scores(line, known.change[-1].numpy().astype(float)[rows], found, similarity)


def _scores(line: TestLine, change: Floats, found: Confidence, similarity: float) -> dict[str, Any]:
    """Hold what was expected, and the factor, against what the test line measured.

    Args:
        line: the test line.
        change: predicted, before the factor, [perturbations, genes].
        found: what the training lines tell.
        similarity: of the test line's controls to training's.
    """
    expected = found.expected(line.perturbations, similarity)
    means = {s: np.maximum(line.control + s * change, 0.0) for s in (0.0, 1.0, found.scale)}
    own = _rows(pearson, means[1.0] - line.control, line.measured)
    shared = _rows(pearson, means[1.0] - line.reference, line.measured)
    scaled = _rows(pearson, means[found.scale] - line.control, line.measured)
    trained = (expected["known"] == MEASURED).to_numpy()
    facts: dict[str, Any] = {"scale": found.scale, "best": _best_scale(change, line)}
    for name, rows in (("trained", trained), ("untrained", ~trained)):
        if rows.any():
            facts[name] = _expected(expected[rows], own[rows], shared[rows])
    for name, mean in zip(("nothing", "whole", "scaled"), means.values(), strict=False):
        missed = mean - line.reference - line.measured
        facts |= {f"mae/{name}": float(np.abs(missed).mean())}
        facts |= {f"mse/{name}": float(np.square(missed).mean())}
    facts["pearson_moved"] = float(np.nanmean(scaled) - np.nanmean(own))
    return facts


def _best_scale(change: Floats, line: TestLine) -> float:
    """Return the factor that no one can know: with the least squared error in the test line."""
    measured = line.measured + line.reference - line.control
    return float((change * measured).sum() / np.square(change).sum())


def _rows(score: Any, a: Floats, b: Floats) -> Floats:
    return np.array([score(x, y) for x, y in zip(a, b, strict=True)])


def _expected(table: pd.DataFrame, reached: Floats, shared: Floats) -> dict[str, float]:
    expected = table["expected_pearson_delta"].to_numpy(float)
    low, high = (table[f"expected_{end}"].to_numpy(float) for end in ("low", "high"))
    return {
        "perturbations": len(table),
        "expected": float(np.mean(expected)),
        "reached": float(np.nanmean(reached)),
        "reached_shared": float(np.nanmean(shared)),
        "rank": _rank(expected, reached),
        "rank_shared": _rank(expected, shared),
        "covered": float(np.mean((reached >= low) & (reached <= high))),
        "covered_shared": float(np.mean((shared >= low) & (shared <= high))),
        "width": float(np.mean(high - low)),
        "missed": float(np.sqrt(np.nanmean(np.square(expected - reached)))),
        "surest_third": kept_surest(expected, reached, 1 / 3),
    }


def _rank(a: Floats, b: Floats) -> float:
    return float(pd.Series(a).corr(pd.Series(b), method="spearman")) if np.ptp(a) > 0 else np.nan
