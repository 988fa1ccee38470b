"""How far known effects carry: learned by leaving each training line out in turn, no network.

Each line is predicted by what the others tell (`effects.known_effects`), once as it is, and once
as if no line had the perturbation. What is reached is the correlation over genes with what the line
measured. It is regressed on what is known of a perturbation without the line: how well the lines
that tell of it agree, how much of their deltas is more than noise, and how near the line's controls
are to theirs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.finetune.effects import (
    Effects,
    carried,
    known_effects,
    left_out_near_by,
    line_key,
    others_of,
)
from components.shared.confidence import (
    CONTROL_SIMILARITY,
    COVERED,
    MEAN,
    MEASURED,
    NEAR_BY,
    SUMMED,
    Confidence,
    Expectation,
    HeldOut,
    nearest,
)
from components.shared.perturbation import CONTROL, genes_of
from components.shared.training_effects import TrainingEffects

ROWS_AT_ONCE = 64
LEAST_ROWS = 9
"""From fewer residuals no interval of 80 % can be told: its ends are quantiles of 10 %."""
MOST_SCALE = 1.0
"""No line stands out when each is left out in turn: were one's changes the larger, it would be told
too little, and the others too much. What a factor above 1 adds is luck."""
RIDGE = 1.0
"""Penalty on the weights of standardised features, as one more row for each."""
SIMILARITY_UNIT = 0.1
"""Difference in control similarity that is penalised as much as a whole line counts: there are but
as many values as lines, and where those hardly differ nothing can be learned of them."""
ALLOWED, CARRIED = "allowed", "carried"


@dataclass(frozen=True)
class Screen:
    """What is known of a screen's perturbations, and what its lines measured."""

    labels: list[str]
    """Perturbations, the control first."""
    genes: list[str]
    """Modelled genes, those of deltas and effects."""
    deltas: list[LineDeltas]
    """Of the training lines, and of other screens."""
    vectors: Floats | None
    """A gene prior's vector of each perturbation, a row of zeros = none."""
    training: TrainingEffects
    """As measured, all genes."""


def confidence(screen: Screen, known: Effects | None = None) -> Confidence:
    """Learn from left-out lines what to expect of a new one, and by what factor to scale effects.

    Args:
        screen: what is known and measured.
        known: effects as each line may know them, where they were computed already.
    """
    evidence = Evidence.of(screen.labels, screen.deltas)
    lines = screen.deltas[0].lines
    if any(not others_of(line, screen.deltas) for line in lines):
        every = others_of(None, screen.deltas)
        _, origin, _ = carried(screen.labels, every, screen.vectors)
        return _learned([], _table(screen, evidence, origin))
    known = known or known_effects(screen.labels, screen.deltas, screen.vectors)
    parts = [_left_out(screen, known, evidence, i) for i in range(len(lines))]
    table = _table(screen, evidence, known.origin)
    return _learned([part for part in parts if len(part.rows)], table)


def _table(screen: Screen, evidence: "Evidence", origin: Sequence[str]) -> pd.DataFrame:
    """Return what is known of each perturbation for a new line, index = label."""
    table = evidence.features(range(len(evidence.names)))
    cells = pd.Series(screen.training.cells.sum(axis=0), index=screen.training.perturbations)
    table["cells"] = cells.reindex(screen.labels).fillna(0).to_numpy(float)
    table["known"] = origin
    table.index = pd.Index(screen.labels, dtype=object, name="label")
    return table.drop(CONTROL)


def _learned(parts: "Sequence[_LeftOut]", table: pd.DataFrame) -> Confidence:
    if len(parts) < 2:
        models: dict[str, Expectation | None] = {"trained": None, "untrained": None}
        why = (
            "What to expect is learned by leaving out each training line in turn; that takes two "
            "lines that others tell something."
        )
    else:
        models, why = _models(pd.concat([part.rows for part in parts], ignore_index=True))
    scale, scale_from = _scale(parts)
    facts = [part.facts for part in parts]
    return Confidence(scale, scale_from, why, facts, table, **models)


