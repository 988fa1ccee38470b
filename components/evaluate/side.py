"""What the metrics need of one side's cells, from one pass over them, perturbation by perturbation.

For each perturbation that is its mean, the rank test against the controls and the energy distance
to them. Dense at a time are the controls and, for each thread, a few hundred cells.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from components.evaluate.energy import ROWS, Centred, mean_distance_within, mean_distances
from components.evaluate.rank_test import SortedControls, de_table, rank_test
from components.evaluate.rows import Matrix, dense
from components.shared.progress import bar

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Controls:
    """Control cells, made ready to compare perturbations with."""

    digest: str
    """sha256 of their values."""
    sorted: SortedControls
    mean: Floats
    """[genes]"""
    centred: Centred
    """The cells less their mean."""
    within: float | None = None
    """Their mean distance from one another, None = not known yet."""

    @classmethod
    def of(cls, cells: Matrix) -> "Controls":
        """Sort and centre control cells [cells, genes], in memory."""
        values = dense(cells)
        mean = values.mean(axis=0, dtype=np.float64)
        ready = SortedControls.of(csr_matrix(cells)), mean, Centred.of(values, mean)
        return cls(_digest(values), *ready)

    def are(self, cells: Matrix) -> bool:
        """Return whether these are the control cells that were made ready."""
        return self.digest == _digest(dense(cells))


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
    statistic: Floats
    """Mann-Whitney's U of the cells against the controls, [perturbations, genes]."""
    p_value: Floats
    """[perturbations, genes]"""
    distances: Floats
    """Energy distance of the cells to the controls, [perturbations]."""
    within: float
    """Mean distance of the controls from one another, a part of each energy distance."""

    @property
    def de(self) -> pl.DataFrame:
        """Differential expression against the controls, a row a perturbation and gene, as pdex.

        Columns: target, feature, target_mean, ref_mean, target_membership, ref_membership,
        log2_fold_change, percent_change, p_value, statistic, fdr.
        """
        return self.de_of(0, len(self.perturbations))

    def de_of(self, start: int, stop: int) -> pl.DataFrame:
        """Return the differential expression of some of the perturbations, see `de`."""
        rows = np.r_[0, start + 1 : min(stop, len(self.perturbations)) + 1]
        return de_table(
            self.perturbations[start:stop],
            self.genes,
            sizes=self.sizes[rows],
            means=self.means[rows],
            statistic=self.statistic[start:stop],
            p_value=self.p_value[start:stop],
        )

    @property
    def pseudobulks(self) -> NDArray[Any]:
        """`centroids` in the precision of the cells, as cell-eval has them."""
        return self.centroids.astype(self.means.dtype)

    @property
    def energy(self) -> pd.Series:
        """Energy distance to the controls, index = perturbation."""
        return pd.Series(self.distances, index=pd.Index(self.perturbations, name="perturbation"))


def side_of(
    matrix: Matrix,
    rows: Mapping[str, Ints],
    control: str,
    genes: list[str],
    *,
    threads: int,
    what: str,
    controls: Controls | None = None,
) -> Side:
    """Compute a side.

    Args:
        matrix: log1p of counts per 10,000, [cells, genes].
        rows: rows of the matrix that belong to each label, the control's among them.
        control: label of the controls.
        genes: names of the columns.
        threads: CPU threads, 0 = all available; they do not change a bit of the result.
        what: names the side in the progress bar.
        controls: control cells made ready before, used if they are this side's; else they are
            made ready here.
    """
    perturbations = sorted(set(rows) - {control})
    sizes = np.array([len(rows[label]) for label in (control, *perturbations)])
    own = matrix[rows[control]]
    if controls is None or not controls.are(own):
        controls = Controls.of(own)
    centroids, means = (
        np.empty((len(sizes), len(genes))),
        np.empty((len(sizes), len(genes)), own.dtype),
    )
    centroids[0], means[0] = _means(own)
    del own
    statistic, p_value = np.empty((2, len(perturbations), len(genes)))
    distances = np.empty(len(perturbations))

    def compute(batch: range) -> int:
        cells = matrix[np.concatenate([rows[perturbations[at]] for at in batch])]
        ends = np.cumsum(sizes[1:][batch.start : batch.stop])
        across = np.split(
            mean_distances(Centred.of(dense(cells), controls.mean), controls.centred), ends
        )
        for at, stop, distance in zip(batch, ends, across, strict=False):
            part = cells[stop - sizes[1 + at] : stop]
            centroids[1 + at], means[1 + at] = _means(part)
            statistic[at], p_value[at] = rank_test(csr_matrix(part), controls.sorted)
            own_within = mean_distance_within(Centred.of(dense(part), centroids[1 + at]))
            distances[at] = 2 * distance.mean() - own_within
        return int(ends[-1])

    with _threads(threads) as pool, bar(total=int(sizes.sum()), what=what, unit=" cells") as shown:
        within = controls.within
        if within is None:
            within = mean_distance_within(controls.centred, pool.map)
        shown.update(int(sizes[0]))
        for done in pool.map(compute, _batches(sizes[1:])):
            shown.update(done)
    return Side(
        control,
        perturbations,
        list(genes),
        sizes,
        centroids,
        means,
        statistic,
        p_value,
        distances - within,
        within,
    )


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _means(cells: Matrix) -> tuple[Floats, NDArray[Any]]:
    """Return the mean of cells summed in float64, and as their matrix itself sums it, [genes]."""
    return dense(cells).mean(axis=0, dtype=np.float64), np.asarray(cells.mean(axis=0)).ravel()


def _batches(sizes: Ints) -> Iterator[range]:
    """Yield runs of perturbations of about `ROWS` cells, enough for a fast matrix product."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if sizes[start:stop].sum() >= ROWS or stop == len(sizes):
            yield range(start, stop)
            start = stop


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads each take one CPU; what is not begun when it fails is left."""
    available = len(os.sched_getaffinity(0))
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(min(count or available, available)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
