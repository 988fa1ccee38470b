"""Which files a run publishes, and how they get from the artifacts into one folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.shared.artifacts import evaluation as evaluated
from components.shared.artifacts.artifact import Artifact, link_or_copy
from components.shared.artifacts.evaluation import REPORT_FILE
from components.shared.artifacts.finished import BESIDE, NEEDED
from components.shared.artifacts.licences import STATE_LICENCE_FILE
from components.shared.storage.digests import sha256_of
from components.shared.telling.errors import InputError

CARD_FILE = "README.md"

SCORES = {
    evaluated.AGGREGATED_FILE: "cell-eval's describe table, over what has a value",
    evaluated.RESULTS_FILE: "cell-eval's metrics, one row per perturbation",
    evaluated.SUMMARY_FILE: "means with intervals of the model, the baselines and the ceiling",
    evaluated.SCORES_FILE: "every metric of every prediction and perturbation",
    evaluated.COMPARISONS_FILE: "the model against each baseline, with tests",
    evaluated.STRATA_FILE: "means by kind of perturbation",
    evaluated.UNDEFINED_FILE: "what has no value, and why",
    evaluated.CALIBRATION_FILE: "how often a called gene really is, by predicted FDR",
    evaluated.CALLED_FILE: "share of genes called by quintile of expression",
}
"""Tables that there are only where something was measured, and what they hold."""
EFFECTS = {
    "effects.parquet": "each perturbation and gene: predicted, measured, and in each training line",
    "effects.csv.gz": "the same as text",
    "perturbations.csv": "per perturbation: cells, lines, strength, top genes, what to expect",
}


@dataclass(frozen=True)
class Group:
    """Files of one artifact that are published in one folder."""

    artifact: str
    folder: str
    """Empty = the top."""
    names: Collection[str]
    optional: bool = False
    """Whether only some runs have them."""


def groups(*, scored: bool) -> list[Group]:
    """Return what a run publishes, in the reference run's layout; scores where it has any."""
    return [
        Group("model", "", NEEDED),
        Group("model", "", BESIDE, optional=True),
        Group("predictions", "predictions", ("scgpt_replogle_test.h5ad",)),
        Group("evaluation", "predictions", EFFECTS),
        Group("evaluation", "eval", SCORES if scored else ()),
        Group("evaluation", "eval", (evaluated.METRICS_FILE, REPORT_FILE)),
        Group("evaluation", "eval", (evaluated.EXPLORER_FILE,), optional=True),
    ]


SOMETIMES = tuple(
    f"{group.folder}/{name}" if group.folder else name
    for group in groups(scored=True)
    if group.optional or group.names is SCORES
    for name in group.names
)
"""Paths in a published folder of files that only some runs have."""


def is_scored(evaluation: Artifact) -> bool:
    """Return whether an evaluation had anything to score."""
    return bool(evaluation.summary.get("scored", True))


WHAT = {
    "best_model.pt": "weights of the best validation epoch, a state_dict",
    "args.json": "shape of the model, and the settings it was trained with",
    "vocab.json": "token to id",
    "training_stats.json": "how training went, epoch by epoch",
    STATE_LICENCE_FILE: "the licence of the State Model, which the gene prior is of",
    "gene_prior.json": "where the gene prior comes from",
    "beyond_scgpt.safetensors": "tensors that scGPT's class does not have",
    "effects.safetensors": "the effects in other lines that the model was given",
    "training_effects.safetensors": "what the training lines showed, to set predictions beside",
    "confidence.json": "what to expect of a prediction, learnt from left-out training lines",
    evaluated.EXPLORER_FILE: "look up a knock-down, or what moves a gene",
    "scgpt_replogle_test.h5ad": "predicted cells, and the measured ones where there are any",
    evaluated.METRICS_FILE: "means of everything, for machines",
    REPORT_FILE: "the report, with plots",
    **EFFECTS,
    **SCORES,
}


def check_files(artifacts: Mapping[str, Artifact]) -> None:
    """Check that every file to publish is there."""
    for group in groups(scored=is_scored(artifacts["evaluation"])):
        artifact = artifacts[group.artifact]
        for name in () if group.optional else group.names:
            if not (artifact.path / name).is_file():
                maker = artifact.provenance["made_by"]
                raise InputError(
                    f"{artifact.path}: has no {name}, which the {maker} task writes; run it again"
                )


def collect(artifacts: Mapping[str, Artifact], folder: Path) -> list[dict[str, str | int]]:
    """Put the artifacts' files into ``folder``; return path, what, sha256 and bytes of each."""
    rows: list[dict[str, str | int]] = []
    for group in groups(scored=is_scored(artifacts["evaluation"])):
        source = artifacts[group.artifact].path
        for name in (name for name in group.names if (source / name).is_file()):
            target = folder / group.folder / name
            target.parent.mkdir(exist_ok=True)
            link_or_copy(source / name, target)
            rows.append(
                {
                    "path": f"{group.folder}/{name}" if group.folder else name,
                    "what": WHAT[name],
                    "sha256": sha256_of(target),
                    "bytes": target.stat().st_size,
                }
            )
    return rows
