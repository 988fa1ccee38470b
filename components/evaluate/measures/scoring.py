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

from components.evaluate.inputs.pair import Pair
from components.evaluate.measures.full_profile import full_profile
from components.evaluate.measures.measured import Measured, cached_side
from components.evaluate.measures.side import Side
from components.shared.telling.progress import SECONDS_BETWEEN_LINES

OF_THE_SET = ("de_spearman_sig", "pearson_edistance", "clustering_agreement")
"""One number for all perturbations together, which cell-eval repeats in every row."""


@dataclass(frozen=True)
class Score:
    """cell-eval's scores of one prediction."""

    table: pl.DataFrame
    """One row per perturbation, in cell-eval's own form (`results.csv`)."""
    not_computed: dict[str, str]
    """Metrics that failed on this input, with cell-eval's reason."""
    predicted: Side
    """Inputs of the metrics on the predicted side."""

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
    what: str,
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
        lambda: known.as_in(pair.predicted[pair.rows[pair.control]], threads=threads),
        threads=threads,
        what=what,
        cache=cache,
    )
    with _listening() as failed:
        table, others = full_profile(measured.side, predicted)
    return Score(table, failed | others, predicted)


class _Failures(logging.Handler):
    """Collects the metrics cell-eval logs as failed; it continues without them."""

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
        line = text.strip()
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
