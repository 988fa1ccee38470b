"""Scores by cell-eval's full profile, and what it could not compute said aloud."""

import io
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import polars as pl
from cell_eval._evaluator import SB_METRICS

from components.evaluate.full_profile import full_profile
from components.evaluate.halves import halves
from components.evaluate.measured import Measured, cached_side
from components.evaluate.pair import Pair
from components.evaluate.side import Side
from components.shared.progress import SECONDS_BETWEEN_LINES

OF_THE_SET = ("de_spearman_sig", "pearson_edistance", "clustering_agreement")
"""One number for all perturbations together, which cell-eval repeats in every row."""


@dataclass(frozen=True)
class Score:
    """What cell-eval says of one prediction."""

    table: pl.DataFrame
    """A row a perturbation, in cell-eval's own form (`results.csv`)."""
    aggregate: pl.DataFrame
    """cell-eval's describe table (`agg_results.csv`)."""
    not_computed: dict[str, str]
    """Metrics that failed on this input, with cell-eval's reason."""
    predicted: Side
    """What the metrics are made of on the predicted side."""

    @property
    def de(self) -> pl.DataFrame:
        """Differential expression of the predicted cells, see `Side.de`."""
        return self.predicted.de

    @property
    def metrics(self) -> pd.DataFrame:
        """Return the table as floats, index = perturbation; every missing value is NaN."""
        return as_floats(self.table)


def as_floats(table: pl.DataFrame) -> pd.DataFrame:
    """Return a cell-eval result as floats, index = perturbation; null and infinite become NaN."""
    frame = table.to_pandas().set_index("perturbation").astype(float)
    return frame.replace([np.inf, -np.inf], np.nan)


def score(
    pair: Pair,
    *,
    threads: int,
    measured: Measured | None = None,
    what: str = "predicted cells",
    cache: Path | None = None,
) -> Score:
    """Score a prediction by cell-eval's full profile, with the settings of its `run` command.

    Args:
        pair: predicted and measured cells.
        threads: CPU threads; 0 = all available CPUs. They do not change a number.
        measured: the measured side, from `Measured.of` of the same cells; None = computed here.
        what: names the prediction in the progress bar.
        cache: folder to keep the predicted side in between evaluations, None = keep nothing.
    """
    measured = measured or Measured.of(pair, threads=threads, cache=cache)
    known = measured.controls
    predicted = cached_side(
        pair,
        pair.predicted,
        lambda: known.as_in(pair.predicted[pair.rows[pair.control]]),
        threads=threads,
        what=what,
        cache=cache,
    )
    with _listening() as failed:
        table, others = full_profile(measured.side, predicted)
    return Score(table, table.drop("perturbation").describe(), failed | others, predicted)


@dataclass(frozen=True)
class Ceiling:
    """How well the measured cells predict themselves (cell-eval's `compute_ceiling`)."""

    halves: Score
    """What one half scores as a prediction of the other."""
    table: pd.DataFrame
    """Index = metric; columns half_depth (nan-mean of the halves' scores), ceiling and n_nan."""


def ceiling(pair: Pair, *, threads: int, cache: Path | None = None) -> Ceiling | None:
    """Return how well the measured data predict themselves (cell-eval's `compute_ceiling`).

    The mean of what one half of the cells scores as a prediction of the other is mapped to full
    depth by Spearman-Brown, 2r / (1 + r), in the metrics that cell-eval holds fit for it
    (`SB_METRICS`, no error metric) and where r > 0. cell-eval's own mean is NaN as soon as one
    perturbation has no value; this one leaves those out.

    Args:
        pair: predicted and measured cells; the prediction is not looked at.
        threads: CPU threads; 0 = all available CPUs.
        cache: folder kept between evaluations, None = keep nothing.

    Returns:
        None where no halves can be made, see `halves`.
    """
    split = halves(pair)
    if split is None:
        return None
    measured = Measured.of(split, threads=threads, what="half of the measured cells", cache=cache)
    found = score(split, threads=threads, measured=measured, what="the other half", cache=cache)
    values = found.metrics
    mean = values.mean()
    corrected = (2 * mean / (1 + mean)).where((mean > 0) & mean.index.isin(SB_METRICS))
    parts = {"half_depth": mean, "ceiling": corrected, "n_nan": values.isna().sum()}
    return Ceiling(found, pd.DataFrame(parts).rename_axis("metric"))


@contextmanager
def step(number: int, total: int, what: str) -> Iterator[None]:
    """Print what is being done and how long it took, on standard error."""
    start = time.monotonic()
    print(f"evaluate: {number}/{total} {what}", file=sys.stderr, flush=True)
    yield
    took = time.monotonic() - start
    print(f"evaluate: {number}/{total} done in {took:.1f} s", file=sys.stderr, flush=True)


class _Failures(logging.Handler):
    """Collects the metrics cell-eval logs as failed; it goes on without them."""

    said = re.compile(r"Error computing metric '(.+?)': (.*)", re.DOTALL)

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.failed: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if match := self.said.match(record.getMessage()):
            self.failed[match[1]] = " ".join(match[2].split())


class _Thinned(io.TextIOBase):
    """Lets a line of cell-eval's many progress bars through now and then, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, time.monotonic()

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        now = time.monotonic()
        if "%|" in line and " 0%|" not in line and now - self.last > SECONDS_BETWEEN_LINES:
            self.last = now
            print(f"evaluate:   {line}", file=self.stream, flush=True)
        return len(text)


@contextmanager
def _listening() -> Iterator[dict[str, str]]:
    """Thin out what cell-eval prints; yield a dict that fills with the metrics that failed."""
    logger, handler = logging.getLogger("cell_eval"), _Failures()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        # Warnings are of constant inputs, which come out as NaN and are counted.
        with warnings.catch_warnings(), redirect_stderr(_Thinned(sys.stderr)):
            warnings.simplefilter("ignore")
            yield handler.failed
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
