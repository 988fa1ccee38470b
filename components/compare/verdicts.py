"""Sentences on a comparison: which prior helps, and where there is no evidence."""

from typing import Any

import pandas as pd

from components.compare import statistics
from components.compare.runs import Grid
from components.compare.statistics import ALL, BETTER, NO_EVIDENCE, WORSE, is_control, references_of
from components.shared.artifacts import evaluation
from components.shared.artifacts.evaluation import HEADLINE_METRIC, KNOWN_EFFECTS, SEEN, UNSEEN
from components.shared.parameters.prior_grammar import NONE, parse_prior
from components.shared.telling.page import number, signed

BASELINES = {
    evaluation.SAME_PERTURBATION_DELTA: "same-perturbation delta",
    KNOWN_EFFECTS: "its known effects alone",
}
NOTHING = "nothing"
"""No network was kept: no epoch led the known effects on held-out sets beyond luck."""
GAINS = {
    NOTHING: "the gain comes from known effects alone; the network added nothing.",
    NO_EVIDENCE: "the gain is that of known effects; no evidence that the network added to it.",
    WORSE: "the gain comes from known effects alone; the network made them worse.",
    BETTER: "the network added to the known effects that it was given.",
}
COMPARED = {
    BETTER: "Better than",
    WORSE: "Worse than",
    NO_EVIDENCE: "No evidence of a difference from",
}
PARTS = {SEEN: "Of perturbations seen in training", UNSEEN: "Of perturbations not seen in training"}


def shown(prior: str) -> str:
    """Return a prior, or the baseline, as it may be printed."""
    return BASELINES[prior] if prior in BASELINES else parse_prior(prior).shown


def conclusion(grid: Grid, table: pd.DataFrame) -> str:
    """Say in one sentence whether any prior is better than none."""
    if grid.not_scored:
        return f"Not compared by scores: {grid.not_scored}."
    if NONE not in grid.priors:
        return "There is no run without a prior here, so nothing can be said of what a prior adds."
    better = [
        prior
        for prior in grid.priors
        if not is_control(prior) and _of(table, prior, NONE).get("verdict") == BETTER
    ]
    if not better:
        return f"There is no evidence that any of these priors helps, by {HEADLINE_METRIC}."
    text = f"Better than no prior, by {HEADLINE_METRIC}: {', '.join(map(shown, better))}."
    return " ".join([text, *_gains(better, grid, table)])


def _gains(better: list[str], grid: Grid, table: pd.DataFrame) -> list[str]:
    """Say of which priors the gain is that of the known effects, and what their networks did."""
    found: dict[str, list[str]] = {}
    for prior in better:
        if row := _of(table, prior, KNOWN_EFFECTS):
            found.setdefault(_did(prior, grid, row), []).append(shown(prior))
    return [f"With {', '.join(priors)} {GAINS[did]}" for did, priors in found.items()]


def _did(prior: str, grid: Grid, row: dict[Any, Any]) -> str:
    """Return what networks made of known effects: a verdict, or `NOTHING` where none was kept."""
    kept = any(run.stats["best_epoch"] for run in grid.of(prior))
    return str(row["verdict"]) if kept else NOTHING


def sentences(grid: Grid, table: pd.DataFrame) -> list[dict[str, str]]:
    """Return what is found of each prior: prior, verdict (for its colour) and text."""
    return [
        {
            "prior": shown(prior),
            "verdict": str(_of(table, prior, NONE).get("verdict", "")),
            "text": " ".join(filter(None, _found(prior, grid, table))),
        }
        for prior in grid.priors
    ]


def _found(prior: str, grid: Grid, table: pd.DataFrame) -> list[str]:
    texts = [_against(prior, other, table) for other in references_of(prior, grid.priors)]
    if NONE in grid.priors and prior != NONE:
        texts += [_part(prior, part, table) for part in PARTS]
    twin = statistics.twin_of(prior)
    here = any("shuffled" in other for other in references_of(prior, grid.priors))
    if twin and not here and not is_control(prior):
        texts.append(
            f"Its shuffled twin is not here: add {shown(twin)} to tell what it says of genes from "
            "what any vectors would do."
        )
    return [*texts, _carried(prior, table), _network(prior, grid, table)]


def _of(table: pd.DataFrame, prior: str, against: str, part: str = ALL) -> dict[Any, Any]:
    chosen = (table["prior"] == prior) & (table["against"] == against)
    rows = table[chosen & (table["part"] == part) & (table["metric"] == HEADLINE_METRIC)]
    return rows.to_dict("records")[0] if len(rows) else {}


def figures(row: dict[Any, Any]) -> str:
    """Return a paired difference with what makes it sure or not."""
    return (
        f"{signed(row['difference'])} (95 % interval {signed(row['low'])} to "
        f"{signed(row['high'])}, corrected p {number(row['p_holm'], '.2g')}, ahead in "
        f"{row['ahead']} of {row['perturbations']} perturbations and in {row['seeds_ahead']} of "
        f"{row['seeds']} {'seed' if row['seeds'] == 1 else 'seeds'})"
    )


def _against(prior: str, other: str, table: pd.DataFrame) -> str:
    row = _of(table, prior, other)
    if not row:
        return f"It cannot be held against {shown(other)}: no seed is there of both."
    because = "" if not row["why"] or row["why"].startswith("corrected") else f"; {row['why']}"
    return f"{COMPARED[row['verdict']]} {shown(other)}: {figures(row)}{because}."


def _part(prior: str, part: str, table: pd.DataFrame) -> str:
    row = _of(table, prior, NONE, part)
    if not row:
        return ""
    return (
        f"{PARTS[part]} ({row['perturbations']}): {row['verdict']}, {signed(row['difference'])} "
        f"against none."
    )


def _carried(prior: str, table: pd.DataFrame) -> str:
    """Hold the model against the delta that training lines have of the same perturbation."""
    row = _of(table, prior, evaluation.SAME_PERTURBATION_DELTA)
    if not row:
        return ""
    whose = "the" if row["verdict"] == NO_EVIDENCE else "the perturbation's own"
    return f"{COMPARED[row['verdict']]} {whose} training delta carried over: {figures(row)}."


def _network(prior: str, grid: Grid, table: pd.DataFrame) -> str:
    """Say what the network added to the effects that it was given."""
    row = _of(table, prior, KNOWN_EFFECTS)
    if not row:
        return ""
    if _did(prior, grid, row) == NOTHING:
        return "The network added nothing to the known effects: no epoch led on held-out sets."
    words = {
        BETTER: "made them better",
        WORSE: "made them worse",
        NO_EVIDENCE: "no evidence of a difference",
    }[row["verdict"]]
    return f"What the network added to the known effects: {words}, {figures(row)}."
