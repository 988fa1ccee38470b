"""How far each prediction can be trusted: what was expected beforehand, and whether it held."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from components.evaluate.pages.effect_tables import Effects
from components.evaluate.pages.plots import expected_against_reached, surest_curve
from components.evaluate.pages.report import rendered
from components.evaluate.pages.summary import finite
from components.shared.artifacts.confidence import COVERED, MEASURED, Confidence

BIN = 20
"""Least perturbations whose expectations and outcomes are averaged."""
BINS = 6
"""At most: enough to see a bend."""
LEAST_KEPT = 5
"""The curve of the surest starts with so many: a mean of fewer says little."""
LEAST_RANKED = 5
"""A rank correlation of fewer perturbations is not told."""
NAMED = 8
"""Perturbations that are named as those that can be trusted most, and least."""


@dataclass(frozen=True)
class Trust:
    """Expected scores of predictions, and achieved ones where these could be measured."""

    table: pd.DataFrame
    """`expected`, `low`, `high`, `known`, `trained`, `agreement`, `reached` (NaN = not measured),
    index = perturbation; those with an expectation."""
    confidence: Confidence
    scale: float
    """The factor that predictions were multiplied by."""

    @property
    def measured(self) -> pd.DataFrame:
        """The rows with an outcome."""
        return self.table.dropna(subset=["expected", "reached"])

    @property
    def rank(self) -> float | None:
        """Rank correlation of expected and reached."""
        return rank_correlation(self.measured["expected"], self.measured["reached"])

    @property
    def covered(self) -> float | None:
        """Share of outcomes within their interval."""
        found = self.measured
        inside = (found["reached"] >= found["low"]) & (found["reached"] <= found["high"])
        return float(inside.mean()) if len(found) else None

    @property
    def bins(self) -> pd.DataFrame:
        """Means of perturbations with like expectations: `expected`, `reached`, `count`."""
        found = self.measured.sort_values("expected", kind="stable")
        count = min(BINS, len(found) // BIN)
        parts = np.array_split(np.arange(len(found)), count) if count else []
        rows = [found.iloc[part][["expected", "reached"]].mean() for part in parts]
        table = pd.DataFrame(rows, columns=["expected", "reached"]).reset_index(drop=True)
        return table.assign(count=[len(part) for part in parts])

    def curve(self) -> pd.DataFrame:
        """Return the mean of what was reached when only the surest share is kept."""
        found = self.measured.sort_values("expected", ascending=False, kind="stable")
        kept = np.arange(1, len(found) + 1)
        mean = found["reached"].cumsum().to_numpy() / kept
        enough = kept >= min(LEAST_KEPT, len(found))
        return pd.DataFrame({"kept": kept / max(len(found), 1), "reached": mean})[enough]

    @property
    def numbers(self) -> dict[str, Any]:
        """Its part of `metrics.json`; every number is finite or None."""
        found = self.measured
        third = kept_surest(found["expected"], found["reached"], 1 / 3) if len(found) else None
        return {
            "scale": self.scale,
            "held_out_pearson_delta": self.confidence.reached(),
            "held_out_pearson_delta_untrained": self.confidence.reached(trained=False),
            "expected": finite(self.table["expected"].mean()),
            "expected_where_measured": finite(found["expected"].mean()),
            "reached": finite(found["reached"].mean()),
            "rank_correlation": self.rank,
            "covered": self.covered,
            "surest_third": None if third is None else finite(third),
        }

    @property
    def sentences(self) -> list[str]:
        """Sentences for the report, the most important first."""
        said = [self._of_scale()]
        if self.confidence.why:
            return [*said, self.confidence.why]
        expected = self.table["expected"].dropna()
        if not len(expected):
            return [*said, "No score can be expected for any of these perturbations."]
        said.append(
            f"Expected for {len(expected):,} predictions, without any perturbed cell of this line: "
            f"a pearson_delta of {expected.mean():.2f} on average, from {expected.min():.2f} to "
            f"{expected.max():.2f}."
        )
        if (missing := len(self.table) - len(expected)) > 0:
            said.append(f"For {missing:,} there is no expectation.")
        return said + self._of_outcomes() if len(self.measured) else said

    def _of_scale(self) -> str:
        if self.scale == 1.0 and self.confidence.scale == 1.0:
            return f"Predicted changes are not rescaled. {self.confidence.scale_from}"
        if self.scale == 1.0:
            return (
                "Predicted changes are not rescaled, as the recipe asks; for known effects alone "
                f"the best factor would be {self.confidence.scale:.2f}."
            )
        return f"Predicted changes are multiplied by {self.scale:.2f}. {self.confidence.scale_from}"

    def _of_outcomes(self) -> list[str]:
        found, numbers = self.measured, self.numbers
        said = [
            f"The {len(found):,} that were measured achieved {found['reached'].mean():.2f} on "
            f"average, where {found['expected'].mean():.2f} was expected; {self.covered:.0%} lie "
            f"within their {COVERED:.0%} interval."
        ]
        if self.rank is not None:
            said.append(f"The rank correlation of expected and achieved scores is {self.rank:.2f}.")
        if self.rank is not None and len(found) >= 3 * LEAST_KEPT:
            said.append(
                f"The most confident third achieves {numbers['surest_third']:.2f}, all of them "
                f"{found['reached'].mean():.2f}."
            )
        return said


def trust(asked: pd.DataFrame, reached: pd.Series, confidence: Confidence, scale: float) -> Trust:
    """Put what was expected (`predictions.PERTURBATION_COLUMNS`) beside what was reached.

    ``reached`` is from `reached_of`; ``scale`` is the factor that predictions were multiplied by.
    """
    names = {"expected_pearson_delta": "expected", "expected_low": "low", "expected_high": "high"}
    said = asked.set_index("perturbation").rename(columns=names)
    table = said[[*names.values(), "agreement"]].astype(float).assign(known=said["known"])
    table = table.assign(trained=table["known"] == MEASURED, reached=reached)
    return Trust(table, confidence, scale)


def reached_of(effects: Effects) -> pd.Series:
    """Return the correlation over genes of predicted and measured changes, NaN where not measured.

    Each change is against controls of its own: the predicted one against the model's input, the
    measured one against the reference controls. cell-eval's pearson_delta takes both against the
    reference controls, whose noise the two then share.
    """
    found = effects.likeness(lambda *block: effects.measured_of(*block)["measured_change"])
    return pd.Series(found, pd.Index(effects.perturbations, dtype=object))


def rank_correlation(a: pd.Series, b: pd.Series) -> float | None:
    """Return Spearman's correlation, None where a side does not vary or there are too few."""
    if len(a) < LEAST_RANKED or a.nunique() < 2 or b.nunique() < 2:
        return None
    return float(a.reset_index(drop=True).corr(b.reset_index(drop=True), method="spearman"))


