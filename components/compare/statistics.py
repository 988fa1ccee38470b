"""Means by prior, and paired differences between priors, over perturbations and seeds.

A perturbation's value is first averaged over the seeds, so the test and the interval are over
perturbations; how far seeds differ is told beside it, and a verdict asks that they agree.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from components.compare.runs import Grid
from components.shared.artifacts import evaluation
from components.shared.artifacts.evaluation import BASELINES, CENTRED, HEADLINE, MODEL, SEEN, UNSEEN
from components.shared.findings.paired import ALPHA, holm, interval, signed_rank_p
from components.shared.parameters import prior_grammar
from components.shared.parameters.prior_grammar import NONE, SHUFFLED, effects_of, parse_prior

METRICS = {
    name: evaluation.lower_is_better(name)
    for name in (evaluation.HEADLINE_METRIC, CENTRED, *HEADLINE[1:])
}
"""Compared metrics, and whether lower is better."""
TOLD = tuple(name for name in BASELINES if name != evaluation.CONTROL_CELLS)
"""Baselines whose means are told; cells drawn at random say what their mean says."""
ALL = "all"

BETTER, WORSE, NO_EVIDENCE = "better", "worse", "no evidence"


def is_control(prior: str) -> bool:
    """Return whether a prior says nothing of biology: none, random, or shuffled vectors alone."""
    parsed = parse_prior(prior)
    genes = prior_grammar.gene_part(parsed)
    members = genes.members if genes.kind == prior_grammar.CONCAT else (genes,)
    empty = all(member.kind in (NONE, prior_grammar.RANDOM, SHUFFLED) for member in members)
    return empty and effects_of(parsed) is None


def twin_of(prior: str) -> str:
    """Return the same prior with its vectors dealt to other genes, empty if it has none to deal."""
    parsed = parse_prior(prior)
    genes = prior_grammar.gene_part(parsed)
    if genes.kind in (NONE, SHUFFLED):
        return ""
    shuffled = prior_grammar.Prior(SHUFFLED, members=(genes,))
    effects = effects_of(parsed)
    return str(
        prior_grammar.Prior(prior_grammar.CONCAT, members=(effects, shuffled))
        if effects
        else shuffled
    )


def references_of(prior: str, priors: list[str]) -> list[str]:
    """Return what of the grid a prior is held against: none, its twin, its effects alone."""
    effects = effects_of(parse_prior(prior))
    wanted = (NONE, twin_of(prior), str(effects) if effects else "")
    known = {_canonical(other): other for other in priors}
    found = (known.get(_canonical(other)) for other in wanted if other)
    return [other for other in dict.fromkeys(found) if other and other != prior]


def _canonical(prior: str) -> tuple[str, str]:
    """Return what is the same for priors that differ in where effects stand alone."""
    parsed = parse_prior(prior)
    return str(prior_grammar.gene_part(parsed)), str(effects_of(parsed) or "")


def by_prior(grid: Grid) -> pd.DataFrame:
    """Return the mean of each metric of each prior's model and baselines.

    Returns:
        prior, prediction (the model or a baseline), part (all, seen, unseen), metric, mean, low and
        high (bootstrap interval over perturbations), seeds, seed_sd (of the means of single seeds,
        n - 1; NaN for one), seed_low, seed_high, perturbations (with a value).
    """
    rows = []
    for prior in grid.priors:
        runs = grid.of(prior)
        there = runs[0].predictions
        for prediction in (MODEL, *(name for name in TOLD if name in there)):
            tables = [run.of(prediction) for run in runs]
            for part, metric, values in _parts(grid.seen, tables):
                own = {"prior": prior, "prediction": prediction, "part": part, "metric": metric}
                rows.append(own | summarised(values))
    return pd.DataFrame(rows)


def summarised(values: pd.DataFrame) -> dict[str, float]:
    """Return mean, interval and spread; ``values`` has shape [perturbations, seeds]."""
    seeds = values.mean()
    over_seeds = values.mean(axis=1).to_numpy(float)
    low, high = interval(over_seeds)
    return {
        "mean": float(seeds.mean()),
        "low": low,
        "high": high,
        "seeds": int(seeds.count()),
        "seed_sd": float(seeds.std()),
        "seed_low": float(seeds.min()),
        "seed_high": float(seeds.max()),
        "perturbations": int((~np.isnan(over_seeds)).sum()),
    }


def _parts(seen: pd.Series, tables: list[pd.DataFrame]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield part, metric and values [perturbations, seeds]; ``tables`` has one a seed."""
    wanted = {ALL: seen.index}
    if 0 < seen.sum() < len(seen):  # a part that is the whole would be tested twice
        wanted |= {SEEN: seen.index[seen], UNSEEN: seen.index[~seen]}
    for part, labels in wanted.items():
        for metric in METRICS:
            if all(metric in table for table in tables):
                columns = [table[metric].reindex(labels) for table in tables]
                yield part, metric, pd.concat(columns, axis=1, keys=range(len(columns)))


