"""A 10x matrix (Cell Ranger 3 and later) as a source: cells and genes, no labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.source_h5ad import H5adSource
from components.shared.reading.tables import Matrix
from components.shared.telling.errors import InputError, shortlist

EXPRESSION = b"Gene Expression"
PARTS = {"data", "indices", "indptr", "shape", "barcodes"}


@dataclass(frozen=True)
class TenXSource(H5adSource):
    """An opened `filtered_feature_bc_matrix.h5`: features x cells as CSC is cells x genes as CSR.

    Features that are not gene expression (guides, antibodies) are left out.
    """

    @cached_property
    def matrix(self) -> Matrix:
        """The only matrix there is."""
        if self.layer or self.gene_column:
            raise InputError(
                f"{self.name}: a 10x matrix has no layers or columns of var; leave out layer and "
                "gene_column"
            )
        return Matrix("matrix", said="the matrix")

    @cached_property
    def hint(self) -> str:
        """There is nothing else to read."""
        return ""

    @cached_property
    def kind(self) -> str:
        """How the matrix is stored."""
        if lacking := sorted(PARTS - set(self.file["matrix"])):
            raise InputError(
                f"{self.name}: is a 10x matrix, but lacks {shortlist(lacking, len(PARTS))}; the "
                "file is damaged, fetch it again"
            )
        return "csr"

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        features, cells = self.file["matrix/shape"][:2]
        return int(cells), int(features)

    @cached_property
    def _expressed(self) -> NDArray[np.bool_]:
        features = self.file["matrix/features"]
        if "feature_type" not in features:
            return np.ones(self.shape[1], dtype=bool)
        return np.asarray(features["feature_type"][:] == EXPRESSION)

    @cached_property
    def _symbols(self) -> tuple["pd.Index[str]", dict[str, int]]:
        names = _texts(self.file["matrix/features/name"][:][self._expressed])
        index = pd.Index(names, dtype=object)
        facts = {"genes_numbered": int(index.duplicated().sum())}
        return (make_index_unique(index) if facts["genes_numbered"] else index), facts

    @cached_property
    def cells(self) -> "pd.Index[str]":
        """Barcodes."""
        return pd.Index(_texts(self.file["matrix/barcodes"][:]), dtype=object)

    @cached_property
    def columns(self) -> list[str]:
        """A 10x matrix holds no labels of cells."""
        return []

    def check(self) -> None:
        """Check that the parts of the matrix fit each other."""
        kind, _, _ = self.kind, self.matrix, self._symbols
        if (len(self.cells), len(self._expressed)) != self.shape:
            raise InputError(f"{self.name}: the parts of the 10x {kind} matrix differ in length")
        self._check_indptr()

    def stored(self) -> Iterator[Any]:
        """Yield the parts of the file that are read."""
        yield self.file["matrix"]

    def symbols_hint(self) -> str:
        """Say nothing of columns that there are not."""
        return "a 10x matrix with names of genes among its features"

    def _read(self, low: int, high: int) -> csr_matrix:
        return super()._read(low, high)[:, np.flatnonzero(self._expressed)]


def _texts(values: Any) -> list[str]:
    if values.ndim != 1:
        raise ValueError(f"names have the shape {values.shape}")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
