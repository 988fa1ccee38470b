"""The outcome of a run in one sentence, the same in report, card, terminal and last page.

A sentence is one of few cases. It counts every headline metric against the strongest baseline, each
tested (`components.evaluate.measures.uncertainty`), so a metric that was picked afterwards cannot
carry it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.shared.artifacts.evaluation import (
    CEILING,
    CONTROL_CELLS,
    CONTROL_MEAN,
    HEADLINE_METRIC,
    KNOWN_EFFECTS,
    MAE_DELTA,
    MEAN_DELTA,
    MODEL,
    RIDGE,
    SAME_PERTURBATION_DELTA,
    lower_is_better,
)
from components.shared.telling.facts import count

BEATS = "beats"
FALLS_SHORT = "falls short of"
UNCLEAR = "is not clearly different from"
INCOMPARABLE = "cannot be compared with"
"""Results of a test of the model against a baseline."""

SAID = {
    CONTROL_CELLS: "control cells drawn at random",
    CONTROL_MEAN: "predicting no effect",
    MEAN_DELTA: "predicting the mean training effect for every gene",
    SAME_PERTURBATION_DELTA: "copying each gene's effect from the training lines",
    RIDGE: "ridge regression on the prior",
}
"""Baselines that count, as part of a sentence."""

MOST = 2 / 3
"""Share of the metrics that must point one way, and none the other, for "better" or "worse": all
but a third, so that one cannot be carried by metrics that say nearly the same."""
NOTHING = 0.01
"""A mean absolute change below this share of the measured one is no effect: a hundredth, as the
smallest difference that counts."""
LOW_CEILING = 0.2
"""Where repeating the experiment reaches less than this correlation, 4 % of the variance of the
measured changes repeats (its square): the rest is noise, and no prediction can be told by it."""

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How the model stands to one baseline, over all metrics that were tested."""

    better: int
    worse: int
    unclear: int

    @property
    def of(self) -> int:
        """Metrics in all."""
        return self.better + self.worse + self.unclear

    @property
    def counted(self) -> str:
        """The counts, as words."""
        return (
            f"better in {self.better}, worse in {self.worse}, unclear in {self.unclear} of "
            f"{self.of} metrics"
        )

    @property
    def word(self) -> str:
        """The verdict on the counts."""
        if self.better >= MOST * self.of and not self.worse:
            return "better than"
        if self.worse >= MOST * self.of and not self.better:
            return "worse than"
        return "about as good as"


def best_baseline(numbers: Numbers, metric: str) -> tuple[str, float | None]:
    """Return the name and the value of the baseline that is best in a metric; "-" = none."""
    values = {name: mean_of(numbers, name, metric) for name in numbers["baselines"]}
    known = {name: value for name, value in values.items() if value is not None and name in SAID}
    if not known:
        return "-", None
    pick = min if lower_is_better(metric) else max
    return pick(known.items(), key=lambda item: item[1])


def strongest_baseline(numbers: Numbers) -> str:
    """Return the baseline that is best in most of the metrics tested, "-" where there is none.

    Of several that are, the one with the higher pearson_delta.
    """
    ahead = Counter(best_baseline(numbers, metric)[0] for metric in numbers.get("tests", {}))
    ahead.pop("-", None)

    def rank(name: str) -> tuple[int, float]:
        value = mean_of(numbers, name, HEADLINE_METRIC)
        return ahead[name], -1.0 if value is None else value

    return max(ahead, key=rank, default="-")


def standing(numbers: Numbers, baseline: str) -> Standing:
    """Count how the model stands to a baseline in every metric that was tested."""
    found = Counter(
        tests[baseline]["verdict"] for tests in numbers["tests"].values() if baseline in tests
    )
    unclear = found[UNCLEAR] + found[INCOMPARABLE]
    return Standing(found[BEATS], found[FALLS_SHORT], unclear)


