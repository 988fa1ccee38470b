"""What the metrics need of one side's cells, from one pass over them, perturbation by perturbation.

For each perturbation that is its mean, the rank test against the controls and the energy distance
to them. Dense at a time are the controls and, for each thread, a perturbation's cells, or those of
a few small ones.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.stats import false_discovery_control
from threadpoolctl import threadpool_limits

from components.evaluate.inputs.rows import Matrix, dense
from components.evaluate.measures.energy import ROWS, Points, mean_distance, mean_distances
from components.evaluate.measures.rank_test import SortedControls, de_table, rank_test
from components.shared.storage.machine import cpus, give_back_freed_memory
from components.shared.telling.progress import bar

GENES = 512
"""Genes whose counts are in memory together."""

CELLS = 256
"""Cells, at least, that a thread takes at a time: enough for 97 % of the rate of matrix products,
few enough that no thread waits long for the last."""

SIGNIFICANT = 0.05
"""cell-eval calls a gene differentially expressed below this FDR."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Controls:
    """Control cells, made ready to compare perturbations with."""

    digest: str
    """sha256 of their values, and of whether they are sparse, which is how they are averaged."""
    cells: int
    means: "Means"
    sorted: SortedControls
    centre: Floats | None
    """What is taken from all cells before they are multiplied, see `Points`, [genes]."""
    points: Points

    @classmethod
    def of(cls, cells: Matrix, *, centred: bool, threads: int = 0) -> "Controls":
        """Sort and square control cells [cells, genes], in memory, perhaps less their mean."""
        values = dense(cells)
        with thread_pool(threads) as pool:
            digest = pool.submit(_digest, cells)
            means = Means.of(cells)
            centre = means.exact if centred else None
            ordered = SortedControls.of(values, pool.map)
            points = Points.of(values, centre, pool.map)
            return cls(digest.result(), len(values), means, ordered, centre, points)

    def as_in(self, cells: Matrix, *, threads: int = 0) -> "Controls":
        """Return the controls of another side, most often the same cells: then little is done."""
        if self.digest == _digest(cells):
            return self
        return Controls.of(cells, centred=self.centre is not None, threads=threads)


@dataclass(frozen=True)
class Means:
    """Mean log1p expression of some cells, [genes]."""

    exact: Floats
    """Summed in float64."""
    own: NDArray[Any]
    """In the precision of the cells, as their matrix itself sums them, and so pdex."""
    linear: Floats
    """Of counts per 10,000 instead, not of their log1p."""
    squares: float
    """Sum of the squared log1p values of all cells and genes."""

    @classmethod
    def of(cls, cells: Matrix) -> "Means":
        """Average cells [cells, genes], in memory."""
        values = dense(cells)
        genes = np.arange(0, values.shape[1], GENES)
        linear = [np.expm1(values[:, i : i + GENES]).mean(axis=0, dtype=np.float64) for i in genes]
        return cls(
            values.mean(axis=0, dtype=np.float64),
            np.asarray(cells.mean(axis=0)).ravel(),
            np.concatenate(linear),
            float(np.einsum("ij,ij->", values, values, dtype=np.float64)),
        )


