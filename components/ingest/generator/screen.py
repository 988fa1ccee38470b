"""The cells of a screen, drawn block by block: a source of raw counts."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.generator.real import at_rank, calibration, symbols
from components.ingest.generator.spec import LEAST_CONTROLS, Spec
from components.ingest.generator.truth import Design, design, expected_shares, write_truth
from components.ingest.source_h5ad import dense_to_csr
from components.shared.artifacts.perturbation import CONTROL
from components.shared.storage.csr_writer import CsrWriter
from components.shared.telling.errors import InputError
from components.shared.telling.progress import bar

PERTURBATION_COLUMN = "gene"
LINE_COLUMN = "cell_line"
BATCH_COLUMN = "batch"

CONTROL_SHARE = 0.1
BATCH_EVENNESS = 1.0
"""Of the Dirichlet distribution of a perturbation's cells over batches; controls are even."""
ENTRIES_PER_DRAW = 2**21
"""Rows x genes drawn at a time; it is part of what a seed means, so leave it as it is."""


def _barcodes(rng: np.random.Generator, n: int) -> list[str]:
    """Return ``n`` different barcodes of 16 bases, ``n`` below 2**28."""
    # Different numbers of 32 bits stay different when multiplied by an odd one, modulo 2**32.
    number = np.arange(n, dtype=np.uint32) * np.uint32(16) + rng.integers(0, 16, n, dtype=np.uint32)
    number *= np.uint32(0x9E3779B1)
    letters = np.empty((n, 16), dtype="S1")
    for base in range(16):
        letters[:, base] = np.array([b"A", b"C", b"G", b"T"])[(number >> np.uint32(2 * base)) & 3]
    return letters.view("S16").ravel().astype(str).tolist()


def _line_labels(rng: np.random.Generator, n_cells: int, present: NDArray) -> NDArray[np.int32]:
    """Return the perturbation number of each cell of a line, shuffled; -1 = control."""
    n_control = max(LEAST_CONTROLS, round(CONTROL_SHARE * n_cells))
    free = n_cells - n_control - len(present)
    weight = np.exp(0.3 * rng.standard_normal(len(present)))
    each = 1 + rng.multinomial(free, weight / weight.sum())
    labels = np.r_[np.full(n_control, -1), np.repeat(present, each)].astype(np.int32)
    return rng.permutation(labels)


