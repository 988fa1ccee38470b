"""The evaluate stage: two standards of scores beside what has to be beaten, and the report."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from components.evaluate.contenders.baselines import baseline_means, contenders
from components.evaluate.contenders.ridge import vectors_of
from components.evaluate.contenders.yardstick import Yardstick
from components.evaluate.inputs.opened import Inputs
from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.repeat import repeat_command
from components.evaluate.inputs.training_lines import Training, basal_mean
from components.evaluate.measures.batch_matched import matched_change
from components.evaluate.measures.calibrated import calibrate
from components.evaluate.measures.strata import long_table
from components.evaluate.pages.effect_tables import Effects, write_effects
from components.evaluate.pages.explorer import Explored, write_explorer
from components.evaluate.pages.findings import Findings
from components.evaluate.pages.report import Origin, write_report
from components.evaluate.pages.report_markdown import headline_text, markdown
from components.evaluate.pages.summary import PERTURBATIONS, PREDICTED, described, nothing_scored
from components.evaluate.pages.trust import Trust, reached_of, trust, trust_section
from components.shared.artifacts import evaluation
from components.shared.artifacts.artifact import EVALUATION, Artifact, writing
from components.shared.artifacts.confidence import CONFIDENCE_FILE, Confidence
from components.shared.artifacts.evaluation import HEADLINE_METRIC, MEAN_DELTA, MODEL, REPORT_FILE
from components.shared.artifacts.matched_controls import BATCH, batches_of
from components.shared.artifacts.normalisation import unit_of
from components.shared.artifacts.predictions import KNOWN_MEANS, MATCH_BATCHES, MEANS
from components.shared.artifacts.splits import CONTROL_BOTH
from components.shared.findings.limitations import limitations
from components.shared.findings.verdict import verdict
from components.shared.model.rank_cells import RANK
from components.shared.storage.documents import write_json, write_text
from components.shared.storage.machine import share_freed_memory
from components.shared.telling.addresses import dataset_of
from components.shared.telling.errors import InputError, say
from components.shared.telling.spreadsheet import no_formula, without_formulas


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
    share_freed_memory()  # cells come and go in blocks, in the threads of each contender
    inputs = Inputs.of(predictions, cells, splits, prior)
    artifacts = inputs.artifacts
    parameters = {"threads": threads, "repeat": repeat}
    with writing(target, EVALUATION, parameters=parameters, inputs=artifacts) as draft:
        control = basal_mean(inputs.cells, inputs.splits)
        effects = _effects(inputs, control)
        found = by_batch = None
        if inputs.pair and inputs.training:
            kept = Path(cache) if cache else None
            yardstick = Yardstick.of(inputs.pair, threads=threads, cache=kept)
            training = Training.of(inputs.training, control, inputs.cells.genes)
            found, by_batch = _scored(inputs, training, effects, yardstick)
            effects = replace(effects, measured=yardstick.measured.side)
        origin = _origin(inputs, effects, repeat)
        labelled = effects.table(found.model.metrics[HEADLINE_METRIC] if found else None)
        told = _trust(inputs.predictions.artifact, effects)
        numbers = _numbers(inputs, found, labelled, origin)
        numbers |= {"batch_matched": by_batch} if by_batch else {}
        if inputs.stats:
            about = inputs.predictions.artifact.summary, numbers, inputs.splits.artifact.summary
            numbers["limitations"] = limitations(inputs.stats, *about)
        numbers |= {"trust": told.numbers} if told else {}
        _write(found, effects, labelled, numbers, origin, draft.path, told)
        draft.summary |= _summary(numbers, inputs.splits.test_line)
    print(f"evaluate: {verdict(numbers)}\n{headline_text(found, labelled, origin)}", flush=True)
    of = f"{numbers['perturbations']:,} of {len(labelled):,} perturbations scored"
    print(f"evaluate: wrote {target}: {of}; open {Path(target) / REPORT_FILE}", flush=True)


def _effects(inputs: Inputs, control: NDArray[np.float64]) -> Effects:
    """Return what was predicted as changes of ``control``, with those of the training lines."""
    file, whole, genes = inputs.predictions.on_disk, inputs.predicted, inputs.cells.genes
    return Effects(
        whole.perturbations,
        whole.genes,
        control[pd.Index(genes).get_indexer(pd.Index(whole.genes))],
        np.asarray(file.varm[MEANS]).T,
        np.asarray(file.varm[KNOWN_MEANS]).T if KNOWN_MEANS in file.varm else None,
        None,
        inputs.training,
        inputs.asked,
    )


def _origin(inputs: Inputs, effects: Effects, repeat: str) -> Origin:
    """Return where the evaluation comes from, for its pages."""
    cells, splits = inputs.cells, inputs.splits
    return Origin(
        splits.test_line,
        splits.train_lines or (effects.training.lines if effects.training else []),
        shared_controls=len(splits.rows(CONTROL_BOTH, line=splits.test_line)),
        inputs=inputs.artifacts,
        run=dataset_of(cells.artifact.summary) | inputs.stats.get("known_by", {}),
        repeat=repeat or repeat_command(inputs.artifacts),
        unit=unit_of(cells.target_sum),
    )


def _numbers(
    inputs: Inputs, found: Findings | None, table: pd.DataFrame, origin: Origin
) -> dict[str, Any]:
    """Return what `metrics.json` says of the scores, or why there are none."""
    numbers = found.numbers if found else nothing_scored(origin.why_not_scored, inputs.kind)
    numbers |= {PREDICTED: len(table), "run": dict(origin.run)}
    if found:
        scored = table["perturbation"].isin(found.pair.perturbations)
        numbers["predicted_strength"] = float(table["predicted_strength"][scored].mean())
    return numbers


def _scored(
    inputs: Inputs, training: Training, effects: Effects, yardstick: Yardstick
) -> tuple[Findings, dict[str, Any] | None]:
    """Score predictions and baselines; return the scores, and those within batches if there are."""
    cells, splits, prior, pair = inputs.cells, inputs.splits, inputs.prior, yardstick.pair
    vectors = vectors_of(prior, {*training.perturbations, *pair.perturbations}) if prior else None
    means, fallbacks = baseline_means(training, pair.perturbations, vectors)
    rows = pd.Index(effects.perturbations).get_indexer(pd.Index(pair.perturbations))
    if effects.known_means is not None:
        of_known = effects.known_means[rows]
        means[evaluation.KNOWN_EFFECTS] = in_order(of_known, pair.genes, cells.genes)
    basal = splits.basal(splits.test_line)
    matched = inputs.predictions.artifact.summary.get(MATCH_BATCHES) and BATCH in pair.obs
    batches = batches_of(cells) if matched else None
    predicted = contenders(
        pair,
        effects.means[rows],
        means,
        cells.genes,
        cells.rows(basal),
        ranked=inputs.kind == RANK,
        batches=None if batches is None else batches[basal],
    )
    found = _scores(yardstick, predicted, inputs.kind, fallbacks)
    means = {MODEL: in_order(effects.means[rows], pair.genes, cells.genes)} | means
    by_own = matched_change(cells, splits, pair.perturbations)
    if not by_own:
        return found, None
    # Genes that were not predicted have no change; others are in the order of the cells.
    there = np.isin(cells.genes, pair.genes)
    genes = [gene for gene, predicted in zip(cells.genes, there, strict=True) if predicted]
    changes = {name: (mean - training.control)[:, there] for name, mean in means.items()}
    own = replace(by_own, change=by_own.change[:, there])
    return found, own.scores(changes, pair.perturbations, genes)


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


def in_order(
    means: NDArray[np.floating], genes: list[str], wanted: list[str]
) -> NDArray[np.float64]:
    """Return means [perturbations, genes] with columns in the order of ``wanted``, 0 for others."""
    found = pd.Index(genes).get_indexer(pd.Index(wanted))
    return np.where(found >= 0, np.asarray(means, np.float64)[:, found], 0.0)


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
    write_json(folder / evaluation.METRICS_FILE, numbers)
    page = markdown(found, table, origin, verdict(numbers))
    write_text(folder / evaluation.SUMMARY_PAGE, page)
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
                measured["fdr"],
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
        evaluation.CALIBRATION_FILE: found.calls("calibration"),
        evaluation.CALLED_FILE: found.calls("by_expression"),
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
