"""A user's table of known effects: whether it is on the scale of the screen's own deltas.

People have z-scores, signed log p-values and log2 fold changes. Their zero means no effect, as that
of a delta does, but a unit of them is another. Beside the lines' own deltas they would drown those,
so they are brought to their scale by one factor where both tell of the same perturbations.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.finetune.data import Floats
from components.finetune.deltas import LineDeltas
from components.shared.artifacts.gene_prior import OtherEffects
from components.shared.artifacts.perturbation_names import line_key
from components.shared.telling.errors import InputError

OFF = 5.0
"""A table's values are on another scale where they are so many times larger, or smaller, than the
screen's. Effects of one line are up to 3.3 times those of another in real screens on one scale
(K562 of Norman 2019 to T98G of McFaline-Figueroa 2023); z-scores are 14 times those of K562."""
LEAST_SHARED = 10
"""Perturbations that table and screen must share for a factor to be told."""
SURE = 2.0
"""Standard errors by which the two must agree, over perturbations: about 95 % of a normal."""
EXPECTED = (
    "expected deltas, perturbed less control in log1p of normalised counts, or scores whose zero "
    "means no effect"
)


def brought_to_scale(
    other: OtherEffects,
    labels: Sequence[str],
    genes: Sequence[str],
    own: LineDeltas,
    without: str,
    name: str,
) -> tuple[OtherEffects, str]:
    """Bring a table that holds scores to the scale of a screen's deltas.

    Only what is off by more than `OFF` is touched. The factor is that of least squares: times it,
    the table is nearest to the deltas of the perturbations and genes that both have. It makes a
    table smaller that agrees with the screen in part, as its noise, which is unknown, asks for.

    ``labels`` are perturbations of ``own``, ``genes`` are the modelled ones; rows of the test line,
    ``without``, count for nothing, and what was measured on cells is on scale. Messages call the
    table ``name``. Returns it, and in words what was done to it, empty where nothing was.

    Raises:
        InputError: it is off, and too little is shared to tell by how much, or the two do not agree
            on what is shared.
    """
    rows, columns, places = _shared_genes(other, genes, without)
    if other.error is not None or not own.there.any() or not len(rows) or not len(columns):
        return other, ""
    lines = own.there.sum(axis=0)[:, None]
    measured = own.change.sum(axis=0)[:, places] / np.maximum(lines, 1)
    noise = np.nan_to_num(own.variance).sum(axis=0)[:, places] / np.maximum(lines, 1) ** 2
    number = {label: i for i, label in enumerate(labels) if lines[i]}
    labelled = [(row, other.perturbations[row]) for row in rows]
    pairs = [(row, number[label]) for row, label in labelled if label in number]
    enough = len({place for _, place in pairs}) >= LEAST_SHARED
    # Of other perturbations than the screen's, how large effects are can be seen all the same.
    here = [place for _, place in pairs] if enough else list(number.values())
    table = other.delta[[row for row, _ in pairs] if enough else rows][:, columns].astype(float)
    found = _size(table)
    low = np.sqrt(max(float((np.square(measured[here]) - noise[here]).mean()), 0.0))
    high = _size(measured[here])  # with its noise, which must not pass for a scale
    if not found or low / OFF <= found <= high * OFF:
        return other, ""
    sizes = f"{found:.2g} in size (root mean square), the screen's own {high:.2g}"
    off = f"{name}: its values are {sizes}"
    if not enough:
        shared = len({place for _, place in pairs})
        raise InputError(
            f"{off}: on another scale, and with {shared} perturbations of the training lines too "
            f"few to tell which ({LEAST_SHARED} needed); {EXPECTED} and rows of perturbations "
            "that training lines have"
        )
    factor, sure = _least_squares(table, measured[here])
    if sure < SURE:
        how = "the opposite of" if sure < -SURE else "nothing of"
        raise InputError(
            f"{off}: on another scale, which cannot be told, since of {len(pairs)} shared effects "
            f"the table tells {how} what the training lines measured; {EXPECTED}"
        )
    said = (
        f"The table {name} is on another scale ({sizes}), so its values "
        f"were taken times {factor:.3g}, by least squares over {len(pairs)} shared "
        f"effects and {len(columns)} genes."
    )
    return replace(other, delta=other.delta * np.float32(factor)), said


def _shared_genes(
    other: OtherEffects, genes: Sequence[str], without: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of other lines than the test line, and where shared genes are in both."""
    key = line_key(without)
    rows = [row for row, line in enumerate(other.lines) if line_key(line) != key]
    place = {gene: i for i, gene in enumerate(genes)}
    columns = [i for i, gene in enumerate(other.genes) if gene in place]
    return (
        np.array(rows, np.int64),
        np.array(columns, np.int64),
        np.array([place[other.genes[i]] for i in columns], np.int64),
    )


def _size(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _least_squares(table: Floats, measured: Floats) -> tuple[float, float]:
    """Return the factor that brings ``table`` nearest to ``measured``, and how sure its sign is.

    Each row gives a product of the two; sure is their mean over its standard error.
    """
    products = (table * measured).sum(axis=1)
    factor = float(products.sum() / np.square(table).sum())
    error = float(products.std(ddof=1)) / np.sqrt(len(products))
    return factor, float(products.mean()) / error if error > 0 else 0.0
