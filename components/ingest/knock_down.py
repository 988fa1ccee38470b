"""Cells and perturbations whose knock-down failed: how much of the target's expression is left.

A guide without effect makes cells that are labelled as perturbed and look like controls. How much
of a target is left is measured in counts per 10,000, as a share of the mean of the controls of the
same line and file. Where the target is not measured, or no control expresses it, nothing is known
and the cells are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.reading.labels import Labels
from components.shared.telling.errors import InputError
from components.shared.telling.progress import bar

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CELLS_ASKED = "least_knock_down"
PERTURBATIONS_ASKED = "least_perturbation_knock_down"
FILTER = "knock_down_filter"
"""Summary of what was left out."""
CELLS_OUT = "cells_not_knocked_down"
PERTURBATIONS_OUT = "perturbations_not_knocked_down"
"""Pairs of line and perturbation."""
CELLS_OF_THEM = "cells_of_perturbations_not_knocked_down"
NOT_JUDGED = "cells_without_knock_down_to_judge"


@dataclass(frozen=True)
class Least:
    """How much of its target's expression a perturbation has to take away, 0 to 1; 0 = any."""

    cell: float = 0.0
    perturbation: float = 0.0

    def __post_init__(self) -> None:
        """Check that both are from 0 to below 1.

        Raises:
            InputError: no number from 0 to below 1.
        """
        for name, value in ((CELLS_ASKED, self.cell), (PERTURBATIONS_ASKED, self.perturbation)):
            if isinstance(value, bool) or not 0 <= value < 1:
                raise InputError(
                    f"{name}={value}: expected a share from 0 (off) to below 1, such as 0.3 for "
                    "30 % of knock-down"
                )


def _failed(share: Floats, groups: NDArray[np.int64], least: Least) -> tuple[Mask, Mask]:
    """Return the cells that are left out with their perturbation, and by themselves.

    Of several targets the one that is left most counts; ``share`` and ``groups`` are those of
    `left_of_targets`.
    """
    whole, alone = np.zeros(len(share), bool), np.zeros(len(share), bool)
    for left in share.T:
        known = np.isfinite(left)
        counts = np.bincount(groups[known], minlength=groups.max() + 1)
        sums = np.bincount(groups[known], left[known], minlength=len(counts))
        mean = sums / np.maximum(counts, 1)
        if least.perturbation:
            whole |= known & (mean[groups] > 1 - least.perturbation)
        if least.cell:
            alone |= known & (left > 1 - least.cell)
    return whole, alone & ~whole


def _measured_targets(
    labels: list[str], genes: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns of all targets, and which of them each label has, -1 = none.

    Shapes are [targets] and [labels, targets of a label].
    """
    place = {gene: i for i, gene in enumerate(genes)}
    of_label = [
        [place[g] for g in genes_of(label) if g in place] if label != CONTROL else []
        for label in labels
    ]
    columns = np.array(sorted({column for found in of_label for column in found}), np.int64)
    targets = np.full((len(labels), max(map(len, of_label), default=0)), -1)
    for row, found in enumerate(of_label):
        targets[row, : len(found)] = np.searchsorted(columns, found)
    return columns, targets


def left_of_targets(
    obs: pd.DataFrame, genes: list[str], blocks: Iterator[tuple[NDArray[np.int64], csr_matrix]]
) -> tuple[Floats, NDArray[np.int64]]:
    """Measure the remaining expression of each cell's targets, and number line and perturbation.

    The ``blocks``, row numbers and log1p of counts per 10,000, are in the order of ``obs``.

    Returns:
        Expression as a share of the controls' mean, [cells, targets of a perturbation]: NaN for
        controls, where nothing is known, and for targets that a perturbation has not; and the
        number of each cell's line and perturbation, [cells].
    """
    codes, labels = pd.factorize(obs["perturbation"].to_numpy(object))
    lines, names = pd.factorize(obs["cell_line"].to_numpy(object))
    columns, targets = _measured_targets(labels.tolist(), genes)
    most = targets.shape[1]
    control = obs["is_control"].to_numpy(bool)
    sums = np.zeros((len(names), len(columns)))
    own = np.full((len(obs), most), np.nan)
    start = 0
    with bar(total=len(obs), what="targets", unit=" cells") as progress:
        for _, block in blocks:
            stop = start + block.shape[0]
            values = np.expm1(block[:, columns].toarray().astype(np.float64))
            part, line = control[start:stop], lines[start:stop]
            np.add.at(sums, line[part], values[part])
            wanted = targets[codes[start:stop]]
            told = np.take_along_axis(values, np.maximum(wanted, 0), axis=1) if most else values
            own[start:stop] = np.where(wanted >= 0, told, np.nan)
            progress.update(stop - start)
            start = stop
    counts = np.bincount(lines[control], minlength=len(names))
    mean = sums / np.maximum(counts, 1)[:, None]
    usual = mean[lines[:, None], np.maximum(targets[codes], 0)] if most else own
    share = np.divide(own, usual, out=np.full_like(own, np.nan), where=usual > 0)
    return share, lines * len(labels) + codes


def without_failed(
    labels: Labels,
    genes: list[str],
    blocks: Callable[[], Iterator[tuple[NDArray[np.int64], csr_matrix]]],
    least: Least,
    source: str,
) -> Labels:
    """Return the labels without the cells whose knock-down failed."""
    if not (least.cell or least.perturbation):
        return labels
    obs = labels.obs
    share, groups = left_of_targets(obs, genes, blocks())
    whole, alone = _failed(share, groups, least)
    kept = ~(whole | alone)
    if not kept[~obs["is_control"]].any() and not obs["is_control"].all():
        raise InputError(
            f"{source}: no perturbed cell has its target knocked down as much as {CELLS_ASKED} "
            f"{least.cell:g} and {PERTURBATIONS_ASKED} {least.perturbation:g} ask; lower them, or "
            "leave them out where perturbations do not lower their target"
        )
    places = labels.kept.copy()
    places[np.flatnonzero(places)[~kept]] = False
    table = obs[kept].copy()
    for name in ("perturbation", "cell_line", "batch"):
        if name in table:
            table[name] = table[name].cat.remove_unused_categories()
    facts = {
        CELLS_OUT: int(alone.sum()),
        PERTURBATIONS_OUT: len(np.unique(groups[whole])),
        CELLS_OF_THEM: int(whole.sum()),
        NOT_JUDGED: int((np.isnan(share).all(axis=1) & ~obs["is_control"].to_numpy(bool)).sum()),
    }
    return replace(labels, kept=places, obs=table, facts=labels.facts | facts)


def in_words(facts: dict[str, Any]) -> str:
    """Return what was left out, empty where nothing was asked."""
    if CELLS_OUT not in facts:
        return ""
    return (
        f"{facts[CELLS_OF_THEM]} cells of {facts[PERTURBATIONS_OUT]} perturbations of a line whose "
        f"target is not knocked down enough, and {facts[CELLS_OUT]} cells of others, were left "
        f"out; {facts[NOT_JUDGED]} perturbed cells whose target is not measured, or not expressed "
        "in controls, were kept"
    )