def differences(grid: Grid) -> pd.DataFrame:
    """Compare each prior with its references, and each model with what it could have been without.

    That is the same-perturbation delta, and the known effects of the runs that were given them.

    Paired over perturbations, each the mean over the seeds that both have. Wilcoxon's signed-rank
    test, corrected by Holm over all comparisons of one metric. Better or worse is said only where
    the corrected test and the interval exclude no difference, two seeds or more all point the same
    way, and the difference is beyond what seeds alone make: its interval over seeds (95 %, by
    Student's t) excludes no difference. Two seeds ask for 12.7 standard errors, three for 4.3.

    Returns:
        prior, against, part, metric, difference (mean of prior less reference), low, high, seeds,
        seeds_ahead, seed_sd (of the difference), perturbations, ahead, p, p_holm, verdict, why
        (what is missing for a verdict).
    """
    rows: list[dict[str, Any]] = []
    for prior in grid.priors:
        runs = {run.seed: run for run in grid.of(prior)}
        others = {
            other: {run.seed: run.of(MODEL) for run in grid.of(other)}
            for other in references_of(prior, grid.priors)
        }
        for baseline in (evaluation.SAME_PERTURBATION_DELTA, evaluation.KNOWN_EFFECTS):
            there = {seed: run for seed, run in runs.items() if baseline in run.predictions}
            if there:
                others[baseline] = {seed: run.of(baseline) for seed, run in there.items()}
        for other, scores in others.items():
            seeds = sorted(set(runs) & set(scores))
            tables = [runs[seed].of(MODEL) - scores[seed] for seed in seeds]
            for part, metric, values in _parts(grid.seen, tables) if tables else ():
                own = {"prior": prior, "against": other, "part": part, "metric": metric}
                rows.append(own | paired_difference(metric, values))
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    verdicts = [verdict_of(row) for row in table.to_dict("records")]
    return table.assign(
        verdict=[verdict for verdict, _ in verdicts], why=[why for _, why in verdicts]
    )


def paired_difference(metric: str, values: pd.DataFrame) -> dict[str, float]:
    """Return what a paired difference comes to; ``values`` has shape [perturbations, seeds]."""
    seeds = values.mean()
    over_seeds = values.mean(axis=1).dropna().to_numpy(float)
    low, high = interval(over_seeds)
    sign = -1 if METRICS[metric] else 1
    return {
        "difference": float(over_seeds.mean()) if len(over_seeds) else np.nan,
        "low": low,
        "high": high,
        "seeds": int(seeds.count()),
        "seeds_ahead": int((sign * seeds > 0).sum()),
        "seed_sd": float(seeds.std()),
        "perturbations": len(over_seeds),
        "ahead": int((sign * over_seeds > 0).sum()),
        "p": signed_rank_p(over_seeds),
    }


def verdict_of(row: dict[Any, Any]) -> tuple[str, str]:
    """Return the verdict on a difference and, where there is no evidence, what is missing."""
    lower = METRICS[row["metric"]]
    ahead = row["difference"] < 0 if lower else row["difference"] > 0
    if np.isnan(row["p"]):
        return NO_EVIDENCE, "fewer than two perturbations have a value"
    if row["p_holm"] >= ALPHA:
        return NO_EVIDENCE, f"corrected p {row['p_holm']:.2g}"
    if row["low"] <= 0 <= row["high"]:
        return NO_EVIDENCE, "the interval includes no difference"
    if row["seeds"] < 2:
        return NO_EVIDENCE, "one seed, so how far seeds differ is not known"
    if row["seeds_ahead"] != (row["seeds"] if ahead else 0):
        return NO_EVIDENCE, "the seeds do not agree"
    # Half the width of the interval over seeds: Student's t, since seeds are few.
    by_seeds = student.ppf(1 - ALPHA / 2, row["seeds"] - 1) * row["seed_sd"] / np.sqrt(row["seeds"])
    if abs(row["difference"]) < by_seeds:
        return NO_EVIDENCE, "seeds alone make as large a difference"
    return (BETTER if ahead else WORSE), ""