@dataclass(frozen=True)
class Evidence:
    """What the deltas of lines tell of each other, before any is left out."""

    names: list[str]
    there: NDArray[np.bool_]
    """Which perturbations a line has, [lines, perturbations]."""
    reliable: Floats
    """Share of the variance over genes of a line's delta that is no noise, same shape."""
    pairs: dict[tuple[int, int], Floats]
    """Correlation over genes of two lines' deltas, NaN where one has none, [perturbations]."""

    @classmethod
    def of(cls, labels: Sequence[str], deltas: Sequence[LineDeltas]) -> "Evidence":
        """Compare all lines with each other, a block of perturbations at a time."""
        lines = [(part, i) for part in deltas for i in range(len(part.lines))]
        names = [part.lines[i] for part, i in lines]
        there = np.array([part.there[i] for part, i in lines])
        reliable = np.zeros(there.shape)
        keys = [line_key(name) for name in names]
        pairs = {
            (a, b): np.full(len(labels), np.nan)
            for a, b in combinations(range(len(lines)), 2)
            if keys[a] != keys[b]
        }
        for block in _blocks(len(labels)):
            change = [part.change[i, block] for part, i in lines]
            variance = [part.variance[i, block] for part, i in lines]
            usable = [np.isfinite(each) & (each > 0) for each in variance]
            for i in range(len(lines)):
                noise = np.where(usable[i], variance[i], 0.0).sum(axis=1)
                centred = _centred(change[i], usable[i])
                total = np.square(centred).sum(axis=1)
                share = np.divide(noise, total, out=np.ones_like(total), where=total > 0)
                reliable[i, block] = np.where(there[i, block], np.clip(1 - share, 0, 1), 0)
            for (a, b), found in pairs.items():
                both = usable[a] & usable[b]
                values = correlations(_centred(change[a], both), _centred(change[b], both))
                found[block] = np.where(there[a, block] & there[b, block], values, np.nan)
        return cls(names, there, reliable, pairs)

    def features(self, chosen: Sequence[int]) -> pd.DataFrame:
        """Return what some lines tell of each perturbation, a row each."""
        there, reliable = self.there[list(chosen)], self.reliable[list(chosen)]
        lines = there.sum(axis=0)
        each = reliable.sum(axis=0) / np.maximum(lines, 1)
        pairs = {pair: r for pair, r in self.pairs.items() if set(pair) <= set(chosen)}
        seen = np.array(list(pairs.values())).reshape(len(pairs), len(lines))
        could = np.array([np.sqrt(self.reliable[a] * self.reliable[b]) for a, b in pairs])
        could = np.where(np.isfinite(seen), could.reshape(seen.shape), np.nan)
        count = np.isfinite(seen).sum(axis=0)
        found = np.nansum(seen, axis=0) / np.maximum(count, 1)
        could = np.nansum(could, axis=0) / np.maximum(count, 1)
        told = (count > 0) & (could > LEAST_ALLOWED)
        agreement = np.where(told, found / np.maximum(could, LEAST_ALLOWED), np.nan)
        usual = float(np.clip(found.sum() / max(could.sum(), LEAST_ALLOWED), 0, 1))
        mean_of_lines = lines * each / (1 + np.maximum(lines - 1, 0) * each)
        allowed = np.sqrt(mean_of_lines * each)
        alike = np.where(count > 0, np.maximum(found, 0), np.nan)
        # Spearman and Brown: of the mean of n lines with another one, all pairs correlated alike.
        carried = alike * np.sqrt(lines / (1 + np.maximum(lines - 1, 0) * alike))
        carried = np.where(count > 0, carried, usual * allowed)
        return pd.DataFrame(
            {
                "agreement": np.clip(agreement, -1, 1),
                "lines": lines.astype(float),
                ALLOWED: allowed,
                CARRIED: carried,
                "pairs": count.astype(float),
            }
        )