@dataclass(frozen=True)
class Side:
    """What the metrics need of one side's cells, predicted or measured.

    Rows are the controls, then the perturbations, sorted; or the perturbations alone.
    """

    control: str
    perturbations: list[str]
    genes: list[str]
    sizes: Ints
    """Cells, [1 + perturbations]."""
    centroids: Floats
    """Mean log1p expression, summed in float64, [1 + perturbations, genes]."""
    means: NDArray[Any]
    """The same in the precision of the cells, as their matrix itself sums them (and so pdex),
    [1 + perturbations, genes]."""
    linear_means: Floats
    """Mean counts per 10,000, [1 + perturbations, genes]."""
    squares: Floats
    """Sum of the squared log1p values of all cells and genes, [1 + perturbations]."""
    p_value: Floats
    """Of Mann-Whitney's U of the cells against the controls, [perturbations, genes]."""
    energy: Floats
    """Energy distance of the cells to the controls plus the mean distance of the controls from
    one another, which is the same for all and changes no metric, [perturbations]."""

    def de_of(self, start: int, stop: int) -> pl.DataFrame:
        """Return the table of differential expression of some of the perturbations."""
        return de_table(
            self.perturbations[start:stop],
            self.genes,
            means=self.means[1 + start : 1 + stop],
            reference=self.means[0],
            p_value=self.p_value[start:stop],
            fdr=self.fdr[start:stop],
        )

    @cached_property
    def fdr(self) -> Floats:
        """Benjamini-Hochberg over the genes of a perturbation, as pdex has it."""
        return false_discovery_control(self.p_value, axis=1)

    @property
    def called(self) -> NDArray[np.bool_]:
        """Which genes are called differentially expressed, [perturbations, genes]."""
        return self.fdr < SIGNIFICANT

    @property
    def deltas(self) -> Floats:
        """Mean changes against the controls, [perturbations, genes], log1p."""
        return self.centroids[1:] - self.centroids[0]

    @property
    def pseudobulks(self) -> NDArray[Any]:
        """`centroids` in the precision of the cells, as cell-eval has them."""
        return self.centroids.astype(self.means.dtype)


def side_of(
    matrix: Matrix,
    rows: Mapping[str, Ints],
    control: str,
    genes: list[str],
    *,
    controls: Controls,
    threads: int,
    what: str,
) -> Side:
    """Compute a side from the rows that belong to each label in ``matrix`` [cells, genes].

    Values are log1p of counts per 10,000; ``controls`` are those of this side. Threads (0 = all
    available) do not change a bit of the result; ``what`` names the side in the progress bar.
    """
    perturbations = sorted(set(rows) - {control})
    sizes = np.array([controls.cells, *(len(rows[label]) for label in perturbations)])
    shape = (len(perturbations), len(genes))
    centroids = np.empty((1 + shape[0], shape[1]))
    means = np.empty(centroids.shape, controls.means.own.dtype)
    linear_means, squares = np.empty(centroids.shape), np.empty(len(sizes))
    p_value, energy = np.empty(shape), np.empty(shape[0])

    def note(row: int, found: Means) -> None:
        centroids[row], means[row] = found.exact, found.own
        linear_means[row], squares[row] = found.linear, found.squares

    centre = controls.centre

    def compute(batch: range) -> int:
        cells = matrix[np.concatenate([rows[perturbations[at]] for at in batch])]
        values = dense(cells)
        stops, rows_of = np.cumsum(sizes[1:][batch]), slice(batch.start, batch.stop)
        p_value[rows_of] = rank_test(values, stops, controls.sorted)
        points = Points.of(values, centre)
        across = mean_distances(points, stops, controls.points)
        stop = 0
        for at, to_controls in zip(batch, across, strict=True):
            part = slice(stop, stop := stop + int(sizes[1 + at]))
            note(1 + at, Means.of(cells[part]))
            own = points.rows(part.start, part.stop) if centre is None else Points.of(values[part])
            energy[at] = 2 * to_controls - mean_distance(own, own)
        return stop

    note(0, controls.means)
    with (
        thread_pool(threads) as pool,
        bar(total=int(sizes[1:].sum()), what=what, unit=" cells") as progress,
    ):
        for done in pool.map(compute, _batches(sizes[1:])):
            progress.update(done)
    give_back_freed_memory()  # of cells, which were many times what is returned
    return Side(
        control,
        perturbations,
        list(genes),
        sizes,
        centroids,
        means,
        linear_means,
        squares,
        p_value,
        energy,
    )


def _digest(cells: Matrix) -> str:
    found = hashlib.sha256(f"{issparse(cells)} {cells.shape} {cells.dtype}".encode())
    for start in range(0, cells.shape[0], ROWS):
        found.update(np.ascontiguousarray(dense(cells[start : start + ROWS])).data)
    return found.hexdigest()


def _batches(sizes: Ints) -> Iterator[range]:
    """Yield runs of perturbations of at least `CELLS` cells."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if sizes[start:stop].sum() >= CELLS or stop == len(sizes):
            yield range(start, stop)
            start = stop


@contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads each take one CPU; what is not begun when it fails is left."""
    available = cpus()
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(min(count or available, available)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
