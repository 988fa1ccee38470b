"""The evaluate stage: cell-eval's metrics beside the baselines to beat and the data's ceiling."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.evaluate.baselines import (
    baseline_means,
    baseline_pairs,
    training_pseudobulks,
)
from components.evaluate.checks import check_cells, check_means, check_same_splits
from components.evaluate.measured import Measured
from components.evaluate.metrics import CELLS, HEADLINE, LOWER, MEANS, names_of
from components.evaluate.pair import Pair, pair_of
from components.evaluate.report import Evaluation, write_report
from components.evaluate.scoring import Score, ceiling, score, step
from components.evaluate.summary import HEADLINE_METRIC, baseline_table, compare, metrics_json
from components.shared.artifact import EVALUATION, writing
from components.shared.cells import Cells
from components.shared.errors import InputError
from components.shared.predictions import CELLS_KIND, Predictions
from components.shared.rank_cells import RANK
from components.shared.splits import Splits


def evaluate(
    predictions: Path | str,
    cells: Path | str,
    splits: Path | str,
    target: Path | str,
    *,
    threads: int = 0,
) -> None:
    """Score predictions with cell-eval, beside three baselines and the ceiling of the data.

    Writes `results.csv` and `agg_results.csv` as `cell-eval run` writes them, `baselines.csv`,
    `ceiling.csv`, `metrics.json` and `report.html`.

    Args:
        predictions: predictions artifact.
        cells: cells artifact the splits were made from; baselines come from its training cells.
        splits: splits artifact the predictions were made with.
        target: folder of the evaluation artifact.
        threads: CPU threads; 0 = all available.

    Raises:
        InputError: an artifact that cannot be used, controls that are not the test line's
            reference controls, labels that are not bare, values that are no log1p expression,
            cells whose mean is not the predicted one.
    """
    if threads < 0:
        raise InputError(f"threads: {threads}; expected 0 (all available CPUs) or more")
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    given = Predictions.open(predictions)
    check_same_splits(given.artifact, split)
    pair = pair_of(given.anndata, str(given.file))
    check_cells(pair, split, str(given.file))
    kind = check_means(given.anndata, pair, str(given.file))

    inputs = {"predictions": given.artifact, "cells": opened.artifact, "splits": split.artifact}
    with writing(target, EVALUATION, parameters={"threads": threads}, inputs=inputs) as draft:
        model, baselines, highest, fallbacks = _scores(pair, kind, opened, split, threads)
        seen = _seen(pair)
        own = model.metrics[HEADLINE_METRIC]
        comparisons = {
            name: compare(own, score.metrics[HEADLINE_METRIC]) for name, score in baselines.items()
        }
        numbers = metrics_json(model, baselines, highest, seen) | {
            "perturbations_without_de": _without_de(model),
            "same_perturbation_fallbacks": len(fallbacks),
            "comparisons": {name: asdict(found) for name, found in comparisons.items()},
            CELLS_KIND: kind,
            "metrics_of": {what: names_of(what, model.table.columns) for what in (MEANS, CELLS)},
            "cell_eval": version("cell-eval"),
        }
        model.table.write_csv(draft.path / "results.csv")
        model.aggregate.write_csv(draft.path / "agg_results.csv")
        baseline_table(baselines).to_csv(draft.path / "baselines.csv", index=False)
        highest.to_csv(draft.path / "ceiling.csv")
        text = json.dumps(numbers, indent=2, allow_nan=False)
        (draft.path / "metrics.json").write_text(text + "\n")
        facts = Evaluation(
            pair=pair,
            model=model,
            baselines=baselines,
            ceiling=highest,
            comparisons=comparisons,
            seen=seen,
            fallbacks=fallbacks,
            numbers=numbers,
            test_line=split.test_line,
            train_lines=split.train_lines,
            digests={name: artifact.digest for name, artifact in inputs.items()},
        )
        write_report(facts, draft.path / "report.html")
        draft.summary |= _summary(numbers, split.test_line)
    print(headline_text(numbers), flush=True)
    print(
        f"evaluate: wrote {Path(target)}: results.csv, agg_results.csv, baselines.csv, "
        f"ceiling.csv, metrics.json; open {Path(target) / 'report.html'}",
        flush=True,
    )


def _scores(
    pair: Pair, kind: str, cells: Cells, splits: Splits, threads: int
) -> tuple[Score, dict[str, Score], pd.DataFrame, list[str]]:
    """Return the model's score, the baselines', the ceiling and the perturbations fallen back."""
    means, fallbacks = baseline_means(training_pseudobulks(cells, splits), pair.perturbations)
    steps = len(means) + 2
    size = (
        f"{len(pair.obs)} cells, {len(pair.genes)} genes, {len(pair.perturbations)} perturbations"
    )
    with step(1, steps, f"cell-eval of the model ({size})"):
        measured = Measured.of(pair, threads=threads)
        model = score(pair, threads=threads, measured=measured)
    if HEADLINE_METRIC not in model.table.columns:
        raise RuntimeError(f"cell-eval computed no {HEADLINE_METRIC}: {model.not_computed}")
    baselines = {}
    controls = cells.rows(splits.basal(splits.test_line)) if kind == RANK else None
    pairs = baseline_pairs(pair, means, cells.genes, controls)
    for number, (name, other) in enumerate(pairs, start=2):
        with step(number, steps, f"cell-eval of the baseline {name}"):
            baselines[name] = score(other, threads=threads, measured=measured)
    with step(steps, steps, "cell-eval of the data's ceiling"):
        found = ceiling(pair, threads=threads)
    highest = found.table if found else pd.DataFrame(columns=["half_depth", "ceiling", "n_nan"])
    return model, baselines, highest, fallbacks


def _seen(pair: Pair) -> pd.Series:
    """Return whether training had each perturbation."""
    flags = pair.obs["seen_in_training"].to_numpy(bool)
    return pd.Series(flags).groupby(pair.labels).any().drop(pair.control)


def _without_de(model: Score) -> int | None:
    """Return how many perturbations have no measured differentially expressed gene."""
    counts = model.metrics.get("de_nsig_counts_real")
    return None if counts is None else int(np.sum(counts == 0))


def _summary(numbers: dict[str, Any], test_line: str) -> dict[str, Any]:
    means = {"model": numbers["model"], **numbers["baselines"]}
    return {
        "test_line": test_line,
        "perturbations": numbers["perturbations"],
        "perturbations_seen": numbers["perturbations_seen"],
        "perturbations_unseen": numbers["perturbations_unseen"],
        **{f"{HEADLINE_METRIC}/{name}": values[HEADLINE_METRIC] for name, values in means.items()},
    }


def headline_text(numbers: dict[str, Any]) -> str:
    """Return the headline metrics as a plain table: model, baselines, ceiling."""
    columns = {"model": numbers["model"], **numbers["baselines"], "ceiling": numbers["ceiling"]}
    rows = [["mean over perturbations", *columns]]
    for metric in HEADLINE:
        values = [means.get(metric.name) for means in columns.values()]
        name = f"{metric.name} (lower is better)" if metric.better == LOWER else metric.name
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if not i else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
