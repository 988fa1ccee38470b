"""The HTML report: one file, no network, what a reader needs to believe or doubt the numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Matrix, dense
from components.evaluate.measures import metrics
from components.evaluate.measures.batch_matched import OF_MEANS
from components.evaluate.measures.calibrated import AVERAGE, SCORED
from components.evaluate.measures.diagnosis import CHANCE
from components.evaluate.measures.metrics import CELLS, EVERY, MEANS, OTHERS
from components.evaluate.measures.uncertainty import SMALLEST
from components.evaluate.pages import plots
from components.evaluate.pages.effect_tables import Effects
from components.evaluate.pages.findings import Findings
from components.shared.artifacts import evaluation
from components.shared.artifacts.artifact import Artifact, code_version
from components.shared.artifacts.evaluation import (
    COMPARED,
    HEADLINE_METRIC,
    MODEL,
    SAME_PERTURBATION_DELTA,
)
from components.shared.artifacts.normalisation import USUAL, unit_of
from components.shared.findings.verdict import (
    BEATS,
    FALLS_SHORT,
    standing,
    strongest_baseline,
    verdict,
)
from components.shared.storage.documents import write_text
from components.shared.telling.addresses import unchecked
from components.shared.telling.page import breakable, number, page_css, share, signed, with_contents

SHORT = evaluation.TITLES | {
    evaluation.MEAN_DELTA: "mean delta",
    SAME_PERTURBATION_DELTA: "same perturbation",
    evaluation.HALF: "measured half",
}
EXPLAINED = {
    evaluation.MODEL_MEANS: "the model's predicted mean in every cell: the difference from the "
    "model is what the predicted cells add",
    evaluation.CONTROL_CELLS: "measured basal control cells of the test line, drawn at random: no "
    "effect, but real cells",
    evaluation.CONTROL_MEAN: "the mean of the test line's basal controls: no effect at all",
    evaluation.MEAN_DELTA: "the control mean plus the mean delta over all training lines and "
    "perturbations: the same effect for every perturbation",
    SAME_PERTURBATION_DELTA: "the control mean plus the perturbation's own delta, averaged over "
    "the training lines that have it",
    evaluation.RIDGE: "the control mean plus a delta that ridge regression predicts from the "
    "perturbed gene's vector in the prior, fitted on the training lines",
    evaluation.KNOWN_EFFECTS: "what the prior effects gave the model to start from: the training "
    "lines' deltas with their noise reduced; the model's lead over it is what the network added",
}
MARKS = {BEATS: "better", FALLS_SHORT: "worse"}
DRAWN = (MODEL, SAME_PERTURBATION_DELTA, evaluation.HALF)
"""Whose calls are drawn."""
EXTREMES = 5
STRONGEST = 10
"""Predictions that the report shows of all."""
NAMED = 5
"""Genes that it names of each, up and down."""


@dataclass(frozen=True)
class Origin:
    """Where an evaluation comes from."""

    test_line: str
    train_lines: list[str]
    """Lines that the model was trained on; empty = not known here."""
    shared_controls: int
    """Control cells of the test line that are a model's input and the reference as well."""
    inputs: Mapping[str, Artifact]
    """Artifacts that were read, by name."""
    run: Mapping[str, str]
    """Facts that identify the run, from `origins.facts_of`; empty = not known."""
    repeat: str
    """The command that repeats the run; empty = not known."""
    unit: str = unit_of(USUAL)
    """The unit of expression."""

    @property
    def unchecked(self) -> str:
        """Which files of the data came without a digest of their store's, as a sentence."""
        cells = self.inputs.get("cells")
        return unchecked(str(cells.summary.get("source", ""))) if cells else ""

    @property
    def why_not_scored(self) -> str:
        """Why there are no metrics, where there are none."""
        return f"no perturbed cell of {self.test_line} was measured"


