"""What an evaluation found, in a page of Markdown and in a table for the terminal."""

from collections.abc import Sequence

from components.evaluate.baselines import MODEL
from components.evaluate.calibrated import AVERAGE
from components.evaluate.findings import Findings
from components.evaluate.metrics import COMPARED, EVERY, LOWER
from components.evaluate.report import TITLES, Origin, number, signed
from components.evaluate.summary import CEILING, HEADLINE_METRIC
from components.shared.markdown import names_as_code


def headline_text(found: Findings) -> str:
    """Return the headline metrics as a plain table: model, baselines, ceiling."""
    rows = [["mean over perturbations", *_columns(found)], *_rows(found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(found: Findings, origin: Origin) -> str:
    """Return a summary in Markdown."""
    numbers = found.numbers
    lines = [
        f"# Evaluation on {_plain(origin.test_line)}",
        "",
        f"Trained on {_plain(', '.join(origin.train_lines))}; {numbers['perturbations']:,} "
        f"perturbations, {numbers['perturbations_seen']:,} of them seen in training; "
        f"cell-eval {numbers['cell_eval']}.",
        "",
        *(f"- {verdict}" for verdict in _verdicts(found)),
        "",
        *_table(["mean over perturbations", *(TITLES[name] for name in _columns(found))]),
        *map(_line, _rows(found)),
        "",
        "Means leave out perturbations without a value. 95 % interval of the model's "
        f"{HEADLINE_METRIC}: {_interval(found)}.",
    ]
    if found.calibrated and not found.calibrated.without_scale:
        scores = found.calibrated.scores
        text = ", ".join(f"{TITLES[k]} {number(v[AVERAGE])}" for k, v in scores.items())
        lines += ["", f"cell-eval2, average of six (0 = mean response, 1 = replicate): {text}."]
    if origin.repeat:
        lines += ["", "Repeat it:", "", "```sh", origin.repeat, "```"]
    return names_as_code("\n".join(lines) + "\n")


def _columns(found: Findings) -> list[str]:
    return [MODEL, *found.baselines, CEILING]


def _rows(found: Findings) -> list[list[str]]:
    means = found.summary.pivot(index="metric", columns="prediction", values="mean")
    means = means.reindex(index=list(COMPARED), columns=_columns(found))
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


def _interval(found: Findings) -> str:
    low, high = found.numbers["intervals"][HEADLINE_METRIC]
    return f"{number(low)} to {number(high)}"


def _table(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Return a label that cannot bring markup along."""
    return text.replace("|", "\\|").replace("<", "&lt;")