def kept_surest(expected: ArrayLike, reached: ArrayLike, kept: float) -> float:
    """Return the mean of what was reached by the ``kept`` share with the highest expectations.

    Where an expectation at the edge is shared by several, each of them counts for its part.
    """
    table = pd.DataFrame({"expected": np.asarray(expected), "reached": np.asarray(reached)})
    groups = table.dropna().groupby("expected")["reached"].agg(["sum", "size"])[::-1]
    wanted = kept * groups["size"].sum()
    before = groups["size"].cumsum() - groups["size"]
    part = (np.clip(wanted - before, 0, groups["size"]) / groups["size"]).to_numpy()
    weight = float((part * groups["size"]).sum())
    return float((part * groups["sum"]).sum() / weight) if weight > 0 else np.nan


def trust_section(found: Trust) -> str:
    """Return the report's section as HTML."""
    content = {
        "found": found,
        "surest": _named(found.table, ascending=False),
        "least": _named(found.table, ascending=True),
        "plots": _plots(found),
    }
    return rendered("trust.html.j2", content)


def _named(table: pd.DataFrame, *, ascending: bool) -> list[dict[str, Any]]:
    ordered = table.dropna(subset="expected").sort_values(
        "expected", ascending=ascending, kind="stable"
    )
    if len(ordered) < 2 * NAMED:
        ordered = ordered.head(0 if ascending else len(ordered))
    return ordered.head(NAMED).rename_axis("label").reset_index().to_dict("records")  # type: ignore[return-value]


def _plots(found: Trust) -> dict[str, str]:
    measured = found.measured
    if len(measured) < 2:
        return {}
    drawn = {"calibration": expected_against_reached(measured, found.bins)}
    if found.rank is not None and len(measured) > LEAST_KEPT:
        drawn["curve"] = surest_curve(found.curve())
    return drawn
