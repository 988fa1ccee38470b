"""What a person wants to know at the end of a run on this machine, in at most 80 columns."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluate.metrics import EVERY, LOWER
from components.shared.downloads import shown
from pipelines.history import COMPARISON, PUBLISHED, Kept, shown_root
from pipelines.inputs import is_prediction

WIDTH = 80
HEADLINE = (
    "pearson_delta",
    "mae_delta",
    "discrimination_score_l1",
    "overlap_at_N",
    "de_direction_match",
    "roc_auc",
)
FIRST = HEADLINE[0]
KNOWN_EFFECTS = "known_effects"
"""What the prior `effects` gave the model to start from: a part of the model, and no baseline."""
FILES = {
    "card": "README.md",
    "report": "eval/report.html",
    "explorer": "eval/explorer.html",
    "effects": "predictions/effects.csv.gz",
}


def summary(root: Path, seconds: float) -> str:
    """Return the end of a run: verdict, metrics, paths and what to try next."""
    published = root / PUBLISHED
    scores = json.loads((published / "eval" / "metrics.json").read_text())
    if scores.get("scored", True):
        told = [*_wrapped(verdict(scores)), "", *_table(scores)]
    else:
        told = _wrapped(f"not scored: {scores['not_scored']}")
    paths = {PUBLISHED: ""} | {k: v for k, v in FILES.items() if (published / v).exists()}
    files = {name: str(Path(PUBLISHED, file)) for name, file in paths.items()}
    return _page(root, told, files, _next(root), seconds)


def _next(root: Path) -> list[str]:
    """Return what to try after a run."""
    if is_prediction(Kept(root).params):
        return [
            "look up a gene in the explorer; the card says how far to trust it",
            "other genes: make predict with ARGS=\"'perturbations=[MYC, TP53]'\"",
        ]
    return [
        'another prior: make run ARGS="prior=none"; several at once: make compare',
        f"another line:  make predict MODEL={shown_root(root) / PUBLISHED} DATASET=<h5ad>",
    ]


def comparison_summary(root: Path, seconds: float) -> str:
    """Return the end of a comparison: verdict, the best run, paths and what to try next."""
    numbers = json.loads((root / COMPARISON / "metrics.json").read_text())
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


def verdict(scores: Mapping[str, Any]) -> str:
    """Return in one sentence how the model stands to its best baseline."""
    name, value = best_baseline(scores, FIRST)
    against = scores.get("comparisons", {}).get(name, {})
    count = f"{scores['perturbations']} perturbation{'' if scores['perturbations'] == 1 else 's'}"
    if not against:
        return f"{FIRST} over {count}: model {_number(scores['model'].get(FIRST))}."
    return (
        f"Over {count} the model {against['verdict']} its best baseline, {name}: "
        f"{FIRST} {_number(against['model'])} against {_number(value)}."
    ) + _of_network(scores["comparisons"].get(KNOWN_EFFECTS))


def _of_network(against: Mapping[str, Any] | None) -> str:
    """Return what the network made of the effects that it was given, as a sentence if it was."""
    if not against:
        return ""
    return (
        f" Of that, {_number(against['baseline'])} are effects known from the training lines; the "
        f"network adds {against['difference']:+z.3f}."
    )


def best_baseline(scores: Mapping[str, Any], metric: str) -> tuple[str, float | None]:
    """Return the name and the value of the baseline that is best in a metric."""
    values = {name: column.get(metric) for name, column in scores["baselines"].items()}
    known = {
        name: value for name, value in values.items() if value is not None and name != KNOWN_EFFECTS
    }
    if not known:
        return "-", None
    pick = min if EVERY[metric].better == LOWER else max
    return pick(known.items(), key=lambda item: item[1])


def _table(scores: Mapping[str, Any]) -> list[str]:
    """Return the headline metrics: the model, its best baseline and the ceiling."""
    lines = [f"{'metric':<28}{'model':>7}  {'best baseline':<30}{'ceiling':>8}"]
    for metric in HEADLINE:
        name, value = best_baseline(scores, metric)
        model, best, ceiling = map(
            _number, (scores["model"].get(metric), value, scores["ceiling"].get(metric))
        )
        title = f"{metric} (lower is better)" if EVERY[metric].better == LOWER else metric
        lines.append(f"{title:<28}{model:>7}  {f'{best} {name}':<30}{ceiling:>8}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _page(
    root: Path,
    told: Sequence[str],
    files: Mapping[str, str],
    tried: Sequence[str],
    seconds: float,
) -> str:
    where = shown_root(root)
    return "\n".join(
        [
            "",
            *told,
            "",
            f"run        {root.name}",
            *(f"{name:<10} {where / path}" for name, path in files.items()),
            "",
            f"finished in {seconds:.0f} s; try next:",
            *(f"  {line}" for line in tried),
        ]
    )
