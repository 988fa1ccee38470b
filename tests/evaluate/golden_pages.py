"""The words of an evaluation's pages, as they are stored to compare with.

    python -m tests.evaluate.golden_pages      # writes them anew, after a change of the pages

Numbers are kept too, but compared with a tolerance: other processors round otherwise.
"""

import json
import re
import tempfile
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd

from components.shared.artifacts.artifact import code_version
from components.shared.artifacts.confidence import (
    CONFIDENCE_FILE,
    MEAN,
    MEASURED,
    Confidence,
    HeldOut,
)
from components.shared.artifacts.predictions import KNOWN_MEANS, MEANS, PERTURBATIONS_FILE
from components.shared.findings.origins import facts_of
from components.shared.model.checkpoint_files import STATS_FILE
from components.shared.model.rank_cells import RANK
from tests.evaluate_screen import LABELS, UNSEEN, Screen
from tests.publish.publish_run import STATS

STORED = Path(__file__).with_name("golden")
NUMBER = re.compile(r"(?<![\w.])[-\u2212+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?(?!\w)")
NAMED = ("class", "title", "aria-label", "href", "scope")
"""Attributes that say something."""
HOSTILE = "<b>smoke"
"""A recipe's name that would bring markup along."""


def words_of_pages(folder: Path) -> dict[str, str]:
    """Evaluate a generated screen as `evaluation` in a folder; return its pages' words by file."""
    made = Screen(folder, genes=40, cells_each=12, controls_each=120, batches=True)
    predictions = made.predictions(
        lambda adata: adata.varm.update({KNOWN_MEANS: adata.varm[MEANS] * np.float32(0.9)}),
        kind=RANK,
        scale=0.8,
    )
    stats = STATS | {"recipe": HOSTILE}
    stats["known_by"] = facts_of(stats)
    (predictions / STATS_FILE).write_text(json.dumps(stats))
    _asked().to_parquet(predictions / PERTURBATIONS_FILE)
    lines = [HeldOut("k562", 0.9, 40, 0.5, 40, 0.2), HeldOut("hepg2", 0.8, 40, 0.3, 40, None)]
    columns = ["known", "agreement", "lines", "cells", "carried", "strength"]
    nothing = pd.DataFrame(columns=columns)
    known = Confidence(0.8, "Fitted on two lines.", "", lines, nothing, {}, {})
    known.write(predictions / CONFIDENCE_FILE)
    found = made.evaluate(predictions, prior=made.prior())
    numbers = json.loads((found / "metrics.json").read_text())
    texts = {
        "summary.md": (found / "summary.md").read_text(),
        "report.txt": said_by((found / "report.html").read_text()),
        "metrics.json": json.dumps(numbers, indent=1) + "\n",
    }
    versions = re.compile(r"\b(?:[0-9a-f]{7,64}|\d+\.\d+\.\d+)(?:-dirty)?\b")
    here = {str(folder): "FOLDER", f"({code_version()['revision']})": "(#)"}
    for name, text in texts.items():
        for said, stored in here.items():
            text = text.replace(said, stored)
        texts[name] = versions.sub("#", text)
    return texts


def _asked() -> pd.DataFrame:
    labels = sorted(LABELS)
    expected = np.linspace(0.1, 0.9, len(labels))
    return pd.DataFrame(
        {
            "perturbation": labels,
            "cells": 12,
            "measured_cells": 12,
            "training_lines": ["" if label == UNSEEN else "hepg2,k562" for label in labels],
            "known": [MEAN if label == UNSEEN else MEASURED for label in labels],
            "agreement": 0.5,
            "expected_pearson_delta": expected,
            "expected_low": expected - 0.1,
            "expected_high": expected + 0.1,
        }
    )


def said_by(page: str) -> str:
    """Return what a page says, a line a tag or text; of a plot the words that it draws."""
    page = re.sub(r"<svg.*?</svg>", lambda plot: _drawn(plot[0]), page, flags=re.DOTALL)
    page = re.sub(r"<style.*?</style>|<script.*?</script>|<wbr>", "", page, flags=re.DOTALL)
    lines = []
    for tag, text in re.findall(r"<([^>]*)>|([^<]+)", page):
        if text.strip():
            lines.append(" ".join(unescape(text).split()))
        elif tag and not tag.startswith("/"):
            about = [m[0] for m in re.finditer(rf'(?:{"|".join(NAMED)})="[^"]*"', tag)]
            lines.append(f"<{' '.join([tag.split()[0], *about])}>")
    return "\n".join(lines) + "\n"


def _drawn(plot: str) -> str:
    """Return the words of a plot, without the numbers at its axes."""
    words = re.findall(r"<text[^>]*>(.*?)</text>", plot, flags=re.DOTALL)
    return "".join(f"<drawn>{word}" for word in words if not NUMBER.fullmatch(word))


def moved(found: str, stored: str) -> list[str]:
    """Return the lines that are not as stored, in words or in what numbers say."""
    lines = [text.splitlines() for text in (found, stored)]
    if len(lines[0]) != len(lines[1]):
        return [line for line in lines[0] if line not in lines[1]] or ["lines are missing"]
    return [here for here, there in zip(*lines, strict=True) if not _alike(here, there)]


def _alike(here: str, there: str) -> bool:
    numbers = [[float(_plain(n)) for n in NUMBER.findall(line)] for line in (here, there)]
    return NUMBER.sub("N", here) == NUMBER.sub("N", there) and np.allclose(
        *numbers, rtol=2e-3, atol=2e-3
    )


def _plain(number: str) -> str:
    return number.replace("\N{MINUS SIGN}", "-").replace(",", "")


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in words_of_pages(Path(scratch)).items():
            (STORED / name).write_text(text, encoding="utf-8")
