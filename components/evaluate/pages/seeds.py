"""How much the scores vary from seed to seed: several evaluations of the same test cells."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from components.shared.artifacts.artifact import EVALUATION, opening
from components.shared.artifacts.evaluation import SUMMARY_FILE
from components.shared.telling.errors import InputError


def spread_over_seeds(evaluations: Sequence[Path | str]) -> pd.DataFrame:
    """Return mean and spread of each metric's mean over several evaluation artifacts.

    Args:
        evaluations: folders of the artifacts, one a seed.

    Returns:
        A row per prediction and metric: prediction, metric, seeds (with a value), mean, sd (n - 1;
        NaN for one), low and high (the extremes).

    Raises:
        InputError: fewer than two, one given twice, or evaluations of other cells than the first.
    """
    if len(evaluations) < 2:
        raise InputError(f"{len(evaluations)} evaluations; a spread over seeds needs two or more")
    artifacts = [opening(folder, EVALUATION) for folder in evaluations]
    cells = [artifact.provenance["inputs"]["cells"]["sha256"] for artifact in artifacts]
    for number, artifact in enumerate(artifacts):
        if artifact.digest in [other.digest for other in artifacts[:number]]:
            raise InputError(f"{artifact.path}: the same evaluation is given twice")
        if cells[number] != cells[0]:
            raise InputError(
                f"{artifact.path}: evaluates other cells (sha256 {cells[number][:12]}) than "
                f"{artifacts[0].path} ({cells[0][:12]}); give seeds of one data set"
            )
    tables = [pd.read_csv(artifact.path / SUMMARY_FILE) for artifact in artifacts]
    grouped = pd.concat(tables).groupby(["prediction", "metric"], sort=False)["mean"]
    found = grouped.agg(seeds="count", mean="mean", sd="std", low="min", high="max")
    return found.reset_index()
