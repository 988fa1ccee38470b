"""Tables of the predicted effect of each perturbation on each gene, for people and programs."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from components.evaluate.measures.side import Side
from components.shared.artifacts.confidence import correlations
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.telling.spreadsheet import no_formula, without_formulas

PARQUET_FILE = "effects.parquet"
CSV_FILE = "effects.csv.gz"
PERTURBATIONS_TABLE = "perturbations.csv"

BLOCK = 64
"""Perturbations whose rows are in memory at a time."""
DECIMALS = 4
"""Of means and changes: a hundredth of what a mean of a few hundred cells is uncertain by."""
DIGITS = 3
"""Of p and FDR."""
LOWEST = 1e-300
"""A float of 64 bits cannot hold what smaller ones would be scaled by."""
GZIP_LEVEL = 1
"""At the highest level it takes eight times as long and is a sixth smaller."""
TOP = 10
"""Genes that are named of each perturbation, up and down."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Effects:
    """Predicted changes of all requested perturbations, with everything that was measured."""

    perturbations: list[str]
    genes: list[str]
    control: Floats
    """Mean of the test line's basal controls, the model's input, [genes], log1p of counts per
    10,000. What is predicted is a change of it."""
    means: Floats
    """Predicted means, [perturbations, genes]."""
    known_means: Floats | None
    """What the effects that the model was given come to without it, [perturbations, genes]."""
    measured: Side | None
    """Measured changes of some of them, genes in the same order; None = of none."""
    training: TrainingEffects | None
    """Changes in the training lines; None = not known here."""
    asked: pd.DataFrame
    """What is said of each perturbation, see `predictions.PERTURBATION_COLUMNS`; in order."""

    def change(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return the predicted changes of some perturbations, [perturbations, genes]."""
        return self.means[start:stop].astype(np.float64) - self.control

    def measured_of(self, start: int, stop: int) -> dict[str, Floats]:
        """Return measured_change, p_value and fdr of some perturbations, NaN where not measured."""
        shape = len(self.perturbations[start:stop]), len(self.genes)
        found = {name: np.full(shape, np.nan) for name in ("measured_change", "p_value", "fdr")}
        rows = self._measured_rows[start:stop]
        there = rows >= 0
        if (side := self.measured) and there.any():
            own = rows[there]
            found["measured_change"][there] = side.centroids[own + 1] - side.centroids[0]
            found["p_value"][there] = side.p_value[own]
            found["fdr"][there] = side.fdr[own]
        return found

    @cached_property
    def _measured_rows(self) -> NDArray[np.int64]:
        labels = self.measured.perturbations if self.measured else []
        return pd.Index(labels, dtype=object).get_indexer(pd.Index(self.perturbations))

    @cached_property
    def strength(self) -> NDArray[np.float64]:
        """Mean absolute predicted change over genes, [perturbations]: what mae_delta is of."""
        blocks = (np.abs(self.change(start, stop)).mean(axis=1) for start, stop in self.blocks())
        return np.concatenate([*blocks])

    def top(self, row: int, most: int = TOP) -> tuple[list[str], list[str]]:
        """Return the genes that a perturbation moves most: up, down; strongest first."""
        change = self.change(row, row + 1)[0]
        order = np.argsort(-change, kind="stable")
        up = [self.genes[gene] for gene in order[:most] if change[gene] > 0]
        down = [self.genes[gene] for gene in order[::-1][:most] if change[gene] < 0]
        return up, down

    def likeness(self, to: Callable[[int, int], Floats]) -> NDArray[np.float64]:
        """Return the correlation over genes of predicted changes with others, [perturbations].

        ``to`` returns the others' block from one perturbation to another; NaN where one has none.
        """
        parts = []
        for start, stop in self.blocks():
            both = self.change(start, stop), to(start, stop)
            parts.append(correlations(*(each - each.mean(axis=1, keepdims=True) for each in both)))
        return np.concatenate(parts)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield where some perturbations at a time begin and end."""
        count = len(self.perturbations)
        return ((start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))

    def tables(self) -> Iterator[pa.Table]:
        """Yield one row per perturbation and gene, some perturbations at a time, see the README."""
        for start, stop in self.blocks():
            change = self.change(start, stop)
            columns = {
                "control_mean": np.broadcast_to(self.control, change.shape),
                "predicted_mean": self.means[start:stop],
                "predicted_change": change,
                **self.measured_of(start, stop),
            }
            labels = self.perturbations[start:stop]
            if self.training:
                columns |= {
                    f"change_{line}": self.training.of(line, labels, self.genes)
                    for line in self.training.lines
                }
            n, genes = change.shape
            repeated = np.repeat(np.arange(n, dtype=np.int32), genes)
            tiled = np.tile(np.arange(genes, dtype=np.int32), n)
            yield pa.table(
                {
                    "perturbation": _coded(repeated, labels),
                    "gene": _coded(tiled, self.genes),
                    **{name: _numbers(name, values) for name, values in columns.items()},
                }
            )

    def table(self, pearson_delta: pd.Series | None) -> pd.DataFrame:
        """Return one row per perturbation: the columns of `asked`, and what is said here.

        That is predicted_strength, top_up and top_down (genes with spaces between) and the given
        pearson_delta, index = perturbation (None = none was scored); NaN where not measured.
        """
        tops = [self.top(row) for row in range(len(self.perturbations))]
        reached = {} if pearson_delta is None else pearson_delta.to_dict()
        return self.asked.assign(
            predicted_strength=self.strength,
            top_up=[" ".join(up) for up, _ in tops],
            top_down=[" ".join(down) for _, down in tops],
            pearson_delta=[reached.get(label, np.nan) for label in self.perturbations],
        )


def write_effects(effects: Effects, table: pd.DataFrame, folder: Path) -> None:
    """Write `effects.parquet`, `effects.csv.gz` and, from `Effects.table`, `perturbations.csv`."""
    blocks = effects.tables()
    first = next(blocks)
    numbers = [name for name in first.column_names if name not in ("perturbation", "gene")]
    # No date and no name in the header: the same prediction is the same file.
    with (
        parquet.ParquetWriter(folder / PARQUET_FILE, first.schema, compression="zstd") as whole,
        (folder / CSV_FILE).open("wb") as file,
        gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed,
        csv.CSVWriter(packed, first.schema) as text,
    ):
        for block in chain([first], blocks):
            whole.write_table(block)
            safe = {name: _safe(block[name]) for name in ("perturbation", "gene")}
            text.write_table(pa.table(safe | {name: block[name] for name in numbers}))
    without_formulas(table).to_csv(folder / PERTURBATIONS_TABLE, index=False)


def _coded(codes: NDArray[np.int32], names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))


def _safe(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return names that no spreadsheet takes for formulas."""
    coded = column.chunk(0)
    names = [no_formula(name) for name in coded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(coded.indices, pa.array(names, pa.string()))


def _numbers(name: str, values: Floats) -> pa.Array:
    """Return numbers rounded to what they can say, null where there is none."""
    if name in ("p_value", "fdr"):
        return pa.array(_significant(values).ravel(), from_pandas=True)
    return pa.array(np.round(values, DECIMALS).astype(np.float32).ravel(), from_pandas=True)


def _significant(values: Floats) -> NDArray[np.float64]:
    """Round to `DIGITS` significant digits; what is below `LOWEST` becomes 0 or near it."""
    size = np.floor(np.log10(np.where(values > LOWEST, values, LOWEST)))
    scale = 10.0 ** (DIGITS - 1 - size)
    return np.round(values * scale) / scale