LEAST_ALLOWED = 0.1
"""Deltas whose noise allows no more correlation than this cannot be seen to agree."""


@dataclass(frozen=True)
class _LeftOut:
    """What the other lines' effects come to in a line."""

    facts: HeldOut
    rows: pd.DataFrame
    """A row a perturbation: features, `known`, `reached`, and the same `untrained`."""
    product: float
    """Sum over perturbations and genes of measured change times told change."""
    square: float
    """Sum of told change squared."""


def _left_out(screen: Screen, known: Effects, evidence: Evidence, number: int) -> _LeftOut:
    """Predict a line by what the others tell, and hold it against what it measured."""
    own, training = screen.deltas[0], screen.training
    line = own.lines[number]
    key = line_key(line)
    chosen = [i for i, name in enumerate(evidence.names) if line_key(name) != key]
    features = evidence.features(chosen)
    codes = np.flatnonzero(own.there[number])
    told = known.change[number].numpy().astype(float)
    origin = np.array(known.origins[number], object)
    rows = features.iloc[codes].reset_index(drop=True)
    rows["label"] = [screen.labels[code] for code in codes]
    rows["line"] = line
    rows["known"] = origin[codes]
    similarity = _similarity(training, line)
    rows[CONTROL_SIMILARITY] = similarity
    unseen, how = _as_if_untrained(screen, told, origin)
    rows["known_untrained"] = how[codes]
    columns = pd.Index(training.genes).get_indexer(pd.Index(screen.genes))
    product = square = 0.0
    reached = np.full((2, len(codes)), np.nan)
    for block in _blocks(len(codes)):
        measured = _measured(training, line, rows["label"].iloc[block])
        for row, source in enumerate((told, unseen)):
            predicted = np.zeros_like(measured)
            predicted[:, columns] = source[codes[block]]
            if not row:
                product += float((predicted * measured).sum())
                square += float(np.square(predicted).sum())
            centred = (each - each.mean(axis=1, keepdims=True) for each in (predicted, measured))
            reached[row, block] = correlations(*centred)
    rows["reached"], rows["reached_untrained"] = reached
    shared = rows["known"] == MEASURED
    facts = HeldOut(
        line,
        similarity if np.isfinite(similarity) else None,
        int(shared.sum()),
        _mean(rows["reached"][shared]),
        len(rows),
        _mean(rows["reached_untrained"]),
    )
    return _LeftOut(facts, rows, product, square)


def _as_if_untrained(
    screen: Screen, told: Floats, origin: NDArray[np.object_]
) -> tuple[Floats, NDArray[np.object_]]:
    """Return each effect as it would be known if no line had the perturbation, and how."""
    there = origin == MEASURED
    known, n = told[there], int(there.sum())
    found, how = told.copy(), np.where(there, MEAN, origin).astype(object)
    if n > 1:
        found[there] = (known.sum(axis=0) - known) / (n - 1)
        if screen.vectors is not None:
            near = left_out_near_by(known, screen.vectors[there])
            if near is not None:
                usable = np.isfinite(near[:, 0])
                found[np.flatnonzero(there)[usable]] = near[usable]
                how[np.flatnonzero(there)[usable]] = NEAR_BY
    place = {label: i for i, label in enumerate(screen.labels) if there[i]}
    for i, label in enumerate(screen.labels):
        genes = genes_of(label)
        if len(genes) > 1 and all(gene in place for gene in genes):
            found[i] = told[[place[gene] for gene in genes]].sum(axis=0)
            how[i] = SUMMED
    return found, how


def _measured(training: TrainingEffects, line: str, labels: "pd.Series[str]") -> Floats:
    """Return what a line measured of some perturbations, [perturbations, genes]."""
    rows = pd.Index(training.perturbations).get_indexer(pd.Index(labels))
    return np.asarray(training.change[training.lines.index(line), rows], float)


