"""The gene prior artifact's files, as prior writes them and others read them."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from components.shared.storage.documents import said
from components.shared.storage.parquet import PARQUET_FAULTS, opened_parquet, read_numbers
from components.shared.telling.errors import InputError, refusing

TABLE_FILE = "prior.safetensors"
"""One tensor, `prior`, float32 [tokens, width], a zero row where a token has none."""
TENSOR = "prior"
GENES = "genes"
"""Metadata key of the table: the vocabulary's tokens as a JSON list, one a row."""
FACTS_FILE = "prior.json"
EFFECTS = "effects"
"""Key of the facts: what is said of known effects, where the prior has them."""
EFFECTS_FILE = "effects.parquet"
"""Deltas of other screens, where the prior names some; see `OtherEffects`."""
ERRORS_FILE = "effects_se.parquet"
"""Their standard errors, where they were measured on cells."""
AGAIN = "run the prior task again"
PERTURBATION, CELL_LINE, CELLS = "perturbation", "cell_line", "cells"
"""Columns of these files; every other column is a gene."""


@contextmanager
def opened_table(path: Path, framework: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield the table of a gene prior, [rows, width], read where it is indexed, and metadata.

    Raises:
        InputError: the file cannot be read, or holds no such table.
    """
    with (
        refusing((SafetensorError, OSError), f"{path}: cannot be read", f"; {AGAIN}"),
        safe_open(str(path), framework=framework) as file,
    ):
        rows = file.get_slice(TENSOR)
        if len(rows.get_shape()) != 2 or rows.get_dtype() != "F32":
            raise InputError(f"{path}: '{TENSOR}' is not a table of float32; {AGAIN}")
        yield rows, file.metadata() or {}


@dataclass(frozen=True)
class OtherEffects:
    """Effects of perturbations in other screens, one row per (perturbation, cell line)."""

    perturbations: list[str]
    lines: list[str]
    """Cell line of each row, empty where the table names none."""
    genes: list[str]
    delta: NDArray[np.float32]
    """Mean of the perturbation's cells less that of its line's controls, log1p of counts per
    10,000, [rows, genes]."""
    cells: NDArray[np.int64] | None = None
    """Perturbed cells of each row, None where that is not known."""
    error: NDArray[np.float32] | None = None
    """Standard error of the delta, [rows, genes], None where it is not known."""

    def write(self, folder: Path) -> None:
        """Write `effects.parquet`, and `effects_se.parquet` where there are errors."""
        pq.write_table(self._table(self.delta), folder / EFFECTS_FILE)
        if self.error is not None:
            pq.write_table(self._table(self.error), folder / ERRORS_FILE)

    @classmethod
    def read(cls, folder: Path) -> "OtherEffects":
        """Read what `write` wrote into the folder of a gene prior artifact.

        Raises:
            InputError: a file is missing or not what was written.
        """
        path, errors = folder / EFFECTS_FILE, folder / ERRORS_FILE
        faults, again = (*PARQUET_FAULTS, KeyError), f"; {AGAIN}"
        with refusing(faults, f"{path}: not readable as parquet", again, said):
            file = opened_parquet(path, str(path), hint=AGAIN)
            named = [c for c in file.schema_arrow.names if c in (PERTURBATION, CELL_LINE, CELLS)]
            genes = [column for column in file.schema_arrow.names if column not in named]
            told = file.read(named)
            delta = read_numbers(file, genes)
            labels, lines = (told.column(name).to_pylist() for name in (PERTURBATION, CELL_LINE))
        spread = None
        if errors.is_file():
            with refusing(faults, f"{errors}: not readable as parquet", again, said):
                spread = read_numbers(opened_parquet(errors, str(errors), hint=AGAIN), genes)
                if len(spread) != len(delta):
                    raise ValueError(f"{len(spread)} rows, not {len(delta)} as {EFFECTS_FILE}")
        cells = told.column(CELLS).to_numpy() if CELLS in named else None
        return cls(labels, lines, genes, delta, cells, spread)

    def _table(self, values: NDArray[np.float32]) -> pa.Table:
        columns: dict[str, object] = {PERTURBATION: self.perturbations, CELL_LINE: self.lines}
        if self.cells is not None:
            columns[CELLS] = self.cells
        return pa.table(columns | {gene: values[:, i] for i, gene in enumerate(self.genes)})


def genes_with_vector(table: NDArray[np.float32], tokens: Iterable[str]) -> set[str]:
    """Return the tokens of a prior [tokens, width] that have a vector; a row of zeros = none."""
    filled = np.any(table, axis=1).tolist()
    return {token for token, there in zip(tokens, filled, strict=True) if there}


def coverage(with_vector: Collection[str], genes: Iterable[str]) -> dict[str, int | float]:
    """Return how many of some genes, each once, have a prior, see `genes_with_vector`.

    That is ``genes``, ``covered`` and ``fraction`` (0 if there are no genes).
    """
    asked = set(genes)
    covered = len(asked & set(with_vector))
    return {
        "genes": len(asked),
        "covered": covered,
        "fraction": round(covered / len(asked), 4) if asked else 0.0,
    }