def verdict(numbers: Numbers) -> str:
    """Return the outcome of a run in one sentence, and one more on what the network added."""
    if not numbers.get("scored", True):
        return f"Not scored: {numbers['not_scored']}."
    weak = _weak(numbers)
    if _predicts_nothing(numbers):
        nothing = "The model predicts no effect: hardly any gene changes in any perturbation."
        return f"{nothing} These data could hardly show an effect: {weak}." if weak else nothing
    strongest = strongest_baseline(numbers)
    over = count(numbers["perturbations"], "perturbation")
    if strongest == "-":
        value = figure(mean_of(numbers, MODEL, HEADLINE_METRIC))
        return f"Over {over} there is nothing to hold the model against: {HEADLINE_METRIC} {value}."
    found = standing(numbers, strongest)
    if weak and found.word == "about as good as":
        return f"These data cannot tell: {weak} (against {SAID[strongest]}: {found.counted})."
    text = f"Over {over} the model is {found.word} {SAID[strongest]} ({found.counted})"
    if strongest != CONTROL_MEAN and CONTROL_MEAN in numbers["tests"].get(HEADLINE_METRIC, {}):
        text += _of_no_effect(numbers["tests"][HEADLINE_METRIC][CONTROL_MEAN]["verdict"], found)
    return f"{text}.{_of_network(numbers)}"


def _of_no_effect(said: str, found: Standing) -> str:
    """Return how the model stands to predicting nothing, as the end of a sentence."""
    good = found.word == "better than"
    if said == BEATS:
        joined = "but" if found.word == "worse than" else "and"
        return f", {joined} clearly better than no effect"
    how = "worse" if said == FALLS_SHORT else "not clearly better"
    joined = "but" if good else "and"
    return f", {joined} {how} than no effect"


def _of_network(numbers: Numbers) -> str:
    """Return what the network made of the effects that it was given, as a sentence if it was."""
    against = numbers.get("comparisons", {}).get(KNOWN_EFFECTS)
    if not against or against["difference"] is None:
        return ""
    difference = f"{against['difference']:+z.3f}"
    does = {
        BEATS: f"the network adds {difference}",
        FALLS_SHORT: f"the network takes away from that ({difference})",
    }.get(against["verdict"], f"the network adds nothing that counts ({difference})")
    return (
        f" Known effects of the training lines alone reach {HEADLINE_METRIC} "
        f"{figure(against['baseline'])}; {does}."
    )


def _predicts_nothing(numbers: Numbers) -> bool:
    """Return whether predicted changes are next to none of the measured ones' size.

    What predicting no effect gets in mae_delta is the mean absolute measured change.
    """
    predicted = numbers.get("predicted_strength")
    measured = numbers["baselines"].get(CONTROL_MEAN, {}).get(MAE_DELTA)
    return predicted is not None and bool(measured) and predicted < NOTHING * measured


def _weak(numbers: Numbers) -> str:
    """Return why the data can hardly tell predictions apart, empty where they can."""
    total, without = numbers["perturbations"], numbers.get("perturbations_without_de") or 0
    of = count(total, "perturbation")
    ceiling = numbers["ceiling"].get(HEADLINE_METRIC)
    if numbers.get("too_few"):
        return f"{of} {'is' if total == 1 else 'are'} too few for any test to be sure"
    reasons = []
    if 2 * without >= total:
        verb = "has" if without == 1 else "have"
        reasons.append(f"{without} of {of} {verb} no significant gene")
    if ceiling is not None and ceiling < LOW_CEILING:
        reasons.append(f"the ceiling of {HEADLINE_METRIC} is {figure(ceiling)}")
    return ", and ".join(reasons)


def mean_of(numbers: Numbers, prediction: str, metric: str) -> float | None:
    """Return a mean of the model, a baseline or the ceiling: cell-eval's and ours lie apart."""
    means = (numbers["baselines"] | {key: numbers[key] for key in (MODEL, CEILING)})[prediction]
    value = means.get(metric)
    return numbers.get("ours", {}).get(prediction, {}).get(metric) if value is None else value


def figure(value: float | None) -> str:
    """Return a mean as sentences and terminals show it."""
    return "-" if value is None else f"{value:.3f}"