def _similarity(training: TrainingEffects, line: str) -> float:
    if line not in training.lines:
        return float("nan")
    number = training.lines.index(line)
    others = np.delete(np.asarray(training.control, float), number, axis=0)
    return nearest(np.asarray(training.control[number], float), others)


def _scale(parts: "Sequence[_LeftOut]") -> tuple[float, str]:
    """Return the factor with the least squared error, and how it was found."""
    square = sum(part.square for part in parts)
    if not square:
        return 1.0, (
            "No training line can be left out and told by others, so there is nothing to find the "
            "factor by: predicted changes keep their size."
        )
    scale = float(np.clip(sum(part.product for part in parts) / square, 0.0, MOST_SCALE))
    return scale, (
        "The factor with the least squared error when each training line "
        f"({', '.join(part.facts.line for part in parts)}) is left out in turn and predicted by "
        "what the others tell."
    )


def _models(rows: pd.DataFrame) -> tuple[dict[str, Expectation | None], str]:
    """Return the models of trained and of untrained perturbations, and why there are none."""
    known = rows[rows["known"] == MEASURED]
    features = [ALLOWED, CONTROL_SIMILARITY]
    if (known["pairs"] > 0).any():
        features.insert(0, CARRIED)
    unseen = rows.assign(reached=rows["reached_untrained"])
    return {
        "trained": _expectation(known, features),
        "untrained": _expectation(unseen, [CONTROL_SIMILARITY]),
    }, ""


def _expectation(rows: pd.DataFrame, features: list[str]) -> Expectation | None:
    """Regress what was reached, its residuals taken from lines that the regression did not see."""
    rows = rows[np.isfinite(rows["reached"])]
    lines = rows["line"].unique()
    if len(rows) < LEAST_ROWS or len(lines) < 2:
        return None
    residuals, expected = [], []
    for line in lines:
        out = rows["line"] == line
        found = _fitted(rows[~out], features).of(rows[out])[0]
        residuals.append(rows["reached"][out].to_numpy() - found)
        expected.append(found)
    tail = (1 - COVERED) / 2
    left = np.concatenate(residuals)
    low, high = np.quantile(left, tail), np.quantile(left, 1 - tail)
    fitted = _fitted(rows, features)
    return Expectation(
        **{**vars(fitted), "below": [float(max(-low, 0))], "above": [float(max(high, 0))]}
    )


def _fitted(rows: pd.DataFrame, features: list[str]) -> Expectation:
    """Regress what was reached on features, none of which may count against it."""
    values = rows[features].to_numpy(float)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    each = len(rows) / rows["line"].nunique()
    spread[features.index(CONTROL_SIMILARITY)] = SIMILARITY_UNIT * np.sqrt(each / RIDGE)
    ridge = Ridge(alpha=RIDGE, positive=True).fit((values - mean) / spread, rows["reached"])
    weights = ridge.coef_ / spread
    intercept = float(ridge.intercept_ - weights @ mean)
    found = intercept + values @ weights
    return Expectation(
        features=features,
        weights=weights.tolist(),
        intercept=intercept,
        least=float(min(found.min(), 0.0)),
        most=float(found.max()),
        at=[0.0],
        below=[0.0],
        above=[0.0],
        rows=len(rows),
    )


def correlations(a: Floats, b: Floats) -> Floats:
    """Return the correlation of centred rows, NaN where one does not vary, [rows]."""
    norm = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    products = (a * b).sum(axis=1)
    return np.divide(products, norm, out=np.full(len(a), np.nan), where=norm > 0)


def _centred(values: Floats, usable: NDArray[np.bool_]) -> Floats:
    """Return rows less their mean over usable genes, 0 at the others."""
    count = np.maximum(usable.sum(axis=1, keepdims=True), 1)
    kept = np.where(usable, values, 0.0)
    return np.where(usable, kept - kept.sum(axis=1, keepdims=True) / count, 0.0)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE))


def _mean(values: "pd.Series[float]") -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
