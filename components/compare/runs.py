"""The runs of a grid as they came: scores, what training took, and what is missing with reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from components.shared.artifacts import evaluation as evaluated
from components.shared.artifacts import shapes
from components.shared.artifacts.artifact import EVALUATION, Artifact, FailedError, opening
from components.shared.artifacts.evaluation import GROUPS_FILE, HEADLINE_METRIC, MODEL, SEEN
from components.shared.storage.documents import read_json, said
from components.shared.telling.errors import InputError, refusing

EVALUATE = "run the evaluate task again"


@dataclass(frozen=True)
class Run:
    """One run that came to its end."""

    cell: int
    """Its place in the grid."""
    prior: str
    seed: int
    evaluation: Artifact
    stats: Mapping[str, Any]
    """`training_stats.json` of its model."""

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The evaluation's `metrics.json`."""
        return evaluated.read_numbers(self.evaluation.path)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Each metric's value: rows (prediction, perturbation), one column per metric."""
        file = self.evaluation.path / evaluated.SCORES_FILE
        table = read_labelled(file, "prediction", "metric", "value")
        own = table[(table["prediction"] == MODEL) & (table["metric"] == HEADLINE_METRIC)]
        if own.empty:
            raise InputError(f"{file}: no {HEADLINE_METRIC} of the {MODEL}; {EVALUATE}")
        return table.pivot(index=["prediction", "perturbation"], columns="metric", values="value")

    @property
    def report(self) -> Path | None:
        """Its evaluation's report, None where there is none."""
        file = self.evaluation.path / evaluated.REPORT_FILE
        return file if file.is_file() else None

    @property
    def predictions(self) -> set[str]:
        """The model and the baselines it was evaluated beside."""
        return set(self.scores.index.get_level_values(0))

    def of(self, prediction: str) -> pd.DataFrame:
        """Return the scores of one prediction: one row per perturbation, one column per metric."""
        return pd.DataFrame(self.scores.xs(prediction, level="prediction"))

    @cached_property
    def seen(self) -> pd.Series:
        """Whether training had each perturbation."""
        table = read_labelled(self.evaluation.path / GROUPS_FILE, "training")
        return table.set_index("perturbation")["training"] == SEEN


def read_labelled(file: Path, *columns: str) -> pd.DataFrame:
    """Read a table whose perturbations are text, be it 007 or NA.

    Raises:
        InputError: no table, without one of ``columns``, a value that is no number, or two rows
            for one perturbation.
    """
    kinds = {column: float if column == "value" else str for column in columns}
    faults = (OSError, ValueError, OverflowError)  # of pandas' own, most are ValueErrors
    with refusing(faults, f"{file}: not readable as csv", f"; {EVALUATE}", said):
        table = pd.read_csv(file, converters={"perturbation": str}, dtype=kinds)
    for column in ("perturbation", *columns):
        if column not in table or (column != "value" and table[column].isna().any()):
            raise InputError(f"{file}: column '{column}' is missing or has gaps; {EVALUATE}")
    keys = [column for column in ("prediction", "perturbation", "metric") if column in table]
    if not len(table) or table.duplicated(keys).any():
        raise InputError(f"{file}: has no rows, or two of the same {', '.join(keys)}; {EVALUATE}")
    return table


@dataclass(frozen=True)
class Missing:
    """One run that did not."""

    prior: str
    seed: int
    stage: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """The runs of a comparison: those that there are and those that there are not."""

    runs: list[Run]
    missing: list[Missing]

    @property
    def priors(self) -> list[str]:
        """Priors with at least one run, in the order they were asked for."""
        return list(dict.fromkeys(run.prior for run in self.runs))

    def of(self, prior: str) -> list[Run]:
        """Return the runs of a prior, a seed each."""
        return [run for run in self.runs if run.prior == prior]

    @property
    def not_scored(self) -> str:
        """Why there are no scores, empty where there are; the same in every run."""
        return str(self.runs[0].numbers.get("not_scored", ""))

    @property
    def seen(self) -> pd.Series:
        """Whether training had each perturbation; the same in every run."""
        return self.runs[0].seen


def read_grid(
    evaluations: Sequence[Path | str],
    stats: Sequence[Path | str],
    cells: Sequence[Mapping[str, Any]],
) -> Grid:
    """Read the runs of a grid: evaluations (failed ones too), training stats, and prior and seed.

    All are in the order of the grid; the stats of a fine-tune that failed are empty.

    Raises:
        InputError: lists of different length, a run that is not what its cell says, evaluations of
            different test cells or splits, or no run at all.
    """
    if not len(evaluations) == len(stats) == len(cells):
        raise InputError(
            f"{len(evaluations)} evaluations and {len(stats)} training stats of {len(cells)} runs; "
            "give one of each a run"
        )
    runs: list[Run] = []
    missing: list[Missing] = []
    for place, (folder, file, cell) in enumerate(zip(evaluations, stats, cells, strict=True)):
        prior, seed = str(cell["prior"]), int(cell["seed"])
        try:
            evaluation = opening(folder, EVALUATION)
        except FailedError as failed:
            missing.append(Missing(prior, seed, failed.stage, failed.reason))
            continue
        facts = read_json(Path(file), str(file), "run the finetune task again", shapes.STATS)
        if facts.get("seed") != seed:
            raise InputError(f"{file}: is of seed {facts.get('seed')}, its cell of {seed}")
        runs.append(Run(place, prior, seed, evaluation, facts))
    if not runs:
        lost = missing[0]
        raise InputError(
            f"none of the {len(cells)} runs came to its end; the first, {lost.prior} with seed "
            f"{lost.seed}, failed in {lost.stage}: {lost.reason}"
        )
    first, *others = [run.evaluation for run in runs]
    for other in others:
        for name in ("cells", "splits"):
            own, its = (one.provenance["inputs"][name]["sha256"] for one in (first, other))
            if its != own:
                raise InputError(
                    f"{other.path}: other {name} than {first.path}; compare runs of one ingest "
                    "and one split"
                )
    return Grid(runs, missing)