def write_report(
    found: Findings | None,
    effects: Effects,
    table: pd.DataFrame,
    origin: Origin,
    numbers: Mapping[str, Any],
    file: Path,
    *,
    trust: str = "",
) -> None:
    """Write the report.

    ``found`` is None where nothing was measured; ``table`` is from `Effects.table`, ``numbers`` are
    those of `metrics.json`, and ``trust`` is a section of HTML about how far predictions can be
    trusted, empty = none.
    """
    trained = ", ".join(origin.train_lines)
    content = {
        "found": found,
        "origin": origin,
        "code": code_version(),
        "css": page_css(),
        "genes": len(effects.genes),
        "trained": f"Trained on {trained}. " if trained else "",
        "verdict": verdict(numbers),
        "numbers": numbers,
        "predicted": _predicted(effects, table),
        "trust": trust,
    }
    content |= _scores(found, numbers) if found else {}
    write_text(file, with_contents(rendered("report.html.j2", content)))


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """Return a page, or a part of one, by a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.evaluate.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "share": share}
    environment.filters |= {"breakable": breakable, "thousands": "{:,}".format}
    return environment.get_template(template).render(content)


def strongest_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the strongest predictions, from `Effects.table`."""
    ordered = table.sort_values("predicted_strength", ascending=False, kind="stable")
    return ordered.head(STRONGEST)


def _predicted(effects: Effects, table: pd.DataFrame) -> dict[str, Any]:
    """Return what is predicted: the strongest, and how their effects were known before."""
    scored = bool((table["measured_cells"] > 0).any())
    strongest = strongest_of(table)
    rows = [
        {
            "perturbation": row["perturbation"],
            "strength": row["predicted_strength"],
            "genes": [", ".join(genes) for genes in effects.top(place, NAMED)],
            "more": _more(row, scored=scored),
        }
        for place, row in zip(strongest.index, _records(strongest), strict=True)
    ]
    known, finite = effects.known_means, np.array([])
    if known is not None:
        likeness = effects.likeness(lambda start, stop: known[start:stop] - effects.control)
        finite = likeness[np.isfinite(likeness)]
    return {
        "count": len(table),
        "unmeasured": int((table["measured_cells"] == 0).sum()),
        "rows": rows,
        "columns": list(rows[0]["more"]),
        "words": WORDS,
        "known": dict(table["known"].value_counts()) if "known" in table else {},
        "likeness": float(np.mean(finite)) if len(finite) else None,
    }


WORDS = ("trained in", "known")
"""Columns of the strongest predictions that hold words."""


def _more(row: Mapping[str, Any], *, scored: bool) -> dict[str, tuple[str, str]]:
    """Return what else is known of a perturbation, and its interval, by the title of its column."""
    found = {}
    if "training_lines" in row:
        lines = str(row["training_lines"] or "").replace(",", ", ")
        found["trained in"] = lines or "no line", ""
    if "known" in row:
        found["known"] = str(row["known"]), ""
    if "expected_pearson_delta" in row:
        low, high = (number(row[name], ".2f") for name in ("expected_low", "expected_high"))
        expected = number(row["expected_pearson_delta"], ".2f")
        found[f"expected {HEADLINE_METRIC}"] = expected, f"{low} to {high}"
    if scored:
        found[f"reached {HEADLINE_METRIC}"] = number(row[HEADLINE_METRIC], ".2f"), ""
    return found


