"""Results of an evaluation, as the tables and numbers behind its files and its report."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import pandas as pd

from components.evaluate.contenders.yardstick import Ceiling, Outcome
from components.evaluate.inputs.pair import Pair
from components.evaluate.measures.calibrated import Calibrated
from components.evaluate.measures.metrics import CELLS, EVERY, MEANS, names_of
from components.evaluate.measures.strata import by_stratum, strata
from components.evaluate.measures.uncertainty import compare
from components.evaluate.pages.summary import finite, metrics_json, summary_table, undefined_table
from components.shared.artifacts.evaluation import BASELINES, COMPARED, HALF, MODEL
from components.shared.artifacts.predictions import CELLS_KIND


@dataclass(frozen=True)
class Findings:
    """Every prediction's outcome, and what follows from them."""

    pair: Pair
    """The model's prediction and the measured cells."""
    kind: str
    """What the model's cells are, one of `rank_cells.PREDICTED_CELLS`."""
    outcomes: dict[str, Outcome]
    """By prediction, the model's first."""
    ceiling: Ceiling | None
    calibrated: Calibrated | None
    """None where there is no replicate to calibrate by."""
    fallbacks: Mapping[str, list[str]]
    """By baseline, the perturbations that it knows nothing of and gives the mean delta."""

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """Metrics by prediction, index = perturbation; the halves of the measured cells last."""
        found = {name: outcome.metrics for name, outcome in self.outcomes.items()}
        return found | ({HALF: self.ceiling.outcome.metrics} if self.ceiling else {})

    @property
    def model(self) -> Outcome:
        """The model's outcome."""
        return self.outcomes[MODEL]

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines there are, in the order of what they know."""
        return [name for name in BASELINES if name in self.outcomes]

    @cached_property
    def seen(self) -> pd.Series:
        """Whether training had each perturbation."""
        flags = self.pair.obs["seen_in_training"].to_numpy(bool)
        return pd.Series(flags).groupby(self.pair.labels).any().drop(self.pair.control)

    @cached_property
    def de_genes(self) -> pd.Series:
        """How many genes of each perturbation are measured as differentially expressed."""
        return self.model.metrics["de_nsig_counts_real"]

    @cached_property
    def groups(self) -> pd.DataFrame:
        """The kind of each perturbation, see `strata.strata`."""
        cells = pd.Series({label: len(self.pair.rows[label]) for label in self.pair.perturbations})
        return strata(self.seen, cells, self.de_genes)

    @cached_property
    def strata(self) -> pd.DataFrame:
        """Means by kind of perturbation, see `strata.by_stratum`."""
        scores = {name: values for name, values in self.scores.items() if name != HALF}
        return by_stratum(scores, self.groups, list(EVERY))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means with intervals, see `summary.summary_table`."""
        return summary_table(self.scores, self.ceiling.table if self.ceiling else None)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """The model against each baseline, see `uncertainty.compare`."""
        others = {name: self.scores[name] for name in self.baselines}
        return compare(self.model.metrics, others, COMPARED)

    @cached_property
    def undefined(self) -> pd.DataFrame:
        """Undefined values, see `summary.undefined_table`."""
        return undefined_table(self.scores, self.de_genes)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Content of `metrics.json`; every number is finite or None."""
        columns, calibrated = self.model.table.columns, self.calibrated or Calibrated({}, {}, {})
        return metrics_json(self.summary, self.strata, self.groups, self.comparisons) | {
            "not_computed": self.model.not_computed,
            "perturbations_without_de": int((self.de_genes == 0).sum()),
            "fallbacks": {name: len(labels) for name, labels in self.fallbacks.items()},
            CELLS_KIND: self.kind,
            "metrics_of": {what: names_of(what, columns) for what in (MEANS, CELLS)},
            "calibrated": {
                "scores": _finite(calibrated.scores),
                "raw": _finite(calibrated.raw),
                "without_scale": calibrated.without_scale,
            },
            "diagnosis": {
                name: asdict(outcome.diagnosis)
                for name, outcome in self.outcomes.items()
                if outcome.diagnosis
            },
            "cell_eval": version("cell-eval"),
            "cell_eval2": version("cell-eval2"),
        }

    def calls(self, what: str) -> pd.DataFrame:
        """Return one of the tables of `Calls`, by its name, of every prediction."""
        tables = {name: getattr(outcome.calls, what) for name, outcome in self.outcomes.items()}
        table = pd.concat(tables, names=["prediction"]).reset_index("prediction")
        return table.reset_index(drop=True)


def _finite(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        name: {metric: finite(value) for metric, value in found.items()}
        for name, found in scores.items()
    }
