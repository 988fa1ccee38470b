"""What benchmarks find: kept as JSON, so that nothing is done twice, and told as Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.truth import Scores
from components.evaluate.measures.metrics import HIGHER, LOWER
from components.shared.artifacts.evaluation import CONTROL_MEAN, MEAN_DELTA, SAME_PERTURBATION_DELTA

COLUMNS = {
    "pearson_delta": HIGHER,
    "discrimination": HIGHER,
    "mae_delta": LOWER,
    "pearson_true": HIGHER,
}
"""Scores of `truth.TestLine`, and which way is better."""
BASELINES = {
    CONTROL_MEAN: "control mean",
    MEAN_DELTA: "control mean + mean training delta",
    SAME_PERTURBATION_DELTA: "control mean + that perturbation's training delta",
}


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a run found, from its file where it was done before."""
    if not file.exists():
        found = make()
        file.with_suffix(".partial").write_text(json.dumps(found, indent=1) + "\n")
        file.with_suffix(".partial").rename(file)
    return json.loads(file.read_text())


def row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cells) + " |"


def header(names: Sequence[str]) -> list[str]:
    """Return the two rows that a table begins with."""
    return [row(names), row(["---"] * len(names))]


def mean_sd(values: Sequence[float | None], digits: int = 2) -> str:
    """Return mean ± standard deviation of what is known."""
    found = np.array([value for value in values if value is not None], float)
    found = found[np.isfinite(found)]
    if not len(found):
        return "-"
    spread = f" ± {found.std(ddof=1):,.{digits}f}" if len(found) > 1 else ""
    return f"{found.mean():,.{digits}f}{spread}"


def score_table(title: str, rows: Mapping[str, Sequence[Scores]]) -> list[str]:
    """Return a table of each row's scores over its seeds."""
    names = [f"{n} (lower is better)" if b == LOWER else n for n, b in COLUMNS.items()]
    lines = header([title, *names, "seeds"])
    for name, scores in rows.items():
        values = [mean_sd([each[column] for each in scores], 3) for column in COLUMNS]
        lines.append(row([name, *values, str(len(scores))]))
    return lines


def gains(metric: str, one: Sequence[Scores], other: Sequence[Scores]) -> list[float]:
    """Return by how much ``one`` is better than ``other``, seed by seed."""
    sign = -1 if COLUMNS[metric] == LOWER else 1
    return [sign * (a[metric] - b[metric]) for a, b in zip(one, other, strict=True)]


def verdict(name: str, one: str, other: str, gained: Sequence[float]) -> str:
    """Return a line that says by how much ``one`` beats ``other``, from its gain in each seed."""
    ahead = sum(gain > 0 for gain in gained)
    word = "beats" if ahead == len(gained) else "does not clearly beat" if ahead else "is behind"
    return (
        f"- {name}: {one} {word} {other}: {np.mean(gained):+.3f} for the better on average, "
        f"ahead in {ahead} of {len(gained)} seeds."
    )
