"""Which files a run publishes, and how they get from the artifacts into one folder."""

from collections.abc import Mapping
from pathlib import Path

from components.shared.artifact import Artifact, link_or_copy, sha256_of
from components.shared.errors import InputError

CARD_FILE = "README.md"

FILES = {
    "model": ("", ("best_model.pt", "args.json", "vocab.json", "training_stats.json")),
    "predictions": ("predictions", ("scgpt_replogle_test.h5ad",)),
    "evaluation": (
        "eval",
        (
            "agg_results.csv",
            "results.csv",
            "summary.csv",
            "scores.csv",
            "comparisons.csv",
            "strata.csv",
            "undefined.csv",
            "calibration.csv",
            "called_by_expression.csv",
            "metrics.json",
            "report.html",
        ),
    ),
}
"""Per artifact: the published sub-folder and the files, in the reference run's layout."""

OPTIONAL = {"model": ("gene_prior.json", "beyond_scgpt.safetensors", "effects.safetensors")}
"""Files that only some runs have, published beside the others of their artifact."""

OPTIONAL_NAMES = tuple(name for names in OPTIONAL.values() for name in names)

WHAT = {
    "best_model.pt": "weights of the best validation epoch, a state_dict",
    "args.json": "shape of the model, and the settings it was trained with",
    "vocab.json": "token to id",
    "training_stats.json": "how training went, epoch by epoch",
    "gene_prior.json": "where the gene prior comes from",
    "beyond_scgpt.safetensors": "tensors that scGPT's class does not have",
    "effects.safetensors": "the effects in other lines that the model was given",
    "scgpt_replogle_test.h5ad": "predicted and measured expression of every test cell",
    "agg_results.csv": "cell-eval's describe table, over what has a value",
    "results.csv": "cell-eval's metrics, a row a perturbation",
    "summary.csv": "means with intervals of the model, the baselines and the ceiling",
    "scores.csv": "every metric of every prediction and perturbation",
    "comparisons.csv": "the model against each baseline, with tests",
    "strata.csv": "means by kind of perturbation",
    "undefined.csv": "what has no value, and why",
    "calibration.csv": "how often a called gene really is, by predicted FDR",
    "called_by_expression.csv": "share of genes called by quintile of expression",
    "metrics.json": "means of everything, for machines",
    "report.html": "the report, with plots",
}


def check_files(artifacts: Mapping[str, Artifact]) -> None:
    """Check that every file to publish is there.

    Raises:
        InputError: one is missing from its artifact.
    """
    for name, (_, files) in FILES.items():
        artifact = artifacts[name]
        for file in files:
            if not (artifact.path / file).is_file():
                maker = artifact.provenance["made_by"]
                raise InputError(
                    f"{artifact.path}: has no {file}, which the {maker} task writes; run it again"
                )


def collect(artifacts: Mapping[str, Artifact], folder: Path) -> list[dict[str, str | int]]:
    """Put the files of the artifacts into ``folder``.

    Returns:
        A row a file: its path in the folder, what it is, sha256 and bytes.
    """
    rows: list[dict[str, str | int]] = []
    for name, (place, files) in FILES.items():
        artifact = artifacts[name]
        optional = [file for file in OPTIONAL.get(name, ()) if (artifact.path / file).is_file()]
        for file in [*files, *optional]:
            target = folder / place / file
            target.parent.mkdir(exist_ok=True)
            link_or_copy(artifact.path / file, target)
            rows.append(
                {
                    "path": f"{place}/{file}" if place else file,
                    "what": WHAT[file],
                    "sha256": sha256_of(target),
                    "bytes": target.stat().st_size,
                }
            )
    return rows
