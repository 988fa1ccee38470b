"""The compare stage: one report of a grid of runs, priors by seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.compare.report import Findings, markdown, result, write_report
from components.compare.runs import Grid, Run, read_grid
from components.compare.statistics import ALL, by_prior, differences
from components.compare.verdicts import conclusion, shown
from components.shared.artifacts.artifact import COMPARISON, link_or_copy, writing
from components.shared.artifacts.evaluation import HEADLINE_METRIC, MODEL
from components.shared.findings.results import RESULT, tell_result
from components.shared.storage.documents import write_json, write_text
from components.shared.telling.spreadsheet import without_formulas

REPORTS = "reports"
"""Folder of the runs' own reports, which the comparison's links to."""
VALIDATION = "best_val_pearson_delta"


def compare(
    evaluations: Sequence[Path | str],
    stats: Sequence[Path | str],
    cells: Sequence[Mapping[str, Any]],
    target: Path | str,
    *,
    repeat: str = "",
) -> None:
    """Compare the priors of a grid of runs.

    Writes `comparison.csv`, `by_prior.csv`, `cost.csv`, `runs.csv`, `metrics.json`, `summary.md`,
    `report.html` and the runs' own reports, to which it links; where nothing was measured in the
    test line, so that there are no scores, not the first two, and the pages say so.

    Args:
        evaluations: evaluation artifacts in the order of the grid; a failed one is told as missing.
        stats: `training_stats.json` of each, in the same order.
        cells: the grid: prior and seed of each run.
        target: folder of the comparison artifact.
        repeat: the commands that repeat the comparison, for the report.

    Raises:
        InputError: runs that cannot be compared, or none that came to its end.
    """
    grid = read_grid(evaluations, stats, cells)
    inputs = {f"evaluation-{run.cell}": run.evaluation for run in grid.runs}
    parameters = {"cells": [{"prior": cell["prior"], "seed": cell["seed"]} for cell in cells]}
    with writing(target, COMPARISON, parameters=parameters, inputs=inputs) as draft:
        found = Findings(
            grid=grid,
            means=pd.DataFrame() if grid.not_scored else by_prior(grid),
            differences=pd.DataFrame() if grid.not_scored else differences(grid),
            cost=cost(grid),
            runs=runs_table(grid),
            best=best(grid),
            repeat=repeat,
        )
        numbers = numbers_of(found)
        _write(found, numbers, draft.path)
        draft.summary |= {
            "runs": len(grid.runs),
            "missing": len(grid.missing),
            "conclusion": numbers["conclusion"],
            RESULT: result(found),
        }
    print(markdown(found).partition("Repeat it")[0], flush=True)
    missing = f", {len(grid.missing)} missing" if grid.missing else ""
    print(
        f"compare: wrote {target}: {len(grid.runs)} runs{missing}; open "
        f"{Path(target) / 'report.html'}",
        flush=True,
    )
    tell_result("compare", draft.summary[RESULT])


def best(grid: Grid) -> Run:
    """Return the run with the best validation score: one chosen by the test would be flattered."""

    def score(run: Run) -> float:
        value = run.stats.get(VALIDATION)
        return -math.inf if value is None else float(value)

    return max(grid.runs, key=score)


def cost(grid: Grid) -> pd.DataFrame:
    """Return what fine-tuning took by prior.

    Columns: prior, runs, device, cells_per_second (mean), hours (sum over runs of wall clock x
    processes: GPU hours on GPUs), epochs (mean).
    """
    rows = []
    for prior in grid.priors:
        facts = [run.stats for run in grid.of(prior)]
        seconds = [one["wall_clock_seconds"] * one.get("processes", 1) for one in facts]
        rows.append(
            {
                "prior": prior,
                "runs": len(facts),
                "device": ", ".join(sorted({str(one.get("device", "unknown")) for one in facts})),
                "cells_per_second": sum(one["cells_per_second"] for one in facts) / len(facts),
                "hours": sum(seconds) / 3600,
                "epochs": sum(one["epochs_run"] for one in facts) / len(facts),
            }
        )
    return pd.DataFrame(rows)


def runs_table(grid: Grid) -> pd.DataFrame:
    """Return one row per run: prior, seed, scores and its report, or where it failed and why."""
    rows: list[dict[str, Any]] = [
        {
            "prior": run.prior,
            "seed": run.seed,
            "validation": run.stats.get(VALIDATION),
            HEADLINE_METRIC: run.numbers["model"].get(HEADLINE_METRIC),
            "failed_in": "",
            "reason": "",
            "report": f"{REPORTS}/run-{run.cell}.html" if run.report else "",
        }
        for run in grid.runs
    ]
    rows += [
        {
            "prior": lost.prior,
            "seed": lost.seed,
            "failed_in": lost.stage,
            "reason": lost.reason,
            "report": "",
        }
        for lost in grid.missing
    ]
    return pd.DataFrame(rows)


def numbers_of(found: Findings) -> dict[str, Any]:
    """Return what `metrics.json` holds; every number is finite, or null."""
    rows = found.means
    if len(rows):
        rows = rows[(rows["prediction"] == MODEL) & (rows["part"] == ALL)]
    return {
        "conclusion": conclusion(found.grid, found.differences),
        "best": {
            "cell": found.best.cell,
            "prior": found.best.prior,
            "seed": found.best.seed,
            "validation": found.best.stats.get(VALIDATION),
        },
        "missing": len(found.grid.missing),
        "metrics": {
            f"{row['metric']}/{shown(row['prior'])}": float(row["mean"])
            for row in rows.to_dict("records")
            if math.isfinite(row["mean"])
        },
    }


def _write(found: Findings, numbers: Mapping[str, Any], folder: Path) -> None:
    for name, table in (
        ("comparison.csv", found.differences),
        ("by_prior.csv", found.means),
        ("cost.csv", found.cost),
        ("runs.csv", found.runs),
    ):
        if len(table):
            without_formulas(table).to_csv(folder / name, index=False)
    write_json(folder / "metrics.json", numbers)
    write_text(folder / "summary.md", markdown(found))
    write_report(found, folder / "report.html")
    # Beside it, since a link to another artifact would be to this machine's place of it.
    (folder / REPORTS).mkdir()
    for run in found.grid.runs:
        if run.report:
            link_or_copy(run.report, folder / REPORTS / f"run-{run.cell}.html")
