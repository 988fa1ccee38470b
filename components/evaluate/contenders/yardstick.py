"""The measured side of every comparison, and its halves: what data allow any model to score."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from cell_eval._evaluator import SB_METRICS

from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Chosen, dense
from components.evaluate.measures.calibrated import Raw, raw_scores, replicate_scores
from components.evaluate.measures.centred import pearson_delta_centred
from components.evaluate.measures.diagnosis import (
    CHANCE,
    Calls,
    Diagnosis,
    calls,
    control_skew,
    diagnose,
)
from components.evaluate.measures.measured import Measured
from components.evaluate.measures.metrics import EVERY
from components.evaluate.measures.scoring import Score, score
from components.evaluate.measures.side import Side
from components.shared.artifacts.evaluation import CENTRED

SEED = 0
"""cell-eval's own seed for its ceiling."""


def halves(pair: Pair) -> Pair | None:
    """Return one half of the measured cells as a prediction of the other.

    The cells of each perturbation and the controls are split at random into two disjoint halves
    of floor(n / 2), as cell-eval's `compute_ceiling` does; each half has controls of its own.
    Perturbations with a single cell are left out. None where no halves can be made: fewer than two
    controls, or no perturbation with two cells.
    """
    sizes = {label: len(rows) for label, rows in pair.rows.items()}
    if sizes.pop(pair.control) < 2 or max(sizes.values()) < 2:
        return None
    rng = np.random.default_rng(SEED)
    drawn = [(rng.permutation(own), len(own) // 2) for own in pair.rows.values()]
    rows = np.concatenate([own[:half] for own, half in drawn])
    others = np.concatenate([own[half : 2 * half] for own, half in drawn])
    predicted, measured = Chosen(pair.measured, others), Chosen(pair.measured, rows)
    return replace(pair, predicted=predicted, obs=pair.obs.iloc[rows], measured=measured)


def at_full_depth(metrics: pd.DataFrame) -> pd.DataFrame:
    """Map what the halves score to the depth of all cells, as cell-eval's `compute_ceiling`.

    Spearman-Brown, 2r / (1 + r), of each metric's mean over perturbations, in the metrics that
    cell-eval holds fit for it (`SB_METRICS`; no error metric is) and in our correlation, where
    r > 0. cell-eval's own mean is NaN as soon as one perturbation has no value; this one leaves
    those out. Index = metric; columns half_depth (the halves' mean), ceiling and n_nan.
    """
    mean = metrics.mean()
    fit = mean.index.isin([*SB_METRICS, CENTRED])
    corrected = (2 * mean / (1 + mean)).where((mean > 0) & fit)
    parts = {"half_depth": mean, "ceiling": corrected, "n_nan": metrics.isna().sum()}
    return pd.DataFrame(parts).rename_axis("metric")


@dataclass(frozen=True)
class Outcome:
    """The results of one prediction."""

    table: pl.DataFrame
    """cell-eval's metrics, one row per perturbation, in its own form."""
    metrics: pd.DataFrame
    """The same as floats and ours beside them, all of `EVERY`, index = perturbation."""
    not_computed: dict[str, str]
    """Metrics that failed on this input, with the reason."""
    calls: Calls
    diagnosis: Diagnosis | None
    """Why roc_auc is below chance, where it is."""
    calibrated: Raw
    """cell-eval2's metrics before rescaling."""


@dataclass(frozen=True)
class Ceiling:
    """How well the measured cells predict themselves."""

    outcome: Outcome
    """Scores of one half as a prediction of the other, at half the depth."""
    table: pd.DataFrame
    """Mapped to full depth, see `at_full_depth`."""
    replicate: Raw
    """cell-eval2's metrics of a replicate, before rescaling."""


@dataclass(frozen=True)
class Yardstick:
    """The measured side, made ready once for every prediction of the same cells."""

    pair: Pair
    measured: Measured
    threads: int
    cache: Path | None

    @classmethod
    def of(
        cls, pair: Pair, *, threads: int, what: str = "measured cells", cache: Path | None = None
    ) -> "Yardstick":
        """Make the measured cells of ``pair`` ready; its prediction is not looked at."""
        measured = Measured.of(pair, threads=threads, what=what, cache=cache)
        return cls(pair, measured, threads, cache)

    def examine(self, prediction: Pair, *, what: str) -> Outcome:
        """Score a prediction of the same cells; ``what`` names it in the progress bar."""
        # Of the predictions only the model's is kept, for a run that is cut off after it.
        cache = self.cache if prediction is self.pair else None
        found = score(
            prediction, threads=self.threads, measured=self.measured, what=what, cache=cache
        )
        return self._outcome(found, own_controls=False)

    def ceiling(self) -> Ceiling | None:
        """Score one half of the measured cells as a prediction of the other, if it can be done."""
        split = halves(self.pair)
        if split is None:
            return None
        what, threads, cache = "half of the measured cells", self.threads, self.cache
        half = Yardstick.of(split, threads=threads, what=what, cache=cache)
        found = score(
            split, threads=threads, measured=half.measured, what="the other half", cache=cache
        )
        outcome = half._outcome(found, own_controls=True)
        sides = found.predicted, half.measured.side, self.measured.side
        replicate = replicate_scores(*sides, split.genes)
        return Ceiling(outcome, at_full_depth(outcome.metrics), replicate)

    def _outcome(self, found: Score, *, own_controls: bool) -> Outcome:
        predicted, measured = found.predicted, self.measured.side
        ours = {CENTRED: pearson_delta_centred(predicted.deltas, measured.deltas)}
        # cell-eval leaves out a metric that no perturbation has.
        metrics = found.metrics.assign(**ours).reindex(columns=list(EVERY))
        failed = dict(found.not_computed)
        raw = raw_scores(
            predicted, measured, self.pair.genes, own_controls=own_controls, failed=failed
        )
        return Outcome(
            found.table,
            metrics,
            failed,
            calls(predicted.fdr, measured.called, measured.centroids[0]),
            self._diagnosis(metrics, predicted),
            raw,
        )

    def _diagnosis(self, metrics: pd.DataFrame, predicted: Side) -> Diagnosis | None:
        """Say why roc_auc is below chance, where it is."""
        if not metrics["roc_auc"].mean() < CHANCE:
            return None
        controls = dense(self.pair.measured[self.pair.rows[self.pair.control]])
        skew = control_skew(predicted.centroids[1:], controls)
        return diagnose(predicted.fdr, self.measured.side.called, skew)