def _scores(found: Findings, numbers: Mapping[str, Any]) -> dict[str, Any]:
    labels = found.pair.labels
    strongest = strongest_baseline(numbers)
    means = found.model.metrics[HEADLINE_METRIC].dropna()
    rows = {row["metric"]: row for row in _records(found.summary, prediction=MODEL)}
    return {
        "cells": int((labels != found.pair.control).sum()),
        "controls": int((labels == found.pair.control).sum()),
        "titles": evaluation.TITLES,
        "short": SHORT,
        "explained": EXPLAINED,
        "verdicts": _verdicts(found, numbers, strongest),
        "strongest": strongest,
        "smallest": SMALLEST,
        "columns": _columns(found, strongest),
        "headline": [_row(found, EVERY[name], strongest) for name in COMPARED],
        "own_batch": [
            {"metric": EVERY[name], "cells": numbers["batch_matched"][name]}
            for name in OF_MEANS
            if "batch_matched" in numbers
        ],
        "retrieval": [_row(found, EVERY[name], strongest) for name in metrics.RETRIEVAL],
        "others": [_row(found, metric, strongest) for metric in OTHERS],
        "reference": [rows[name] for name in metrics.REFERENCE if name in rows],
        "comparisons": {
            metric: list(tests)
            for metric, tests in groupby(_records(found.comparisons), key=itemgetter("metric"))
        },
        "metrics": [EVERY[name] for name in COMPARED],
        "of": {
            what: ", ".join(m.name for m in metrics.HEADLINE if m.of == what)
            for what in (MEANS, CELLS)
        },
        "calibrated": {"scores": (*SCORED, AVERAGE), "raw": tuple(SCORED)},
        "diagnoses": _diagnoses(found),
        "model_below": found.model.diagnosis is not None,
        "model_roc_auc": numbers["model"].get("roc_auc"),
        "strata": _strata(found),
        "undefined": _undefined(found),
        "best": list(means.sort_values(ascending=False, kind="stable").head(EXTREMES).items()),
        "worst": list(means.sort_values(kind="stable").head(EXTREMES).items()),
        "plots": _plots(found),
    }


