"""The model card, written from what the run did: front matter for the Hub, then the facts."""

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.publish.chain import chain_rows, made_elsewhere, source_of
from components.publish.published_files import is_scored
from components.publish.terms import Terms, binding, citations_of, notice_of, terms_of
from components.shared.artifacts import evaluation, shapes
from components.shared.artifacts.artifact import Artifact, code_version
from components.shared.artifacts.evaluation import (
    CEILING,
    COMPARED,
    HEADLINE,
    HEADLINE_METRIC,
    MODEL,
    SUMMARY_FILE,
)
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, unit_of
from components.shared.findings.limitations import (
    few_shot,
    limitations,
    no_prior,
    open_licence,
)
from components.shared.findings.origins import prior_asked_for
from components.shared.findings.verdict import INCOMPARABLE, mean_of, standing, verdict
from components.shared.storage.documents import Shape, read_json, write_text
from components.shared.telling.addresses import JOIN, public, unchecked, visible
from components.shared.telling.errors import InputError
from components.shared.telling.facts import count
from components.shared.telling.markdown import names_as_code, plain

WHAT_CELLS_ARE = {
    "rank": "The cells are measured {test_line} controls, mapped gene by gene, by rank, to the "
    "predicted mean, which stays exact. Their spread, zeros and correlation of genes are those of "
    "the controls and no prediction. The baselines' means were turned into cells the same way.",
    "denoised": "The cells are the model's output, cell by cell, which spreads less than measured "
    "cells do; a baseline's cells all hold its mean. Where a mean lies among the controls then "
    "decides these metrics more than effects do: roc_auc below 0.5 is no wrong direction.",
}
"""Content of `X` besides the measured controls, by evaluate's `predicted_cells`."""

OVER = ("mean", "median", "max", "undefined")
"""Columns of evaluate's table of means that the card shows, of the model."""

Facts = Mapping[str, Any]


def number(value: float | None) -> str:
    """Return a metric's value as text, a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def against_baselines(metrics: Facts) -> list[str]:
    """Return a sentence a baseline: the test in the headline, and how many of all it was."""
    return [_against(name, metrics) for name in metrics["baselines"]]


def _against(name: str, metrics: Facts) -> str:
    test = metrics["comparisons"].get(name)
    if not test or test["difference"] is None:
        return f"In {HEADLINE_METRIC} the model {INCOMPARABLE} `{name}`."
    text = (
        f"In {HEADLINE_METRIC} the model **{test['verdict']}** `{name}`: {number(test['model'])} "
        f"against {number(test['baseline'])}"
    )
    if test["low"] is not None and test["high"] is not None:
        text += (
            f" (paired difference {test['difference']:+.4f}, 95 % interval {test['low']:+.4f} to "
            f"{test['high']:+.4f}, ahead in {test['better']} of {test['of']} perturbations)"
        )
    return f"{text}. In all: {standing(metrics, name).counted}."


def means_and_cells(metrics: Facts, test_line: str) -> list[str]:
    """Return which metrics of the table look at predicted means and which at predicted cells."""
    of = {
        what: ", ".join(name for name in HEADLINE if name in names)
        for what, names in metrics["metrics_of"].items()
    }
    return [
        f"Of the predicted means (`varm['predicted_mean']`) alone: {of['means']}.",
        f"Of the predicted cells (`X`): {of['cells']}. "
        + WHAT_CELLS_ARE[metrics["predicted_cells"]].format(test_line=test_line),
    ]


TEMPLATE = "card.md.j2"
TASK = "perturbation-prediction"
PIPELINE_TAG = "other"
"""Of the Hub's tasks, none of which is this one."""
BEYOND_SCGPT = ("beyond_scgpt.safetensors", "effects.safetensors")
"""Files of a model that scgpt's class has no place for."""
NAMED = 20
"""Most perturbations that the card names as left out."""
TAGS = ["biology", "genomics", "single-cell", "scgpt", TASK]


def write_card(
    artifacts: Mapping[str, Artifact], files: list[dict[str, str | int]], path: Path
) -> dict[str, Any]:
    """Write the model card and return the facts that a list of runs should show.

    Raises:
        InputError: a JSON or CSV file of an artifact lacks what the card needs.
    """
    run = _Run(artifacts)
    try:
        body = _environment().get_template(TEMPLATE).render(_context(run, artifacts, files))
        text = f"---\n{_front_matter(run).to_yaml()}\n---\n\n{names_as_code(body)}"
    except KeyError as error:
        raise InputError(
            f"{artifacts['model'].path}, {artifacts['evaluation'].path}: no {error} in their JSON "
            "files or summaries, which the model card needs; run the tasks again with this version"
        ) from None
    write_text(path, text)
    # Read back as the Hub will: a card that does not parse must not be published.
    ModelCard.load(path)
    means = run.metrics["model"]
    return {
        "test_line": run.test_line,
        "random_init": run.stats["random_init"],
        "prior": run.prior,
        "scored": run.scored,
        **{name: means[name] for name in HEADLINE if means.get(name) is not None},
    }


