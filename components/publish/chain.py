"""The chain of digests from the source data to the evaluation, and that it is one chain."""

from collections.abc import Mapping

from components.shared.artifacts.artifact import Artifact
from components.shared.artifacts.finished import PUBLISHED_AT
from components.shared.telling.errors import InputError

MADE_FROM = (
    ("model", "splits"),
    ("predictions", "model"),
    ("predictions", "splits"),
    ("evaluation", "predictions"),
    ("evaluation", "splits"),
)
"""(artifact, the input it must have been made from)."""


def check_chain(artifacts: Mapping[str, Artifact]) -> None:
    """Check that the artifacts are of one run, so that the card cannot mix two.

    Raises:
        InputError: one was made from another input than the one given.
    """
    for name, needed in MADE_FROM:
        if name == "model" and made_elsewhere(artifacts["model"]):
            continue
        artifact, wanted = artifacts[name], artifacts[needed]
        found = artifact.provenance["inputs"].get(needed, {}).get("sha256", "none")
        if found != wanted.digest:
            raise InputError(
                f"{artifact.path}: made from other {needed} (sha256 {found[:12]}) than "
                f"{wanted.path} ({wanted.digest[:12]}); give the artifacts of one run"
            )


def made_elsewhere(model: Artifact) -> str:
    """Return where a finished model was taken from; empty for one that this run fine-tuned."""
    return str(model.summary.get(PUBLISHED_AT, ""))


def source_of(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Return the data set's URI, empty if no task passed it on, and its sha256, else 'unknown'."""
    summaries = (artifact.summary for artifact in artifacts.values())
    told = next((summary for summary in summaries if summary.get("source")), {})
    return {
        "uri": str(told.get("source", "")),
        "sha256": str(told.get("source_sha256") or "unknown"),
    }


def chain_rows(artifacts: Mapping[str, Artifact]) -> list[dict[str, str]]:
    """Return one row per artifact from cells to evaluation: name, format, sha256, task, code."""
    inputs = {
        name: facts
        for artifact in ("predictions", "model")
        for name, facts in artifacts[artifact].provenance["inputs"].items()
    }
    rows = [
        {key: inputs[name][key] for key in ("format", "sha256")}
        | {"name": name, "task": task, "revision": "", "image": ""}
        for name, task in (("cells", "ingest"), ("prior", "prior"))
        if name in inputs
    ]
    for name in ("splits", "model", "predictions", "evaluation"):
        facts = artifacts[name].provenance
        own = {"name": name, "sha256": artifacts[name].digest, "task": facts["made_by"]}
        own["revision"] = f"{facts['code']['version']} ({facts['code']['revision']})"
        rows.append(own | {key: facts[key] for key in ("format", "image")})
    return rows
