"""The evaluate stage: two standards of scores beside what has to be beaten, and the report."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from anndata import AnnData
from numpy.typing import NDArray

from components.evaluate.contenders.baselines import baseline_means, contenders
from components.evaluate.contenders.ridge import vectors_of
from components.evaluate.contenders.yardstick import Yardstick
from components.evaluate.inputs import checks, training_lines
from components.evaluate.inputs.pair import Pair, predicted_of
from components.evaluate.inputs.training_lines import Training, basal_mean, no_training
from components.evaluate.measures.batch_matched import matched_change
from components.evaluate.measures.calibrated import calibrate
from components.evaluate.measures.strata import long_table
from components.evaluate.pages.effect_tables import Effects, asked_of, read_asked, write_effects
from components.evaluate.pages.explorer import Explored, write_explorer
from components.evaluate.pages.findings import Findings
from components.evaluate.pages.report import Origin, write_report
from components.evaluate.pages.report_markdown import headline_text, markdown
from components.evaluate.pages.summary import PERTURBATIONS, PREDICTED, described, nothing_scored
from components.evaluate.pages.trust import Trust, reached_of, trust, trust_section
from components.shared.artifacts import evaluation
from components.shared.artifacts.artifact import EVALUATION, GENE_PRIOR, Artifact, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import CONFIDENCE_FILE, Confidence
from components.shared.artifacts.evaluation import HEADLINE_METRIC, MEAN_DELTA, MODEL, REPORT_FILE
from components.shared.artifacts.matched_controls import BATCH, batches_of
from components.shared.artifacts.normalisation import unit_of
from components.shared.artifacts.predictions import KNOWN_MEANS, MATCH_BATCHES, MEANS, Predictions
from components.shared.artifacts.splits import CONTROL_BOTH, Splits
from components.shared.findings.limitations import limitations
from components.shared.findings.verdict import verdict
from components.shared.model.checkpoint_files import STATS_FILE
from components.shared.model.rank_cells import RANK
from components.shared.parameters.repeat import make_command
from components.shared.parameters.stage_options import INGEST_OPTIONS, SPLIT_OPTIONS
from components.shared.storage.documents import read_json
from components.shared.telling.addresses import dataset_of
from components.shared.telling.errors import InputError, say
from components.shared.telling.spreadsheet import no_formula, without_formulas

INGEST = {
    "dataset": "source",
    "perturbation_column": "perturbation_column",
    "cell_line_column": "cell_line_column",
    "control_label": "control",
}
"""Pipeline parameter to the parameter of the ingest task it became."""
EMPTY: tuple[Any, ...] = (None, "", [], (), {})
"""Values of options that were not given, as artifacts and as signatures spell them."""


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

    Only what was measured is scored; what was requested and not measured is in the tables of
    effects, and in the report, all the same. Writes the files that the README lists.

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
    checks.check_same_splits(given.artifact, split)
    where = str(given.file)
    whole, pair = predicted_of(given.on_disk, where)
    checks.check_genes(whole, opened.genes, where)
    said = read_asked(given.artifact.path)
    asked = asked_of(whole, pair.perturbations if pair else [], said, given.artifact.path)
    checks.check_cells(
        whole, pair, split, None if said is None else set(asked["perturbation"]), where
    )
    kind = checks.check_means(given.on_disk, whole, where)
    training = training_lines.known_of_training(opened, split, given.artifact.path)
    if pair and training is None:
        raise no_training(split)

    inputs = {"predictions": given.artifact, "cells": opened.artifact, "splits": split.artifact}
    inputs |= {"gene_prior": table} if table else {}
    parameters = {"threads": threads, "repeat": repeat}
    with writing(target, EVALUATION, parameters=parameters, inputs=inputs) as draft:
        control = basal_mean(opened, split)
        effects = Effects(
            whole.perturbations,
            whole.genes,
            control[pd.Index(opened.genes).get_indexer(pd.Index(whole.genes))],
            _means(given.on_disk, MEANS),
            _means(given.on_disk, KNOWN_MEANS) if KNOWN_MEANS in given.on_disk.varm else None,
            None,
            training,
            asked,
        )
        found = by_batch = None
        if pair and training:
            baselines = Training.of(training, control, opened.genes)
            yardstick = Yardstick.of(pair, threads=threads, cache=Path(cache) if cache else None)
            found, by_batch = _scored(
                given, effects, opened, split, baselines, table, yardstick, kind
            )
            effects = replace(effects, measured=yardstick.measured.side)
        stats = _stats(given.artifact)
        origin = Origin(
            split.test_line,
            split.train_lines or effects.lines,
            shared_controls=len(split.rows(CONTROL_BOTH, line=split.test_line)),
            inputs=inputs,
            run=dataset_of(opened.artifact.summary) | stats.get("known_by", {}),
            repeat=repeat or repeat_command(inputs),
            unit=unit_of(opened.target_sum),
        )
        labelled = effects.table(found.model.metrics[HEADLINE_METRIC] if found else None)
        numbers = found.numbers if found else nothing_scored(origin.why_not_scored, kind)
        numbers |= {PREDICTED: len(labelled), "run": dict(origin.run)}
        if found:
            scored = labelled["perturbation"].isin(found.pair.perturbations)
            numbers["predicted_strength"] = float(labelled["predicted_strength"][scored].mean())
        numbers |= {"batch_matched": by_batch} if by_batch else {}
        if stats:
            about = given.artifact.summary, numbers, split.artifact.summary
            numbers["limitations"] = limitations(stats, *about)
        told = _trust(given.artifact, effects)
        numbers |= {"trust": told.numbers} if told else {}
        _write(found, effects, labelled, numbers, origin, draft.path, told)
        draft.summary |= _summary(numbers, split.test_line)
    print(f"evaluate: {verdict(numbers)}\n{headline_text(found, labelled, origin)}", flush=True)
    print(f"evaluate: wrote {Path(target)}; open {Path(target) / REPORT_FILE}", flush=True)


def _stats(predictions: Artifact) -> dict[str, Any]:
    """Return how the model was trained, empty where the predictions do not bring it along."""
    file = predictions.path / STATS_FILE
    return read_json(file, str(file), "run the predict task again") if file.is_file() else {}


def _means(adata: AnnData, name: str) -> NDArray[np.floating]:
    """Return means that a predictions file holds, [perturbations, genes]."""
    return np.asarray(adata.varm[name]).T


def _scored(
    given: Predictions,
    effects: Effects,
    cells: Cells,
    splits: Splits,
    training: Training,
    prior: Artifact | None,
    yardstick: Yardstick,
    kind: str,
) -> tuple[Findings, dict[str, Any] | None]:
    """Score predictions and baselines; return the scores, and those within batches if there are."""
    pair = yardstick.pair
    vectors = vectors_of(prior, {*training.perturbations, *pair.perturbations}) if prior else None
    means, fallbacks = baseline_means(training, pair.perturbations, vectors)
    rows = pd.Index(effects.perturbations).get_indexer(pd.Index(pair.perturbations))
    if effects.known_means is not None:
        known = effects.known_means[rows].astype(float)
        means[evaluation.KNOWN_EFFECTS] = in_order(known, pair.genes, cells.genes)
    basal = splits.basal(splits.test_line)
    matched = given.artifact.summary.get(MATCH_BATCHES) and BATCH in pair.obs
    batches = batches_of(cells) if matched else None
    predicted = contenders(
        pair,
        effects.means[rows],
        means,
        cells.genes,
        cells.rows(basal),
        ranked=kind == RANK,
        batches=None if batches is None else batches[basal],
    )
    found = _scores(yardstick, predicted, kind, fallbacks)
    means = {MODEL: in_order(effects.means[rows].astype(float), pair.genes, cells.genes)} | means
    by_own = matched_change(cells, splits, pair.perturbations)
    changes = {name: mean - training.control for name, mean in means.items()}
    scores = by_own.scores(changes, pair.perturbations, cells.genes) if by_own else None
    return found, scores


def _scores(
    yardstick: Yardstick,
    predictions: Iterable[tuple[str, Pair]],
    kind: str,
    fallbacks: Mapping[str, list[str]],
) -> Findings:
    """Hold every prediction, and the measured cells themselves, against the measured cells."""
    outcomes = {}
    for name, prediction in predictions:
        with _timed(f"scored {name}"):
            outcomes[name] = yardstick.examine(prediction, what=name)
    if HEADLINE_METRIC in outcomes[MODEL].not_computed:
        raise InputError(
            f"{HEADLINE_METRIC} cannot be computed of these cells, nor what is built on it: "
            f"{outcomes[MODEL].not_computed[HEADLINE_METRIC]}"
        )
    with _timed("scored the measured cells themselves"):
        ceiling = yardstick.ceiling()
    raw = {name: outcome.calibrated for name, outcome in outcomes.items()}
    calibrated = calibrate(raw, raw[MEAN_DELTA], ceiling.replicate) if ceiling else None
    return Findings(yardstick.pair, kind, outcomes, ceiling, calibrated, fallbacks)


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
    say(f"evaluate: {what} in {took:.1f} s")


def _write(
    found: Findings | None,
    effects: Effects,
    table: pd.DataFrame,
    numbers: dict[str, Any],
    origin: Origin,
    folder: Path,
    told: Trust | None,
) -> None:
    """Write every file of the artifact."""
    if found:
        _write_scores(found, folder)
    with _timed("wrote effects"):
        write_effects(effects, table, folder)
    text = json.dumps(numbers, indent=2, allow_nan=False)
    (folder / evaluation.METRICS_FILE).write_text(text + "\n")
    page = markdown(found, table, origin, verdict(numbers))
    (folder / evaluation.SUMMARY_PAGE).write_text(page, encoding="utf-8")
    section = trust_section(told) if told else ""
    write_report(found, effects, table, origin, numbers, folder / REPORT_FILE, trust=section)
    if effects.training:
        with _timed("wrote the explorer"):
            measured = effects.measured_of(0, len(effects.perturbations))
            explored = Explored(
                origin.test_line,
                effects.genes,
                table.reset_index(drop=True),
                effects.control,
                effects.change(),
                measured["measured_change"],
                measured["fdr"] if effects.measured else None,
                effects.training,
            )
            write_explorer(explored, origin, folder / evaluation.EXPLORER_FILE)


def _trust(predictions: Artifact, effects: Effects) -> Trust | None:
    """Return what the model brought along about trust, None where it brought nothing."""
    file = predictions.path / CONFIDENCE_FILE
    if not file.is_file() or "expected_pearson_delta" not in effects.asked:
        return None
    scale = float(predictions.summary.get("scale", 1.0))
    return trust(effects.asked, reached_of(effects), Confidence.read(file), scale)


def _write_scores(found: Findings, folder: Path) -> None:
    """Write the tables of scores, in which every perturbation was measured."""
    results = found.model.table.with_columns(
        pl.col("perturbation").map_elements(no_formula, return_dtype=pl.String)
    )
    results.write_csv(folder / evaluation.RESULTS_FILE)
    described(results).write_csv(folder / evaluation.AGGREGATED_FILE)
    tables = {
        evaluation.SCORES_FILE: long_table(found.scores),
        evaluation.SUMMARY_FILE: found.summary,
        evaluation.COMPARISONS_FILE: found.comparisons,
        evaluation.STRATA_FILE: found.strata,
        evaluation.GROUPS_FILE: found.groups.rename_axis("perturbation").reset_index(),
        evaluation.UNDEFINED_FILE: found.undefined,
        evaluation.CALIBRATION_FILE: found.calibration,
        evaluation.CALLED_FILE: found.by_expression,
    }
    for name, table in tables.items():
        without_formulas(table).to_csv(folder / name, index=False)


def _summary(numbers: dict[str, Any], test_line: str) -> dict[str, Any]:
    means = {MODEL: numbers["model"], **numbers["baselines"]} if numbers["scored"] else {}
    return {
        "test_line": test_line,
        "scored": numbers["scored"],
        **{name: numbers[name] for name in (PREDICTED, *PERTURBATIONS)},
        **{f"{HEADLINE_METRIC}/{name}": values[HEADLINE_METRIC] for name, values in means.items()},
    }


def repeat_command(inputs: Mapping[str, Artifact]) -> str:
    """Return the `make run` line, empty where nothing says where the cells or the model are from.

    What the training was told (recipe, overrides) is in the model's `training_stats.json`, which
    an evaluation does not see: the line leaves it to the parameter file. ``inputs`` are the
    evaluation's: cells, splits, predictions and, where one was given, gene_prior.
    """
    given = {name: artifact.provenance["parameters"] for name, artifact in inputs.items()}
    cells, splits = given["cells"], given["splits"]
    if "source" not in cells or splits.get("train_lines") == []:  # a finished model was applied
        return ""
    found = {name: cells[own] for name, own in INGEST.items() if own in cells}
    found |= {name: splits[name] for name in ("train_lines", "test_line") if name in splits}
    prior = given.get("gene_prior", {})
    found |= {
        name: prior[own]
        for name, own in (("prior", "uri"), ("pretrained", "vocabulary"))
        if own in prior
    }
    found |= {"seed": splits["seed"]} if "seed" in splits else {}
    for name, own, defaults in (
        ("ingest_options", cells, INGEST_OPTIONS),
        ("split_options", splits, SPLIT_OPTIONS),
    ):
        if said := {
            key: own[key] for key in defaults if key in own and _told(own[key], defaults[key])
        }:
            found[name] = said
    return make_command("run", found, "<parameter file of the run>")


def _told(value: Any, usual: Any) -> bool:
    """Return whether an option must be said: it is not the default."""
    return value != usual and not (value in EMPTY and usual in EMPTY)
