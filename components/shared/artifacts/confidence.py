"""How far a prediction can be trusted, told without any cell of the test line.

Finetune leaves each training line out in turn, predicts it by what the other lines tell alone, and
learns how what is reached (`pearson_delta`) goes with what is known beforehand of a perturbation.
What it learns goes with the model as `confidence.json`; predict asks it what to expect.

The expected pearson_delta is that of a change whose noise is its own: predicted and measured
changes that subtract the same controls, as cell-eval's do, share their noise and correlate more.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.shared.artifacts.shapes import CONFIDENCE
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.storage.documents import read_json, write_json
from components.shared.telling.errors import InputError, refusing

CONFIDENCE_FILE = "confidence.json"

MEASURED, SUMMED, NEAR_BY, MEAN = "measured", "summed", "near by", "mean"
"""How an effect is known: from cells of its own, as the sum of its genes', from perturbations
near by in a gene prior, or as the mean of all."""
ORIGINS = (MEASURED, SUMMED, NEAR_BY, MEAN)

CONTROL_SIMILARITY, CARRIED, STRENGTH = "control_similarity", "carried", "strength"
"""What expectations are made of: how near the line's controls are to training's; the correlation
that a delta of one more line should have with the mean of those known, were it as like them as they
are to each other; and the root mean square over genes of the known effect."""
MOST_SCALE = 3.0
"""Known effects that are this much smaller than what lines measure tell next to nothing."""
COVERED = 0.8
"""Share of reached values that intervals are meant to hold."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Scores of known effects alone in a training line that was left out."""

    line: str
    control_similarity: float | None
    """Of its controls to those of the nearest other training line."""
    perturbations: int
    """Those that another line has."""
    pearson_delta: float | None
    """Mean over them of what is reached with known effects alone."""
    untrained: int
    """Perturbations that were predicted as if no other line had them."""
    untrained_pearson_delta: float | None
    """Mean over them."""


@dataclass(frozen=True)
class Expectation:
    """A linear model of the reached pearson_delta, with an interval."""

    features: list[str]
    weights: list[float]
    intercept: float
    least: float
    """No expectation is lower: 0, or the lowest that it was learned from."""
    below: float
    """How far down the interval reaches."""
    above: float
    """How far up it reaches."""
    rows: int
    """Pairs of left-out line and perturbation that it was learned from."""

    def of(self, features: pd.DataFrame) -> Floats:
        """Return expectation, lower and upper end of its interval for each row, [3, rows]."""
        values = features[self.features].to_numpy(float)
        found = np.clip(self.intercept + values @ np.array(self.weights), self.least, 1.0)
        return np.clip([found, found - self.below, found + self.above], -1.0, 1.0)