@dataclass(frozen=True)
class Screen:
    """A generated screen as a source of raw counts; columns gene, cell_line and maybe batch."""

    spec: Spec

    @classmethod
    def from_uri(cls, uri: str, *, seed: int = 0) -> "Screen":
        """Return the screen that ``uri`` asks for; ``seed`` is taken where it names none."""
        return cls(Spec.from_uri(uri, seed=seed))

    @property
    def name(self) -> str:
        """The full URI."""
        return self.spec.uri

    @property
    def hint(self) -> str:
        """A screen has nothing else."""
        return ""

    @cached_property
    def plan(self) -> Design:
        """The design behind the cells."""
        return design(self.spec)

    @property
    def genes(self) -> list[str]:
        """Symbols of the measured genes."""
        return [str(gene) for gene in self.plan.genes]

    @property
    def columns(self) -> list[str]:
        """Columns of obs."""
        batch = [BATCH_COLUMN] if self.spec.batches else []
        return [PERTURBATION_COLUMN, LINE_COLUMN, *batch]

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Line number and perturbation number (-1 = control) of each cell; lines in order."""
        n_lines = len(self.spec.lines)
        sizes = np.diff(np.linspace(0, self.spec.cells, n_lines + 1).astype(int))
        labels = [
            _line_labels(
                np.random.default_rng([self.spec.seed, 1, line]),
                int(size),
                np.flatnonzero(~self.plan.missing[line]),
            )
            for line, size in enumerate(sizes)
        ]
        return np.repeat(np.arange(n_lines, dtype=np.int8), sizes), np.concatenate(labels)

    @cached_property
    def _escaped(self) -> NDArray[np.bool_]:
        """Which perturbed cells look like controls."""
        _, perturbation = self._rows
        drawn = np.random.default_rng([self.spec.seed, 5]).random(len(perturbation))
        return (drawn < self.spec.escape / 100) & (perturbation >= 0)

    @cached_property
    def _batches(self) -> NDArray[np.int16]:
        """Number of each cell's batch within its line."""
        line, perturbation = self._rows
        rng = np.random.default_rng([self.spec.seed, 6])
        n, n_batches = len(self.plan.targets), self.spec.batches
        # The control, number -1, comes last.
        parts = rng.dirichlet(np.full(n_batches, BATCH_EVENNESS), (len(self.spec.lines), n + 1))
        parts[:, -1] = 1 / n_batches
        edges = parts.cumsum(axis=2)[line, perturbation, :-1]
        return (rng.random(len(line))[:, None] > edges).sum(axis=1).astype(np.int16)

    @cached_property
    def cells(self) -> "pd.Index[str]":
        """Cell names such as ``AAACCCAAGAATAGTC-1-hepg2``."""
        line, _ = self._rows
        barcode = _barcodes(np.random.default_rng([self.spec.seed, 2]), len(line))
        names = self.spec.lines
        return pd.Index(
            [f"{code}-1-{names[i]}" for code, i in zip(barcode, line, strict=True)], dtype=object
        )

    def column(self, name: str) -> "pd.Series[Any]":
        """Return gene (perturbation), cell_line or batch of each cell."""
        line, perturbation = self._rows
        if name == BATCH_COLUMN:
            labels = [f"{x}-{i + 1}" for x in self.spec.lines for i in range(self.spec.batches)]
            codes = line * np.int64(self.spec.batches) + self._batches
            return pd.Series(pd.Categorical.from_codes(codes, pd.Index(labels)))
        if name == LINE_COLUMN:
            return pd.Series(pd.Categorical.from_codes(line, pd.Index(self.spec.lines)))
        codes = np.where(perturbation < 0, len(self.plan.targets), perturbation)
        bare = np.isin(line, [self.spec.lines.index(x) for x in self.spec.controls_only])
        codes[bare & (perturbation >= 0)] = -1  # no label: the cell is left out
        names = pd.Index([*self.plan.targets.tolist(), CONTROL])
        return pd.Series(pd.Categorical.from_codes(codes, names))

    @cached_property
    def _block_rows(self) -> int:
        return max(1, ENTRIES_PER_DRAW // self.spec.genes)

    def _counts(self, shares: NDArray, line: int, rows: slice) -> csr_matrix:
        """Draw counts of rows of one line; seeded by where the rows start."""
        rng = np.random.default_rng([self.spec.seed, 3, rows.start])
        plan, (_, perturbation) = self.plan, self._rows
        label = perturbation[rows]
        measured = np.exp(plan.log_share[line]).sum() / self._all_molecules
        spread = calibration()["library_size"]["log_sd"]
        depth = plan.depth[line] * measured * np.exp(spread * rng.standard_normal(len(label)))
        if self.spec.escape:
            label = np.where(self._escaped[rows], -1, label)
        share = shares[label]
        if self.spec.batches:
            share = share * np.exp(plan.batch_shift[line])[self._batches[rows]]
            share /= share.sum(axis=1, keepdims=True)
        mean = share * depth[:, None]
        # Gamma-Poisson: a negative binomial of this mean and size.
        mean *= rng.standard_gamma(plan.size, size=mean.shape) / plan.size
        return dense_to_csr(rng.poisson(mean))

    @cached_property
    def _all_molecules(self) -> float:
        """Sum of the shares of all genes, measured or not."""
        return float(np.exp(at_rank("log_share", np.arange(len(symbols())))).sum())

    def _line_blocks(self) -> Iterator[tuple[int, slice]]:
        """Yield (line, rows) of blocks that do not cross from one line to the next."""
        line, _ = self._rows
        edges = np.searchsorted(line, np.arange(len(self.spec.lines) + 1))
        for number, (low, high) in enumerate(pairwise(edges)):
            for start in range(int(low), int(high), self._block_rows):
                yield number, slice(start, min(start + self._block_rows, int(high)))

    def sample(self, kept: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        """Return non-zero counts of the first rows of each line."""
        line, _ = self._rows
        found = [np.empty(0, dtype=np.float32)]
        for number in range(len(self.spec.lines)):
            low, high = np.searchsorted(line, [number, number + 1])
            rows = slice(int(low), int(min(low + 64, high)))
            found.append(self._counts(expected_shares(self.plan, number), number, rows).data)
        return np.concatenate(found)

    def cells_sample(self, kept: NDArray[np.bool_], seed: int) -> csr_matrix:
        """Return the first rows."""
        return next(self.blocks(kept))[1]

    def blocks(self, kept: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], csr_matrix]]:
        """Yield (row numbers, raw counts as CSR float32 [rows, genes]) over the kept rows."""
        shares, current = np.empty(0), -1
        for line, rows in self._line_blocks():
            if line != current:
                shares, current = expected_shares(self.plan, line), line
            part = np.flatnonzero(kept[rows])
            if len(part):
                yield rows.start + part, self._counts(shares, line, rows)[part]

    def sha256(self) -> str:
        """Return the digest of the screen's full URI and of the numbers it is computed from."""
        return hashlib.sha256(
            (self.name + json.dumps(calibration()) + "\n".join(symbols())).encode()
        ).hexdigest()

    def write_truth(self, path: Path) -> None:
        """Write what is known of the screen; see `truth.write_truth`."""
        write_truth(path, self.spec, self.plan, self._escaped if self.spec.escape else None)


def write_raw(uri: str, target: Path) -> None:
    """Write the screen of ``uri`` as an h5ad of raw counts (CSR) with obs gene and cell_line.

    Raises:
        InputError: the query cannot be used, or ``target`` exists.
    """
    screen = Screen.from_uri(uri)
    if target.exists():
        raise InputError(f"{target}: exists already; give another name or remove it first")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            writer = CsrWriter(file, screen.spec.genes)
            with bar(total=screen.spec.cells, what="generating", unit=" cells") as progress:
                for rows, block in screen.blocks(np.ones(screen.spec.cells, dtype=bool)):
                    writer.append(block)
                    progress.update(len(rows))
            obs = pd.DataFrame({name: screen.column(name) for name in screen.columns})
            writer.finish(obs.set_index(screen.cells), screen.genes, {"source": screen.name})
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
