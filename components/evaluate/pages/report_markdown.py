"""Results of an evaluation as a page of Markdown and as a table for the terminal."""

import pandas as pd

from components.evaluate.measures.calibrated import AVERAGE
from components.evaluate.measures.metrics import EVERY, LOWER
from components.evaluate.pages.findings import Findings
from components.evaluate.pages.report import NAMED, Origin, strongest_of
from components.shared.artifacts.evaluation import CEILING, COMPARED, HEADLINE_METRIC, MODEL, TITLES
from components.shared.telling.facts import count
from components.shared.telling.markdown import aligned, names_as_code, plain, table_row
from components.shared.telling.page import number, signed


def headline_text(found: Findings | None, table: pd.DataFrame, origin: Origin) -> str:
    """Return the headline metrics as a plain table, and how many perturbations have none.

    ``found`` is None where nothing was measured; ``table`` is from `Effects.table`.
    """
    left = int((table["measured_cells"] == 0).sum())
    if found is None:
        predicted = count(left, "perturbation")
        return f"not scored: {origin.why_not_scored}; predicted: {predicted}"
    more = f"\nnot scored, since not measured in {origin.test_line}: {count(left, 'perturbation')}"
    rows = [["mean over perturbations", *_columns(found)], *_rows(found)]
    return "\n".join(aligned(rows)) + (more if left else "")


def markdown(found: Findings | None, table: pd.DataFrame, origin: Origin, verdict: str) -> str:
    """Return a summary in Markdown; see `headline_text`. ``verdict``: what the run came to."""
    lines = [f"# Evaluation on {plain(origin.test_line)}", "", f"**{plain(verdict)}**", ""]
    facts = ", ".join(f"{name} {value}" for name, value in origin.run.items())
    lines += [f"{plain(facts)}.", ""] if facts else []
    lines += _scores(found, origin) if found else []
    lines += _strongest(table)
    if origin.repeat:
        lines += ["", "Repeat it:", "", "```sh", origin.repeat, "```"]
    return names_as_code("\n".join(lines) + "\n")


def _scores(found: Findings, origin: Origin) -> list[str]:
    numbers = found.numbers
    low, high = numbers["intervals"][HEADLINE_METRIC]
    titles = ["mean over perturbations", *(TITLES[name] for name in _columns(found))]
    trained = f"Trained on {plain(', '.join(origin.train_lines))}; " if origin.train_lines else ""
    lines = [
        f"{trained}{numbers['perturbations']:,} "
        f"perturbations, {numbers['perturbations_seen']:,} of them seen in training; "
        f"cell-eval {numbers['cell_eval']}.",
        "",
        *(f"- {verdict}" for verdict in _verdicts(found)),
        "",
        table_row(titles),
        table_row(["---"] * len(titles)),
        *map(table_row, _rows(found)),
        "",
        "Means leave out perturbations without a value. 95 % interval of the model's "
        f"{HEADLINE_METRIC}: {number(low)} to {number(high)}.",
    ]
    if found.calibrated and not found.calibrated.without_scale:
        scores = found.calibrated.scores
        text = ", ".join(f"{TITLES[k]} {number(v[AVERAGE])}" for k, v in scores.items())
        lines += ["", f"cell-eval2, average of six (0 = mean response, 1 = replicate): {text}."]
    return [*lines, ""]


def _strongest(table: pd.DataFrame) -> list[str]:
    """Name the strongest predictions and the genes that they move most."""
    lines = [
        f"{count(len(table), 'perturbation')} predicted. The strongest, with the genes that they "
        "move most:",
        "",
    ]
    for row in strongest_of(table).to_dict("records"):
        up, down = (" ".join(row[key].split(" ")[:NAMED]) for key in ("top_up", "top_down"))
        named = f"up {plain(up) or 'none'}; down {plain(down) or 'none'}"
        lines.append(f"- {plain(row['perturbation'])}: {named}")
    return lines


def _columns(found: Findings) -> list[str]:
    return [MODEL, *found.baselines, CEILING]


def _rows(found: Findings) -> list[list[str]]:
    means = found.summary.pivot(index="metric", columns="prediction", values="mean")
    means = means.reindex(columns=_columns(found))
    return [
        [
            f"{name} (lower is better)" if EVERY[name].better == LOWER else name,
            *map(number, means.loc[name]),
        ]
        for name in COMPARED
    ]


def _verdicts(found: Findings) -> list[str]:
    rows = found.comparisons[found.comparisons["metric"] == HEADLINE_METRIC]
    return [
        f"On {HEADLINE_METRIC} the model **{row['verdict']}** the {TITLES[row['baseline']]}: "
        f"difference {signed(row['difference'])} (95 % interval {signed(row['low'])} to "
        f"{signed(row['high'])}, corrected p {number(row['p_holm'], '.2g')}), ahead in "
        f"{row['better']} of {row['of']} perturbations."
        for row in rows.to_dict("records")
    ]
