"""How far known effects carry, and by what factor: learned from left-out lines, no network.

Each training line is left out in turn and predicted by what the others tell (`left_out`), and what
is reached is regressed on what is known of a perturbation without the line: how well the lines that
tell of it agree beyond their noise, and how near the line's controls are to theirs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from components.finetune import cross_line_effects
from components.finetune.cross_line_effects import Effects, carried, others_of
from components.finetune.data import Floats
from components.finetune.effect_parts import estimates_from
from components.finetune.effect_sizes import Sizes, as_large_as_measured
from components.finetune.effect_weights import weights_of
from components.finetune.evidence import Evidence
from components.finetune.left_out import LeftOut, Screen, left_out, strength_of
from components.shared.artifacts.confidence import (
    CARRIED,
    CONTROL_SIMILARITY,
    COVERED,
    MEASURED,
    ORIGINS,
    STRENGTH,
    Confidence,
    Expectation,
)
from components.shared.artifacts.perturbation import CONTROL

LEAST_ROWS = 9
"""From fewer residuals no interval of 80 % can be told: its ends are quantiles of 10 %."""
LEAST_SCALE = 0.01
"""A factor of 0 would take the direction away with the size. It is 1 at most: no line stands out
when each is left out in turn, and what a mean over lines has in common with another line is no more
than itself."""
AS_LARGE_AS_ERRORS_ALLOW = (
    "It is the largest factor with which the training lines, each left out in turn ({}), are "
    "predicted with no larger error, squared or absolute, than by copying the other lines' "
    "changes, or by predicting nothing; or a larger one, with no larger error than copying, where "
    "copying told perturbations apart better."
)
AS_LARGE_AS_MEASURED = (
    "No training line can be left out and told by others, so the factor makes known effects as "
    "large, on the whole, as what was measured of them."
)
PENALTY = 1.0
"""On the weights of standardised features, as one more row for each."""
SIMILARITY_UNIT = 0.1
"""Difference in control similarity that is penalised as much as a whole line counts: there are but
as many values as lines, and where those hardly differ nothing can be learned of them."""
FEWER_THAN_TWO = (
    "What to expect is learned by leaving out each training line in turn; that takes two lines "
    "that others tell something."
)
TOO_FEW = f"What to expect is learned from {LEAST_ROWS} perturbations at least, in two lines."


def confidence(screen: Screen, known: Effects | None = None) -> Confidence:
    """Learn from left-out lines what to expect of a new one, and by what factor to scale effects.

    ``known`` are effects as each line may know them, where the model is given them.
    """
    evidence = Evidence.of(screen.deltas)
    lines = screen.deltas[0].lines
    if any(not others_of(line, screen.deltas) for line in lines):
        every = others_of(None, screen.deltas)
        weights, estimates = weights_of(every), estimates_from(every)
        effects, origin, _ = carried(screen.labels, estimates, weights, screen.vectors)
        learned = _learned([], _table(screen, evidence, origin, strength_of(effects)))
        if known is None:
            return learned
        scale = as_large_as_measured(estimates, weights)
        return replace(learned, scale=scale, scale_from=AS_LARGE_AS_MEASURED)
    given = known is not None
    known = known or cross_line_effects.known_effects(screen.labels, screen.deltas, screen.vectors)
    parts = [
        left_out(screen, known, evidence, i)
        for i, there in enumerate(screen.deltas[0].there)
        if there.any()  # a whole line may be held out to validate
    ]
    strength = strength_of(known.change[-1].numpy())
    sizes = known.sizes if given else None
    return _learned(parts, _table(screen, evidence, known.origin, strength), sizes)


def _table(
    screen: Screen, evidence: Evidence, origin: Sequence[str], strength: Floats
) -> pd.DataFrame:
    """Return what is known of each perturbation for a new line, index = label."""
    training = screen.training
    table = evidence.table(range(len(evidence.lines))).assign(known=origin)
    cells = pd.Series(training.cells.sum(axis=0), index=training.perturbations)
    table["cells"] = cells.reindex(screen.labels).fillna(0).to_numpy(float)
    table[STRENGTH] = strength
    table.index = pd.Index(screen.labels, dtype=object, name="label")
    return table.drop(CONTROL)


def _learned(
    parts: Sequence[LeftOut], table: pd.DataFrame, sizes: Sizes | None = None
) -> Confidence:
    lines = table.loc[table["known"] == MEASURED, "lines"].mean()
    scale, scale_from = _scale(parts, float(lines))
    factor = sizes.factor if sizes else None
    if factor is not None:
        scale = max(factor, LEAST_SCALE)
        scale_from = AS_LARGE_AS_ERRORS_ALLOW.format(", ".join(part.facts.line for part in parts))
    expectations: dict[str, Expectation] = {}
    usual: dict[str, float] = {}
    why = FEWER_THAN_TWO
    if len(parts) > 1:
        rows = pd.concat([part.rows for part in parts], ignore_index=True)
        ways = {how: rows[rows["known"] == how] for how in ORIGINS}
        usual = {how: float(x[STRENGTH].median()) for how, x in ways.items() if len(x)}
        for how, part in ways.items():
            features = [CARRIED if how == MEASURED else STRENGTH, CONTROL_SIMILARITY]
            if found := expectation(part, features):
                expectations[how] = found
        why = "" if expectations else TOO_FEW
    facts = [part.facts for part in parts]
    return Confidence(scale, scale_from, why, facts, table, expectations, usual)


def _scale(parts: Sequence[LeftOut], lines: float) -> tuple[float, str]:
    """Return the factor with the least squared error, and how it was found.

    A left-out line is predicted from fewer lines than a new one will be, which on average
    ``lines`` tell of. If lines share a part of their effect and each also has its own part, the
    mean of n lines predicts the shared part times s with s / (1 - s) = n * shared / own: so the
    odds of the factor grow with n.
    """
    square = sum(part.square for part in parts)
    if not square:
        return 1.0, (
            "No training line can be left out and told by others, so there is nothing to find the "
            "factor by."
        )
    fitted = float(np.clip(sum(part.product for part in parts) / square, 0.0, 1.0))
    told = float(np.mean(np.concatenate([part.lines for part in parts])))
    more = max(lines / told, 1.0)
    scale = max(more * fitted / (more * fitted + 1 - fitted), LEAST_SCALE)
    named = ", ".join(part.facts.line for part in parts)
    return scale, (
        "The factor has the least squared error when each training line that others tell of is "
        f"left out in turn ({named}): {fitted:.2f} where {told:.1f} lines tell of a perturbation, "
        f"which comes to {scale:.2f} for a new line, told by {max(lines, told):.1f}."
    )


def expectation(rows: pd.DataFrame, features: list[str]) -> Expectation | None:
    """Regress what left-out lines reached on ``features``; None where there are too few.

    The interval is made of what is missed in a line that the regression did not see either. Lines
    are few and each has its own way of being missed, so its ends are those of the line that needs
    the widest, which is more than 80 % in a usual line. ``rows`` are `LeftOut.rows` of all lines,
    of one way to know an effect.
    """
    rows = rows.dropna(subset=[*features, "reached"])
    lines = rows["line"].unique()
    if len(rows) < LEAST_ROWS or len(lines) < 2:
        return None
    missed = []
    for line in lines:
        own = rows[rows["line"] == line]
        expected = _fitted(rows[rows["line"] != line], features).of(own)[0]
        missed.append(own["reached"].to_numpy(float) - expected)
    tail = (1 - COVERED) / 2
    groups = [np.concatenate(missed), *(each for each in missed if len(each) >= LEAST_ROWS)]
    low, high = np.array([np.quantile(each, [tail, 1 - tail]) for each in groups]).T
    fitted = _fitted(rows, features)
    return Expectation(
        **vars(fitted) | {"below": float(max(-low.min(), 0)), "above": float(max(high.max(), 0))}
    )


def _fitted(rows: pd.DataFrame, features: list[str]) -> Expectation:
    """Regress what was reached on features, none of which may count against it."""
    values = rows[features].to_numpy(float)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    each = len(rows) / rows["line"].nunique()
    spread[features.index(CONTROL_SIMILARITY)] = SIMILARITY_UNIT * np.sqrt(each / PENALTY)
    reached = rows["reached"].to_numpy(float)
    penalty = np.sqrt(PENALTY) * np.eye(len(features))
    found, _ = nnls(
        np.concatenate([(values - mean) / spread, penalty]),
        np.concatenate([reached - reached.mean(), np.zeros(len(features))]),
    )
    weights = found / spread
    intercept = float(reached.mean() - weights @ mean)
    least = float(min((intercept + values @ weights).min(), 0.0))
    return Expectation(features, weights.tolist(), intercept, least, 0.0, 0.0, len(rows))
