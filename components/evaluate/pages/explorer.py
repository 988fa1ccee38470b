"""The explorer: one page in which the effect of any knock-down can be looked up.

It loads nothing from anywhere. Labels are whatever a user's file has, so none reaches the page but
as text, and only the page's own script may run.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from components.evaluate.pages import compact
from components.evaluate.pages.compact import GENES, PERTURBATIONS, STEP, Compact, Pairs, packed
from components.evaluate.pages.report import Origin, rendered
from components.shared.artifacts.artifact import code_version
from components.shared.artifacts.confidence import MEAN, MEASURED, NEAR_BY, SUMMED
from components.shared.artifacts.known_effects import unit
from components.shared.artifacts.predictions import PERTURBATION_COLUMNS
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.storage.documents import write_text
from components.shared.telling.page import page_css

REACHED = "pearson_delta"
ALIKE = 10
"""Knock-downs named as like another."""
NAMED_GENES = 3
"""Genes named in a row of the table, up and down each."""
KNOWN = {
    MEASURED: "measured in training lines",
    SUMMED: "the sum of its genes' changes, each measured in training lines",
    NEAR_BY: "inferred from genes that the prior puts near by",
    MEAN: "not known: the mean of all training effects",
}
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that are not seen, or that turn what stands beside them around."""


@dataclass(frozen=True)
class Explored:
    """Content of the page; changes are of the mean log1p of counts per 10,000."""

    test_line: str
    genes: list[str]
    perturbations: pd.DataFrame
    """A row per perturbation: `PERTURBATION_COLUMNS` and `pearson_delta` where it was measured."""
    control: NDArray[np.floating]
    """Mean of the test line's basal controls, [genes]."""
    change: NDArray[np.floating]
    """Predicted, against that mean, [perturbations, genes]."""
    measured: NDArray[np.floating]
    """Measured in the test line, [perturbations, genes]; rows of NaN where it was not."""
    fdr: NDArray[np.floating]
    """Of the rank test on the measured cells, like `measured`."""
    training: TrainingEffects
    """Each training line's own changes, of genes in any order."""

    @property
    def labels(self) -> list[str]:
        """Perturbations, in the order of rows."""
        return self.perturbations["perturbation"].astype(str).tolist()

    @property
    def any_measured(self) -> bool:
        """Whether anything was measured in the test line."""
        return bool(np.isfinite(self.measured).any())


def write_explorer(explored: Explored, origin: Origin, file: Path) -> dict[str, Any]:
    """Write the page, and return what it keeps.

    That is `bytes`, `genes_kept` and `perturbations_kept` (as they are, of each perturbation and
    gene), `rounded` (number of rounded predicted changes), `error` (the most that one differs) and
    `measured_left_out` (measured changes that it has not).
    """
    small = compact.compact(explored.change, _lines(explored), _at(explored.fdr))
    kept = {
        "genes_kept": small.genes.index.shape[1],
        "perturbations_kept": small.perturbations.index.shape[1],
        "rounded": small.rounded,
        "error": small.error,
        "measured_left_out": _left_out(explored, small),
    }
    page = rendered("explorer.html.j2", _content(explored, small, kept, origin))
    write_text(file, page)
    return kept | {"bytes": file.stat().st_size}