def _records(table: pd.DataFrame, **wanted: str) -> list[dict[str, Any]]:
    """Return the rows of a table that hold these values, as dicts."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.to_dict("records")  # type: ignore[return-value]


def _columns(found: Findings, strongest: str) -> list[str]:
    """Return the columns of a table of scores: what a narrow screen shows must be first."""
    knowing = [name for name in reversed(found.baselines) if name != strongest]
    return [
        MODEL,
        *(name for name in (strongest,) if name in evaluation.TITLES),
        evaluation.CEILING,
        *knowing,
        evaluation.MODEL_MEANS,
    ]


def _verdicts(found: Findings, numbers: Mapping[str, Any], strongest: str) -> list[dict[str, Any]]:
    """Return one row per baseline, the strongest first: its headline test, and all counted."""
    rows = _records(found.comparisons, metric=HEADLINE_METRIC)
    rows.sort(key=lambda row: row["baseline"] != strongest)
    return [row | {"counted": standing(numbers, row["baseline"]).counted} for row in rows]


def _row(found: Findings, metric: metrics.Metric, strongest: str) -> dict[str, Any]:
    """Return a metric's line: a cell a prediction, the model's marked against the strongest."""
    rows = {row["prediction"]: row for row in _records(found.summary, metric=metric.name)}
    tests = _records(found.comparisons, metric=metric.name, baseline=strongest)
    mark = MARKS.get(tests[0]["verdict"], "") if tests else ""
    cells = {
        name: row | {"mark": mark if name == MODEL else "", "n": _fewer(row["n"], found)}
        for name, row in rows.items()
    }
    return {"metric": metric, "cells": cells}


def _fewer(n: float, found: Findings) -> int:
    """Return over how many perturbations a mean is, 0 where it is over all of them."""
    return int(n) if n == n and 0 < n < len(found.groups) else 0


def _diagnoses(found: Findings) -> list[dict[str, Any]]:
    """Return, for each prediction below chance, the numbers that say why."""
    means = {row["prediction"]: row for row in _records(found.summary, metric="roc_auc")}
    rows = []
    for name, outcome in found.outcomes.items():
        if outcome.diagnosis:
            title, called = evaluation.TITLES[name], outcome.calls.by_expression
            lines = {"measured cells": called["measured"], title: called["predicted"]}
            rows.append(
                {
                    "title": title,
                    "mean": means[name],
                    "surely": means[name]["high"] < CHANCE,
                    "found": outcome.diagnosis,
                    "called": _records(called),
                    "plot": plots.called_by_expression(lines),
                }
            )
    return rows


def _strata(found: Findings) -> list[dict[str, Any]]:
    """Return one table per stratum: one column per group of perturbations, one row per metric."""
    tables = []
    for stratum in found.groups:
        rows = _records(found.strata, stratum=str(stratum))
        means = {(r["group"], r["prediction"], r["metric"]): r["mean"] for r in rows}
        sizes = {row["group"]: row["perturbations"] for row in rows}
        lines = [(metric, MODEL, metric) for metric in COMPARED]
        same = f"{HEADLINE_METRIC}, {SHORT[SAME_PERTURBATION_DELTA]}"
        lines.insert(1, (same, SAME_PERTURBATION_DELTA, HEADLINE_METRIC))
        tables.append(
            {
                "name": stratum,
                "sizes": sizes,
                "rows": [
                    {"name": title, "cells": [means.get((group, who, metric)) for group in sizes]}
                    for title, who, metric in lines
                ],
            }
        )
    return tables


def _undefined(found: Findings) -> list[dict[str, Any]]:
    """Return one row per metric without a value for some perturbation: how many, and why."""
    return [
        {
            "metric": metric,
            "counts": dict(zip(group["prediction"], group["undefined"], strict=True)),
            "without_de": int(group["without_de"].max()),
            "why": group["why"].iloc[0],
        }
        for metric, group in found.undefined.groupby("metric", sort=False)
    ]


def _plots(found: Findings) -> dict[str, Any]:
    model, scores = found.model.metrics, found.scores
    own, seen = model[HEADLINE_METRIC], found.seen.loc[model.index]
    same = scores[SAME_PERTURBATION_DELTA][HEADLINE_METRIC]
    return {
        "distributions": {
            metric: plots.distributions(
                {SHORT[k]: values[metric] for k, values in scores.items()}, metric
            )
            for metric in COMPARED
        },
        "against": plots.model_against(
            own, same, seen, (f"{HEADLINE_METRIC}, {SHORT[SAME_PERTURBATION_DELTA]}", "model")
        ),
        "by_size": plots.by_size(
            found.de_genes, own, seen, ("measured DE genes", f"{HEADLINE_METRIC}, model")
        ),
        "calibration": plots.calibration(_calls(found, "calibration")),
        "called": plots.called_by_expression(
            {"measured cells": found.model.calls.by_expression["measured"]}
            | {k: table["predicted"] for k, table in _calls(found, "by_expression").items()}
        ),
        "effects": _effects(found, own),
    }


def _calls(found: Findings, what: str) -> dict[str, pd.DataFrame]:
    outcomes = found.outcomes | ({evaluation.HALF: found.ceiling.outcome} if found.ceiling else {})
    return {SHORT[name]: getattr(outcomes[name].calls, what) for name in DRAWN if name in outcomes}


def _delta(pair: Pair, matrix: Matrix, label: str) -> NDArray[np.float64]:
    """Return a perturbation's mean change against the controls, [genes]."""
    cells, controls = (dense(matrix[pair.rows[name]]) for name in (label, pair.control))
    return cells.mean(axis=0, dtype=np.float64) - controls.mean(axis=0, dtype=np.float64)


def _effects(found: Findings, own: pd.Series) -> list[str]:
    """Draw the changes of the best, the median and the worst predicted perturbation."""
    ordered = own.dropna().sort_values(ascending=False, kind="stable")
    if not len(ordered):
        return []
    last, middle = len(ordered) - 1, (len(ordered) - 1) // 2
    chosen = dict(sorted({last: "worst", middle: "median", 0: "best"}.items()))
    sides = (found.pair.predicted, found.pair.measured)
    drawn = []
    for place, what in chosen.items():
        label = str(ordered.index[place])
        predicted, measured = (_delta(found.pair, side, label) for side in sides)
        genes = [n for n, gene in enumerate(found.pair.genes) if gene in label.split("+")]
        title = f"{what}: {plots.short(label)} ({ordered.iloc[place]:.2f})"
        drawn.append(plots.effect(predicted, measured, genes, title, found.pair.genes))
    return drawn
