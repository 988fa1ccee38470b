"""The pages of a comparison: HTML without network, and a summary in Markdown."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from components.compare import plots
from components.compare.runs import Grid, Run
from components.compare.statistics import ALL, METRICS
from components.compare.verdicts import conclusion, sentences, shown
from components.shared.artifacts import evaluation
from components.shared.artifacts.artifact import code_version
from components.shared.artifacts.evaluation import CEILING, HEADLINE_METRIC, MODEL, SEEN, TITLES
from components.shared.storage.documents import write_text
from components.shared.telling.markdown import names_as_code, plain, table_row
from components.shared.telling.page import breakable, number, page_css, signed, with_contents

SHOWN = (evaluation.SAME_PERTURBATION_DELTA, evaluation.MEAN_DELTA, evaluation.CONTROL_MEAN)
"""Baselines, the strongest first."""
PARTS = {
    ALL: "All test perturbations",
    SEEN: "Perturbations seen in training",
    evaluation.UNSEEN: "Perturbations not seen in training",
}


@dataclass(frozen=True)
class Findings:
    """Results of a comparison."""

    grid: Grid
    means: pd.DataFrame
    """From `statistics.by_prior`."""
    differences: pd.DataFrame
    """From `statistics.differences`."""
    cost: pd.DataFrame
    """From `compare.cost`."""
    runs: pd.DataFrame
    """From `compare.runs_table`."""
    best: Run
    repeat: str
    """The commands that repeat the comparison; empty = not known."""


def write_report(found: Findings, file: Path) -> None:
    """Write the HTML report."""
    template = files("components.compare").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "breakable": breakable,
        "shown": shown,
    }
    scored = not found.grid.not_scored
    run = found.grid.runs[0].numbers.get("run", {})
    content = {
        "found": found,
        # What all runs have in common.
        "run": {name: run[name] for name in run if name not in ("prior", "seed")},
        "css": page_css(),
        "code": code_version(),
        "conclusion": conclusion(found.grid, found.differences),
        "scored": scored,
        "verdicts": sentences(found.grid, found.differences) if scored else [],
        "metrics": METRICS,
        "tables": [(title, rows_of(found, part)) for part, title in PARTS.items()],
        "differences": _records(found.differences),
        "headline": HEADLINE_METRIC,
        "cost": _records(found.cost),
        "runs": _records(found.runs),
        "scores": plots.scores(*_drawn(found)) if scored else "",
        "forest": plots.forest(_forest(found)) if scored else "",
    }
    page = environment.from_string(template).render(content)
    write_text(file, with_contents(page))


def rows_of(found: Findings, part: str) -> list[dict[str, Any]]:
    """Return one row per prior, a baseline, the ceiling: name, kind, and by metric its numbers."""
    if found.grid.not_scored:
        return []
    means = found.means[found.means["part"] == part]
    rows = [("model", shown(prior), (prior, MODEL)) for prior in found.grid.priors]
    first = found.grid.priors[0]
    rows += [("baseline", TITLES[name], (first, name)) for name in SHOWN]
    by = {
        key: {row["metric"]: row for row in _records(group)}
        for key, group in means.groupby(["prior", "prediction"], sort=False)
    }
    told = [{"kind": kind, "name": name, "by": by[key]} for kind, name, key in rows if key in by]
    ceiling = {name: {"mean": value, "seed_sd": None} for name, value in _ceiling(found).items()}
    if ceiling and part == ALL:
        told.append({"kind": CEILING, "name": "ceiling of the data", "by": ceiling})
    return told


def _ceiling(found: Findings) -> dict[str, float]:
    """Return what repeating the experiment would reach, by metric; the same in every run."""
    numbers = found.grid.runs[0].numbers
    means = {**numbers.get(CEILING, {}), **numbers.get("ours", {}).get(CEILING, {})}
    return {name: means[name] for name in METRICS if means.get(name) is not None}


def _drawn(found: Findings) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the headline mean of each prior and seed, and of the baselines."""
    rows = found.means[(found.means["part"] == ALL) & (found.means["metric"] == HEADLINE_METRIC)]
    own = rows[rows["prediction"] == MODEL].assign(name=rows["prior"].map(shown))
    points = {
        prior: [run.numbers["model"].get(HEADLINE_METRIC) for run in found.grid.of(prior)]
        for prior in found.grid.priors
    }
    first = rows[rows["prior"] == found.grid.priors[0]].set_index("prediction")["mean"]
    lines = {TITLES[name]: float(first[name]) for name in SHOWN if name in first}
    ceiling = _ceiling(found)
    lines |= {"ceiling of the data": ceiling[HEADLINE_METRIC]} if HEADLINE_METRIC in ceiling else {}
    return own.assign(points=own["prior"].map(points)), lines


def _forest(found: Findings) -> pd.DataFrame:
    table = found.differences
    rows = table[(table["metric"] == HEADLINE_METRIC) & (table["part"] == ALL)]
    pairs = zip(rows["prior"], rows["against"], strict=True)
    names = [f"{shown(prior)} \N{MINUS SIGN} {shown(other)}" for prior, other in pairs]
    return rows.assign(name=names)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")  # type: ignore[return-value]


def markdown(found: Findings) -> str:
    """Return the summary in Markdown."""
    others = (evaluation.CENTRED, "discrimination_score_l1", evaluation.MAE_DELTA, "pr_auc")
    metrics = (HEADLINE_METRIC, *others)
    lines = ["# Comparison of priors", "", f"**{conclusion(found.grid, found.differences)}**", ""]
    scored = not found.grid.not_scored
    lines += [
        f"- **{plain(one['prior'])}**: {plain(one['text'])}"
        for one in (sentences(found.grid, found.differences) if scored else ())
    ]
    for lost in found.grid.missing:
        lines.append(
            f"- **Missing: {plain(shown(lost.prior))}, seed {lost.seed}**: failed in "
            f"{lost.stage}: {plain(lost.reason)}"
        )
    if scored:
        lines += ["", table_row(["mean (sd over seeds)", *metrics])]
        lines += [table_row(["---"] * (len(metrics) + 1))]
    for row in rows_of(found, ALL):
        cells = [row["by"].get(metric) for metric in metrics]
        lines.append(table_row([plain(row["name"]), *map(_cell, cells)]))
    lines += ["", f"Best in validation: {plain(shown(found.best.prior))}, seed {found.best.seed}."]
    if found.repeat:
        lines += ["", "Repeat it:", "", "```sh", found.repeat, "```"]
    return names_as_code("\n".join(lines) + "\n")


def result(found: Findings) -> str:
    """Return what the comparison came to, in a few lines of Markdown."""
    missing = len(found.grid.missing)
    lines = [
        conclusion(found.grid, found.differences),
        *(
            f"{plain(row['name'])}: {HEADLINE_METRIC} {_cell(row['by'].get(HEADLINE_METRIC))}"
            f"{'' if row['kind'] == CEILING else ' (mean, sd over seeds)'}."
            for row in rows_of(found, ALL)
        ),
    ]
    return "\n".join([*lines, *([f"Missing runs: {missing}."] if missing else [])])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return number(None)
    spread = "" if row["seed_sd"] is None else f" ({number(row['seed_sd'])})"
    return f"{number(row['mean'])}{spread}"
