"""The evaluate stage: two standards of scores beside what has to be beaten, and the report."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.evaluate.baselines import (
    KNOWN_EFFECTS,
    MEAN_DELTA,
    MODEL,
    baseline_means,
    contenders,
)
from components.evaluate.calibrated import calibrate
from components.evaluate.checks import (
    check_cells,
    check_genes,
    check_means,
    check_same_splits,
)
from components.evaluate.findings import Findings
from components.evaluate.markdown import headline_text, markdown
from components.evaluate.pair import Pair, pair_of
from components.evaluate.repeat import repeat_command
from components.evaluate.report import Origin, write_report
from components.evaluate.ridge import vectors_of
from components.evaluate.summary import (
    HEADLINE_METRIC,
    SCORES_FILE,
    SUMMARY_FILE,
    described,
    long_table,
)
from components.evaluate.training import training_pseudobulks
from components.evaluate.yardstick import Yardstick
from components.shared.artifact import EVALUATION, GENE_PRIOR, Artifact, opening, writing
from components.shared.cells import Cells
from components.shared.errors import InputError
from components.shared.predictions import KNOWN_MEANS, MEANS, Predictions
from components.shared.rank_cells import RANK
from components.shared.splits import CONTROL_BOTH, Splits


@dataclass(frozen=True)
class Knowledge:
    """What predictions without a model are made of: nothing of the test cells."""

    means: dict[str, NDArray[np.float64]]
    """Each baseline's mean for each perturbation, [perturbations, genes of the cells]."""
    fallbacks: dict[str, list[str]]
    """By baseline, the perturbations that it knows nothing of."""
    genes: list[str]
    controls: Any
    """Basal controls of the test line, CSR [controls, genes]."""


def evaluate(
    predictions: Path | str,
    cells: Path | str,
    splits: Path | str,
    target: Path | str,
    *,
    prior: Path | str | None = None,
    threads: int = 0,
    cache: Path | str | None = None,
    repeat: str = "",
) -> None:
    """Score predictions by cell-eval and cell-eval2, beside baselines and the data's ceiling.

    Writes the tables that the README lists, `metrics.json`, `summary.md` and `report.html`.

    Args:
        predictions: predictions artifact.
        cells: cells artifact the splits were made from; baselines come from its training cells.
        splits: splits artifact the predictions were made with.
        target: folder of the evaluation artifact.
        prior: gene prior artifact, for the baseline that knows nothing but it; None = without.
        threads: CPU threads; 0 = all available.
        cache: folder that keeps what is computed of the measured cells and of the model's, for the
            next model or seed and for a run that was cut off; None = keep nothing.
        repeat: the command that repeats the run, for the report; empty = as far as the artifacts
            know it.

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
    table = opening(prior, GENE_PRIOR) if prior is not None else None
    check_same_splits(given.artifact, split)
    pair = pair_of(given.on_disk, str(given.file))
    check_genes(pair, opened.genes, str(given.file))
    check_cells(pair, split, str(given.file))
    kind = check_means(given.on_disk, pair, str(given.file))

    inputs = {"predictions": given.artifact, "cells": opened.artifact, "splits": split.artifact}
    inputs |= {"gene_prior": table} if table else {}
    parameters = {"threads": threads, "repeat": repeat}
    with writing(target, EVALUATION, parameters=parameters, inputs=inputs) as draft:
        knowledge = _knowledge(pair, opened, split, table)
        own = np.asarray(given.on_disk.varm[MEANS]).T
        if KNOWN_MEANS in given.on_disk.varm:
            known = np.asarray(given.on_disk.varm[KNOWN_MEANS], float).T
            knowledge.means[KNOWN_EFFECTS] = in_order(known, pair.genes, opened.genes)
        yardstick = Yardstick.of(pair, threads=threads, cache=Path(cache) if cache else None)
        found = _scores(yardstick, own, kind, knowledge)
        origin = Origin(
            split.test_line,
            split.train_lines,
            shared_controls=len(split.rows(CONTROL_BOTH, line=split.test_line)),
            inputs=inputs,
            repeat=repeat or repeat_command(inputs),
        )
        _write(found, origin, draft.path)
        draft.summary |= _summary(found.numbers, split.test_line)
    print(headline_text(found), flush=True)
    print(f"evaluate: wrote {Path(target)}; open {Path(target) / 'report.html'}", flush=True)


def _knowledge(pair: Pair, cells: Cells, splits: Splits, prior: Artifact | None) -> Knowledge:
    training = training_pseudobulks(cells, splits)
    asked = {*training.perturbations, *pair.perturbations}
    vectors = vectors_of(prior, asked) if prior else None
    means, fallbacks = baseline_means(training, pair.perturbations, vectors)
    return Knowledge(means, fallbacks, cells.genes, cells.rows(splits.basal(splits.test_line)))


def _scores(
    yardstick: Yardstick, own: NDArray[np.floating], kind: str, knowledge: Knowledge
) -> Findings:
    """Hold every prediction, and the measured cells themselves, against the measured cells."""
    pair, outcomes = yardstick.pair, {}
    for name, prediction in contenders(
        pair, own, knowledge.means, knowledge.genes, knowledge.controls, ranked=kind == RANK
    ):
        with _timed(name):
            outcomes[name] = yardstick.examine(prediction, what=name)
    if HEADLINE_METRIC in outcomes[MODEL].not_computed:
        raise RuntimeError(f"no {HEADLINE_METRIC}: {outcomes[MODEL].not_computed}")
    with _timed("the measured cells themselves"):
        ceiling = yardstick.ceiling()
    raw = {name: outcome.calibrated for name, outcome in outcomes.items()}
    calibrated = calibrate(raw, raw[MEAN_DELTA], ceiling.replicate) if ceiling else None
    return Findings(pair, kind, outcomes, ceiling, calibrated, knowledge.fallbacks)


def in_order(means: NDArray[np.float64], genes: list[str], wanted: list[str]) -> Any:
    """Return means [perturbations, genes] with columns in the order of ``wanted``, 0 for others."""
    found = pd.Index(genes).get_indexer(pd.Index(wanted))
    return np.where(found >= 0, means[:, found], 0.0)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Say on standard error how long something took."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    print(f"evaluate: scored {what} in {took:.1f} s", file=sys.stderr, flush=True)


def _write(found: Findings, origin: Origin, folder: Path) -> None:
    """Write every file of the artifact."""
    found.model.table.write_csv(folder / "results.csv")
    described(found.model.table).write_csv(folder / "agg_results.csv")
    tables = {
        SCORES_FILE: long_table(found.scores),
        SUMMARY_FILE: found.summary,
        "comparisons.csv": found.comparisons,
        "strata.csv": found.strata,
        "perturbations.csv": found.groups.rename_axis("perturbation").reset_index(),
        "undefined.csv": found.undefined,
        "calibration.csv": found.calibration,
        "called_by_expression.csv": found.by_expression,
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
    text = json.dumps(found.numbers, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n")
    (folder / "summary.md").write_text(markdown(found, origin), encoding="utf-8")
    write_report(found, origin, folder / "report.html")


def _summary(numbers: dict[str, Any], test_line: str) -> dict[str, Any]:
    means = {MODEL: numbers["model"], **numbers["baselines"]}
    return {
        "test_line": test_line,
        "perturbations": numbers["perturbations"],
        "perturbations_seen": numbers["perturbations_seen"],
        "perturbations_unseen": numbers["perturbations_unseen"],
        **{f"{HEADLINE_METRIC}/{name}": values[HEADLINE_METRIC] for name, values in means.items()},
    }