def result(artifacts: Mapping[str, Artifact]) -> str:
    """Return what a run came to, in a few lines of Markdown: verdict and headline numbers."""
    run = _Run(artifacts)
    means = run.metrics["model"]
    numbers = ", ".join(f"{name} {number(means[name])}" for name in HEADLINE if name in means)
    scores = f"Means over {run.metrics['perturbations']:,} perturbations: {numbers}."
    return "\n".join(
        [
            f"**{_safe(verdict(run.metrics))}**",
            f"Published: the model with prior {_safe(run.prior)}, "
            f"seed {run.stats['seed']}, {'tested on' if means else 'applied to'} "
            f"{_safe(run.test_line)}.",
            *([scores] if means else []),
        ]
    )


class _Run:
    """Content of the artifacts, read once."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self.model_at = made_elsewhere(artifacts["model"])
        shape = shapes.STATS if self.model_at else shapes.FULL_STATS
        self.stats = _json(artifacts["model"].path / "training_stats.json", shape)
        self.metrics = evaluation.read_numbers(artifacts["evaluation"].path)
        self.scored = is_scored(artifacts["evaluation"])
        summary = artifacts["evaluation"].path / SUMMARY_FILE
        self.over_perturbations = _over_perturbations(summary) if self.scored else {}
        confidence = artifacts["model"].path / "confidence.json"
        self.confidence = _json(confidence, shapes.CONFIDENCE)
        self.predictions = artifacts["predictions"].summary
        self.splits = artifacts["splits"].summary
        self.source = source_of(artifacts)

    @property
    def test_line(self) -> str:
        return str(self.splits["test_line"])

    @property
    def prior(self) -> str:
        """The requested prior (``effects`` has no table), without local paths."""
        return prior_asked_for(self.stats)

    @property
    def terms(self) -> list[Terms]:
        """Terms of the data, base weights and prior."""
        return terms_of(self.source["uri"], self.stats)

    @property
    def train_lines(self) -> list[str]:
        """The lines the model was trained on, wherever that was."""
        held_out = [str(row["line"]) for row in self.confidence["held_out"]]
        return [str(line) for line in self.splits.get("train_lines", ())] or held_out


def _json(path: Path, shape: Shape) -> dict[str, Any]:
    return read_json(path, str(path), "run its task again", shape)


def _over_perturbations(path: Path) -> dict[str, dict[str, float | None]]:
    """Return what evaluate found of the model over perturbations: `OVER` of each metric."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["prediction"] == MODEL]
            return {row["metric"]: {key: _finite(row[key]) for key in OVER} for row in rows}
    except KeyError as error:
        raise InputError(f"{path}: has no column {error}; evaluate again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a CSV file ({error}); evaluate again") from None


def _finite(text: str | None) -> float | None:
    """Return a number of a CSV file, None where it has none."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _source(run: _Run) -> str:
    uri = run.source["uri"]
    return public(uri) if uri else "unknown (the tasks did not pass it on)"


def _hub_id(uri: str, kind: str) -> str | None:
    """Return ``owner/name`` of an ``hf://<kind>/owner/name…`` URI."""
    found = re.match(rf"hf://{kind}/([^/@]+/[^/@]+)", uri)
    return found[1] if found else None


def _licence(run: _Run) -> tuple[str, str | None]:
    """Return licence and its name for the front matter; a prior or data can take MIT away."""
    prior = run.stats["prior"]
    if not open_licence(prior):
        return "other", f"prior-{_slug(str(prior.get('licence') or 'unknown'))}"
    bound = binding(run.terms)
    return ("other", _slug(bound)) if bound else ("mit", None)


def _slug(licence: str) -> str:
    said = licence.partition(":")[0].lower()
    return re.sub(r"[^a-z0-9.]+", "-", said).strip("-")[:60]


def _front_matter(run: _Run) -> ModelCardData:
    found = (_hub_id(one, "datasets") for one in run.source["uri"].split(JOIN))
    data_ids = {one for one in found if one}
    data_id = min(data_ids, default=None)
    stats = run.stats
    licence, licence_name = _licence(run)
    base = None if stats["random_init"] else _hub_id(stats["pretrained"], "models")
    results = [
        EvalResult(
            task_type=TASK,
            task_name=f"Predict perturbed cells of {run.test_line}",
            dataset_type=data_id or "custom",
            dataset_name=f"{_source(run)}, test line {run.test_line}",
            dataset_split="test",
            metric_type=name,
            metric_name=f"{name} (cell-eval, mean over perturbations)",
            metric_value=value,
        )
        for name, value in run.metrics["model"].items()
        if value is not None
    ]
    return ModelCardData(
        license=licence,
        license_name=licence_name,
        library_name="scgpt",
        tags=TAGS,
        pipeline_tag=PIPELINE_TAG,
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=sorted(data_ids) or None,
        model_name=f"scgpt-perturb {run.test_line}",
        eval_results=results or None,
    )


