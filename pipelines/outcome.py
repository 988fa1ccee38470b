"""Summary at the end of a run on this machine, in at most 80 columns."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.shared.artifacts.evaluation import (
    CEILING,
    COMPARED,
    EXPLORER_FILE,
    MODEL,
    REPORT_FILE,
    lower_is_better,
    read_numbers,
)
from components.shared.findings.verdict import best_baseline, figure, mean_of, verdict
from components.shared.storage.documents import read_json
from components.shared.storage.downloads import shown
from components.shared.telling.facts import WIDTH
from pipelines.history import COMPARISON, LOG, PARAMETERS, PUBLISHED, Kept, shown_root
from pipelines.inputs import is_prediction

DEMO = Path(__file__).parent / "params" / "demo.yaml"
"""Parameters of `make run` without PARAMS."""
FILES = {
    "card": "README.md",
    "report": f"eval/{REPORT_FILE}",
    "explorer": f"eval/{EXPLORER_FILE}",
    "effects": "predictions/effects.csv.gz",
}

COMPARISON_NUMBERS = {"conclusion": str, "missing": int, "best": {"prior": str, "seed": int}}
"""The shape of what is read of a comparison's `metrics.json`."""


def summary(root: Path, seconds: float) -> str:
    """Return the end of a run: verdict, metrics, paths and what to try next."""
    published = root / PUBLISHED
    scores = read_numbers(published / "eval")
    told = _wrapped(verdict(scores))
    if scores.get("scored", True):
        told += ["", *_table(scores)]
    paths = {PUBLISHED: ""} | {k: v for k, v in FILES.items() if (published / v).exists()}
    files = {name: str(Path(PUBLISHED, file)) for name, file in paths.items()}
    return _page(root, told, files, _next(root), seconds)


def _next(root: Path) -> list[str]:
    """Return what to try after a run."""
    run = Kept(root)
    if is_prediction(run.params):
        return [
            "look up a gene in the explorer; the card says how far to trust it",
            "other genes: make predict with ARGS=\"'perturbations=[MYC, TP53]'\"",
        ]
    published = shlex.quote(str(shown_root(root) / PUBLISHED))
    model = f"make predict MODEL={published} DATASET=<h5ad>"
    return [*_other_priors(run), f"another line:  {model}"]


def _other_priors(run: Kept) -> list[str]:
    """Return the commands that try other priors on the data of a run."""
    usual = yaml.safe_load(DEMO.read_text())
    if run.params | {"prior": ""} == usual | {"prior": ""}:
        return ['another prior: make run ARGS="prior=none"; several at once: make compare']
    elsewhere = " publish_to=" if run.params.get("publish_to") else ""
    params = shlex.quote(str(shown_root(run.root) / PARAMETERS))
    return [f'another prior: make run PARAMS={params} ARGS="prior=none{elsewhere}"']


def comparison_summary(root: Path, seconds: float) -> str:
    """Return the end of a comparison: verdict, the best run, paths and what to try next."""
    file = root / COMPARISON / "metrics.json"
    numbers = read_json(file, str(file), "run the compare task again", COMPARISON_NUMBERS)
    best = numbers["best"]
    missing = f"; {numbers['missing']} runs are missing" if numbers["missing"] else ""
    told = [
        *_wrapped(f"{numbers['conclusion']}{missing}"),
        "",
        *_wrapped(f"best in validation: {shown(best['prior'])}, seed {best['seed']}"),
    ]
    tried = ["more seeds make it surer: make compare ARGS=\"'seeds=[0, 1, 2, 3, 4]'\""]
    files = {PUBLISHED: PUBLISHED, "report": f"{COMPARISON}/report.html"}
    return _page(root, told, files, tried, seconds)


def _table(scores: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the verdict counts: model, best baseline and ceiling."""
    lines = [f"{'metric':<28}{'model':>7}  {'best baseline':<30}{'ceiling':>8}"]
    for metric in COMPARED:
        name, value = best_baseline(scores, metric)
        best = figure(value)
        model, ceiling = (figure(mean_of(scores, of, metric)) for of in (MODEL, CEILING))
        title = f"{metric} (lower is better)" if lower_is_better(metric) else metric
        lines.append(f"{title:<28}{model:>7}  {f'{best} {name}':<30}{ceiling:>8}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _page(
    root: Path, told: Sequence[str], files: Mapping[str, str], tried: Sequence[str], seconds: float
) -> str:
    where = shown_root(root)
    return "\n".join(
        [
            "",
            *told,
            "",
            f"run        {root.name}",
            f"log        {where / LOG}",
            *(f"{name:<10} {where / path}" for name, path in files.items()),
            "",
            f"finished in {seconds:.0f} s; try next:",
            *(f"  {line}" for line in tried),
        ]
    )
