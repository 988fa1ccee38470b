"""Scores of perturbations that differ in what could be known or measured of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from components.shared.artifacts.evaluation import SEEN, UNSEEN

TRAINING, CELLS, EFFECT = "training", "cells", "measured DE genes"
GROUPS = 4
"""As many groups of about the same size a number is divided into, where it can be."""


def strata(seen: pd.Series, cells: pd.Series, de_genes: pd.Series) -> pd.DataFrame:
    """Put each perturbation into a group by each of three things.

    All are by perturbation: whether training had it, how many cells of it were measured, and how
    many genes those call differentially expressed. Returns ordered categories; columns training
    (seen, unseen), cells and measured DE genes ("12 to 34"; no DE genes are a group of their own).
    """
    flags = pd.Categorical(np.where(seen, SEEN, UNSEEN), [SEEN, UNSEEN], ordered=True)
    return pd.DataFrame(
        {
            TRAINING: flags.remove_unused_categories(),
            CELLS: _ranges(cells.loc[seen.index]),
            EFFECT: _ranges(de_genes.loc[seen.index], apart=0),
        },
        index=seen.index,
    )


def _ranges(counts: pd.Series, apart: int | None = None) -> Any:
    """Divide counts into up to `GROUPS` groups of about the same size, ``apart`` on its own."""
    own = counts == apart
    codes = pd.Series(-1, index=counts.index)
    if (~own).any():
        rest = counts[~own]
        codes[~own] = pd.qcut(rest, min(GROUPS, rest.nunique()), labels=False, duplicates="drop")
    names = {
        code: _range(int(group.min()), int(group.max())) for code, group in counts.groupby(codes)
    }
    return pd.Categorical(codes.map(names), list(names.values()), ordered=True)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def long_table(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return every score in long form: prediction, perturbation, metric, value (NaN = none)."""
    parts = [
        values.rename_axis("perturbation")
        .reset_index()
        .melt("perturbation", var_name="metric")
        .assign(prediction=name)
        for name, values in scores.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["prediction", "perturbation", "metric", "value"]]


def by_stratum(
    scores: Mapping[str, pd.DataFrame], groups: pd.DataFrame, metrics: Sequence[str]
) -> pd.DataFrame:
    """Return nan-means of metrics over the perturbations of each group, which are from `strata`.

    Columns: stratum, group, perturbations, prediction, metric, mean, undefined.
    """
    long = long_table({name: values[list(metrics)] for name, values in scores.items()})
    tables = []
    for stratum in map(str, groups):
        group = long["perturbation"].map(groups[stratum].astype(object))
        order = pd.Categorical(group, groups[stratum].cat.categories, ordered=True)
        by = long.assign(group=order).groupby(
            ["group", "prediction", "metric"], observed=True, sort=False
        )["value"]
        table = by.agg(perturbations="size", mean="mean", known="count").reset_index()
        table["undefined"] = table["perturbations"] - table.pop("known")
        tables.append(table.assign(stratum=stratum).sort_values("group", kind="stable"))
    columns = ["stratum", "group", "perturbations", "prediction", "metric", "mean", "undefined"]
    return pd.concat(tables, ignore_index=True)[columns]