def _context(
    run: _Run, artifacts: Mapping[str, Artifact], files: list[dict[str, str | int]]
) -> dict[str, Any]:
    code = code_version()
    return {
        "run": run,
        "stats": run.stats,
        "counts": _counts(run.splits),
        "few_shot": few_shot(run.splits),
        "pretrained": public(run.stats["pretrained"]),
        "prior": {"requested": run.prior} | prior_rows(run.stats["prior"]),
        "model_at": public(run.model_at) if run.model_at else "",
        "asked": _asked(run.predictions),
        "extra": " and ".join(str(f["path"]) for f in files if f["path"] in BEYOND_SCGPT),
        "settings": run.stats["settings"],
        "source": {"uri": _source(run), "sha256": run.source["sha256"]},
        "unit": unit_of(run.splits.get(TARGET_SUM, USUAL)),
        "unchecked": unchecked(run.source["uri"]),
        "expression": {key: run.splits.get(f"scale_{key}", "") for key in ("found", "done")},
        "knock_down": run.splits.get("knock_down_filter", ""),
        "chain": chain_rows(artifacts),
        "code": f"{code['version']} ({code['revision']})",
        "metrics": _metric_rows(run),
        "means_and_cells": means_and_cells(run.metrics, run.test_line),
        "baselines": list(run.metrics["baselines"]),
        "number": number,
        "compared": [name for name in HEADLINE if name in run.metrics["model"]],
        "seen": run.metrics["seen"] if run.scored else {},
        "unseen": run.metrics["unseen"] if run.scored else {},
        "notice": notice_of(run.terms, [str(file["path"]) for file in files]),
        "citations": citations_of(run.source["uri"], run.terms),
        "verdict": verdict(run.metrics),
        "verdicts": against_baselines(run.metrics),
        "limitations": limitations(run.stats, run.predictions, run.metrics, run.splits),
        "files": files,
    }


def _asked(predictions: Mapping[str, Any]) -> str:
    """Say what was requested and what became of it."""
    total, missing = predictions["perturbations"], predictions.get("not_measured", 0)
    left_out = predictions.get("not_predicted", [])
    text = f"{count(total, 'perturbation')} predicted"
    if missing:
        text += f", {missing:,} of them without a measured cell"
    if left_out:
        named = ", ".join(left_out[:NAMED]) + (" …" if len(left_out) > NAMED else "")
        text += (
            f"; {len(left_out):,} left out, since the model knows neither gene nor effect ({named})"
        )
    return text


def _counts(splits: Mapping[str, Any]) -> dict[str, int]:
    return {
        key.replace("_", " "): value
        for key, value in splits.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def prior_rows(prior: Mapping[str, Any]) -> dict[str, str]:
    """Return what the prior task said of the table; of nested facts, the inner names too."""
    if no_prior(prior):
        return {"kind": "none"}
    nested = {
        f"{key} {inner}": value
        for key, facts in prior.items()
        if isinstance(facts, dict)
        for inner, value in facts.items()
    }
    rows = {
        key.replace("_", " "): value
        for key, value in {**prior, **nested}.items()
        if isinstance(value, str | int | float) and value != ""
    }
    rows |= {key: public(str(rows[key])) for key in ("source", "effects uri") if key in rows}
    rows |= {
        f"source {number}": f"{public(source['source'])} ({source['licence']})"
        for number, source in enumerate(prior.get("sources", ()), start=1)
        if source["source"]
    }
    rows.setdefault("licence", "unknown")
    return {key: str(value) for key, value in rows.items()}


def _metric_rows(run: _Run) -> list[dict[str, Any]]:
    """Return one row per metric of the verdict: the model, the baselines and the ceiling."""
    metrics = run.metrics
    return [
        {
            "name": f"{name} (lower is better)" if evaluation.lower_is_better(name) else name,
            **{key: number(found[key]) for key in OVER[:3]},
            "baselines": [number(mean_of(metrics, b, name)) for b in metrics["baselines"]],
            "ceiling": number(mean_of(metrics, CEILING, name)),
            "nan": int(found["undefined"] or 0),
        }
        for name in COMPARED
        if (found := run.over_perturbations.get(name))
    ]


def _environment() -> Environment:
    # Markdown, not HTML: `_safe` makes every value harmless in a table.
    return Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _safe(value: Any) -> Any:
    """Return a value's text that can neither break a table nor bring HTML along."""
    if not isinstance(value, str):
        return value
    return plain(visible(" ".join(value.split())))
