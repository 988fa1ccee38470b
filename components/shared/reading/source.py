"""Sources that ingest reads, an h5ad file or a generated screen, and how each is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

ENTRIES_PER_BLOCK = 2**22
"""Rows x genes of a block, dense or sparse: what bounds memory, whatever the number of cells."""


@dataclass(frozen=True)
class Reading:
    """How one file is read: the options of ingest that are a file's own."""

    perturbation_column: str
    cell_line_column: str
    control: str | Sequence[str]
    batch_column: str
    expression: str
    scale: str
    layer: str
    gene_column: str
    obs_filter: Mapping[str, Any]
    label_separator: str
    missing_is_control: bool
    left_out: Sequence[str]
    least_knock_down: float = 0.0
    least_perturbation_knock_down: float = 0.0


class Source(Protocol):
    """Cells by genes, with a table of labels; X never comes as a whole."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def hint(self) -> str:
        """Other matrices that could be read, for messages; empty if there are none."""

    @property
    def genes(self) -> list[str]:
        """Gene symbols, in column order."""

    @property
    def cells(self) -> "pd.Index[str]":
        """Cell names, in row order."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns of obs."""

    def column(self, name: str) -> "pd.Series[Any]":
        """Return one column of obs, one entry a cell; ``name`` is one of ``columns``."""

    def sample(self, kept: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        """Return non-zero values of X from all over the kept rows, at most a block of them."""

    def cells_sample(self, kept: NDArray[np.bool_], seed: int) -> csr_matrix:
        """Return whole rows of X from all over the kept rows, at most a block of them."""

    def blocks(self, kept: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], csr_matrix]]:
        """Yield (row numbers, CSR float32 [rows, genes]) over the kept rows, in order."""

    def sha256(self) -> str:
        """Return the digest of what was read; call it after ``blocks`` is exhausted."""


def rows_per_block(n_genes: int) -> int:
    """Return how many rows of ``n_genes`` make a block."""
    return max(1, ENTRIES_PER_BLOCK // max(1, n_genes))