@dataclass(frozen=True)
class Confidence:
    """How far predictions can be trusted, as far as the training lines show."""

    scale: float
    """The factor by which predicted changes are multiplied, above 0, at most `MOST_SCALE`."""
    scale_from: str
    """How it was found, or why it is 1, as a sentence."""
    why: str
    """Why there are no expectations, as a sentence; empty where there are."""
    held_out: list[HeldOut]
    perturbations: pd.DataFrame
    """What is known of each perturbation of the screen, index = label: `known`, `agreement`,
    `lines`, `cells`, `carried`, `strength`."""
    expectations: dict[str, Expectation]
    """By how an effect is known; those that could be learned."""
    usual_strength: dict[str, float]
    """By how an effect is known; for perturbations that the screen does not have."""

    def reached(self, *, trained: bool = True) -> float | None:
        """Return the mean pearson_delta of the held-out lines, None where there is none."""
        lines = [h.pearson_delta if trained else h.untrained_pearson_delta for h in self.held_out]
        finite = [value for value in lines if value is not None]
        return float(np.mean(finite)) if finite else None

    def write(self, path: Path) -> None:
        """Write it as JSON; NaN becomes null."""
        table = self.perturbations
        columns = {name: _plain(table[name]) for name in table}
        content = {
            "scale": self.scale,
            "scale_from": self.scale_from,
            "why": self.why,
            "held_out": [asdict(row) for row in self.held_out],
            "expectations": {how: asdict(each) for how, each in self.expectations.items()},
            "usual_strength": self.usual_strength,
            "perturbations": {"label": table.index.tolist(), **columns},
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "Confidence":
        """Read what `write` wrote; anything else is refused."""
        faults = (OSError, ValueError, TypeError, KeyError, AttributeError)
        with refusing(faults, f"{path}: no table of confidence", "; fine-tune again"):
            content = read_json(path, str(path), "fine-tune again", CONFIDENCE)
            table = pd.DataFrame(content.pop("perturbations")).set_index("label")
            numbers = table.columns.drop("known")
            held_out = [HeldOut(**row) for row in content.pop("held_out")]
            expectations = {
                how: Expectation(**each) for how, each in content.pop("expectations").items()
            }
            found = cls(
                held_out=held_out,
                perturbations=table.astype(dict.fromkeys(numbers, float)),
                expectations=expectations,
                **content,
            )
            found.expected(table.index[:1].tolist(), 0.0)
            usable = 0 < found.scale <= MOST_SCALE
        if not usable:
            raise InputError(
                f"{path}: scale {found.scale}, expected more than 0, at most {MOST_SCALE:g}; "
                "fine-tune again"
            )
        return found

    def expected(
        self, labels: Sequence[str], control_similarity: float, known: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return what to expect of predictions of some perturbations in a line.

        ``control_similarity`` is that of the line's controls to the nearest training line's (see
        the function). ``known`` says how the effect of each is known, where that is not as in
        `perturbations`; None = as there, and of those that are not there as the mean. There is a
        row per label, in their order, with `agreement`, `known`, `expected_pearson_delta`,
        `expected_low`, `expected_high`; NaN where it cannot be said, see `why`.
        """
        table = self.perturbations.reindex(pd.Index(labels, dtype=object))
        table["known"] = table["known"].fillna(MEAN) if known is None else list(known)
        usual = table["known"].map(self.usual_strength).astype(float)
        features = pd.DataFrame(
            {
                CARRIED: table[CARRIED],
                STRENGTH: table[STRENGTH].fillna(usual),
                CONTROL_SIMILARITY: control_similarity,
            }
        )
        found = np.full((3, len(table)), np.nan)
        for how, expectation in self.expectations.items():
            rows = (table["known"] == how).to_numpy()
            found[:, rows] = expectation.of(features[rows])
        names = ("expected_pearson_delta", "expected_low", "expected_high")
        return table[["agreement", "known"]].assign(**dict(zip(names, found, strict=True)))


def control_similarity(
    control: NDArray[np.floating], genes: Sequence[str], training: TrainingEffects
) -> float:
    """Return how near a line's controls are to those of the nearest training line.

    It is the highest correlation of mean expression over the genes that both have, NaN where those
    are fewer than two or do not vary. ``control`` is the mean of the line's controls, [genes],
    log1p of counts per 10,000.
    """
    columns = pd.Index(genes).get_indexer(pd.Index(training.genes))
    own, others = np.asarray(control, float)[columns[columns >= 0]], training.control
    return nearest_of(own, np.asarray(others, float)[:, columns >= 0])


def nearest_of(own: Floats, others: Floats) -> float:
    """Return the highest correlation of ``own`` [genes] with a row of ``others`` [rows, genes]."""
    if len(own) < 2 or not len(others):
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [np.corrcoef(own, other)[0, 1] for other in others]
    finite = [value for value in found if np.isfinite(value)]
    return float(max(finite)) if finite else float("nan")


def _plain(column: pd.Series) -> list[Any]:
    """Return values that JSON can hold."""
    if column.dtype == object:
        return column.tolist()
    return [round(float(x), 6) if np.isfinite(x) else None for x in column]


def correlations(a: Floats, b: Floats) -> Floats:
    """Return the correlation of centred rows, NaN where one does not vary, [rows]."""
    norm = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norm, out=np.full(len(a), np.nan), where=norm > 0)