def visible(label: object) -> str:
    r"""Return a label with characters that are not seen written out, as ``\u202e``."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(label))


def _content(
    explored: Explored, small: Compact, kept: Mapping[str, Any], origin: Origin
) -> dict[str, Any]:
    script = _read("explorer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rows = _rows(explored, small)
    return {
        "test_line": visible(explored.test_line),
        "train_lines": [visible(line) for line in explored.training.lines],
        "genes": len(explored.genes),
        "any_measured": explored.any_measured,
        "rows": rows,
        "facts": _facts(explored, rows),
        "arrays": [
            {"name": name, "type": array.dtype.name, "data": Markup(packed(array))}  # noqa: S704
            for name, array in small.arrays().items()
        ],
        "kept": kept,
        "kept_each": {"genes": GENES, "perturbations": PERTURBATIONS},
        "known": KNOWN,
        "origin": origin,
        "code": code_version(),
        "css": Markup(page_css() + _read("explorer.css")),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "script_digest": digest,
    }


def _read(name: str) -> str:
    return files("components.evaluate.pages").joinpath(name).read_text(encoding="utf-8")


def _lines(explored: Explored) -> list[Pairs]:
    """Return what each training line measured of pairs, and the test line's last if it did."""
    training = explored.training
    row_of = pd.Index(training.perturbations).get_indexer(pd.Index(explored.labels))
    column_of = pd.Index(training.genes).get_indexer(pd.Index(explored.genes))

    def of(change: NDArray[np.floating]) -> Pairs:
        def pairs(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> Any:
            there, where = row_of[rows], column_of[columns]
            if not change.size:
                return np.full(rows.shape, np.nan)
            return np.where((there >= 0) & (where >= 0), change[there, where], np.nan)

        return pairs

    lines = [of(change) for change in training.change]
    return [*lines, _at(explored.measured)] if explored.any_measured else lines


def _at(values: NDArray[np.floating]) -> Pairs:
    return lambda rows, columns: values[rows, columns]


def _left_out(explored: Explored, small: Compact) -> int:
    """Count the measured changes of any line that the page has not."""
    lines, count = _lines(explored), 0
    for n, kept in enumerate(small.kept):
        columns = np.flatnonzero(~kept)
        rows = np.full(len(columns), n)
        count += sum(int(np.isfinite(line(rows, columns)).sum()) for line in lines)
    return count


def _rows(explored: Explored, small: Compact) -> list[dict[str, Any]]:
    """Return one row per perturbation, as in the table and its csv; None = cannot be said."""
    table = explored.perturbations
    strength = np.linalg.norm(np.asarray(explored.change, np.float64), axis=1)
    asked = [*PERTURBATION_COLUMNS, REACHED]
    rows = []
    for n, given in enumerate(table.to_dict("records")):
        row = {name: _plain(given.get(name)) for name in asked}
        row["strength"] = _plain(float(strength[n]))
        row["down"], row["up"] = _extremes(explored, small, n)
        rows.append(row)
    return rows


def _extremes(explored: Explored, small: Compact, n: int) -> tuple[str, str]:
    """Name the genes that a perturbation moves most, down and up."""
    index, change = small.genes.index[n], small.genes.change[n]
    names = np.array([visible(explored.genes[gene]) for gene in index], object)
    down, up = names[change < 0][::-1], names[change > 0]
    return ", ".join(down[:NAMED_GENES]), ", ".join(up[:NAMED_GENES])


def _plain(value: Any) -> Any:
    """Return a value of a table as JSON has it: labels visible, figures of six places, or None."""
    value = value.item() if isinstance(value, np.generic) else value
    if pd.isna(value) or value in (np.inf, -np.inf):
        return None
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, int) else visible(value)


def _facts(explored: Explored, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all that the script needs but the large arrays."""
    training = explored.training
    place = pd.Index(training.perturbations).get_indexer(pd.Index(explored.labels))
    cells = [[int(c[p]) if p >= 0 else 0 for c in training.cells] for p in place]
    lines = [visible(line) for line in training.lines]
    index, cosine, typical = alike(explored.change)
    return {
        "testLine": visible(explored.test_line),
        "lines": [*lines, visible(explored.test_line)] if explored.any_measured else lines,
        "testMeasured": explored.any_measured,
        "tested": bool(np.isfinite(explored.fdr).any()),
        "genes": [visible(gene) for gene in explored.genes],
        "control": [_plain(float(value)) for value in explored.control],
        "columns": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in rows],
        "trainingCells": cells,
        "alike": index.tolist(),
        "cosine": np.round(cosine, 4).tolist(),
        "typical": _plain(typical),
        "known": KNOWN,
        "units": {
            "step": STEP,
            "log": compact.LOG_STEP,
            "missing": compact.MISSING,
            "least": compact.LEAST_LOG,
        },
    }


def alike(change: NDArray[np.floating]) -> tuple[NDArray[np.integer], NDArray[np.floating], float]:
    """Find the perturbations whose predicted changes [perturbations, genes] point the same way.

    Returns which, [perturbations, most alike], the nearest first; their cosines; the median cosine
    of all pairs, NaN if there is none. Without any predicted change a cosine is 0.
    """
    directions = unit(np.asarray(change, np.float32))
    cosine = directions @ directions.T
    pairs = cosine[np.triu_indices(len(cosine), 1)]
    typical = float(np.median(pairs)) if len(pairs) else np.nan
    np.fill_diagonal(cosine, -np.inf)
    index = np.argsort(-cosine, axis=1, kind="stable")[:, : min(ALIKE, len(cosine) - 1)]
    return index, np.take_along_axis(cosine, index, axis=1), typical
