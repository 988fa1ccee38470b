"""Raw counts or log1p: which it is, whether the values can be that, and the way to log1p."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.shared.telling.errors import InputError

COUNTS = "counts"
LOG1P = "log1p"
UNKNOWN = ""
"""Neither is plain from the values alone: see `scale`."""
AUTO = "auto"
EXPRESSIONS = (AUTO, COUNTS, LOG1P)
SCALE = 1e4
"""A cell's values add up to this before the logarithm."""
ALL_ONE = 200
"""So many values other than zero are not all 1 in counts: 56 % of those of Datlinger 2021 are more,
where a cell has 18 genes."""
LOG1P_LIMIT = 15.0
"""log1p of a cell's whole 10,000 is 9.2, of a million 13.8; cell-eval too refuses 15 and more."""


def detect(sample: NDArray[np.float32], given: str, name: str) -> tuple[str, str]:
    """Return (counts, log1p or not known yet, how that is known) from non-zero values of X.

    The sample is from all over the file, ``given`` what the user says: auto, counts or log1p.

    Raises:
        InputError: neither fits, or ``given`` cannot be.
    """
    values = sample[np.isfinite(sample)]
    whole = bool(len(values)) and bool((values == np.rint(values)).all())
    most = float(values.max(initial=0.0))
    seen = f"{len(values)} sampled non-zero values, the largest {most:.6g}"
    if given == LOG1P and whole and most > 1:
        raise InputError(
            f"{name}: X is not log1p: {seen}, are all whole numbers; leave expression and scale "
            "at auto"
        )
    if given != AUTO:
        return given, f"given; {seen}"
    if len(sample) == 0:
        raise InputError(
            f"{name}: no non-zero value in a sample of X, so counts and log1p look alike; "
            f"set expression to counts or log1p"
        )
    if whole and most == 1 and len(values) >= ALL_ONE:
        raise InputError(
            f"{name}: X says only whether a gene was seen: {len(values)} sampled non-zero values "
            "are all 1; expected raw counts (a layer, or layer: raw); if these are, scale: counts"
        )
    if whole:
        return COUNTS, f"detected: {seen}, are all whole numbers"
    return UNKNOWN, f"{seen}, are not all whole numbers"


def row_sums(data: NDArray[np.floating], indptr: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the sum of each row of a CSR matrix in double precision, shape [rows]."""
    sums = np.concatenate([[0.0], np.cumsum(data, dtype=np.float64)])
    return sums[indptr[1:]] - sums[indptr[:-1]]


def log1p_of_counts(block: csr_matrix, total: float = SCALE) -> None:
    """Turn counts into log1p(counts / row total * total), in place; rows of zeros stay zeros."""
    totals = row_sums(block.data, block.indptr)
    factor = np.divide(total, totals, out=np.zeros_like(totals), where=totals > 0)
    # Single precision from here: 1e-7 relative, a fifth of the time.
    block.data *= np.repeat(factor.astype(np.float32), np.diff(block.indptr))
    np.log1p(block.data, out=block.data)


@dataclass(frozen=True)
class ValueCheck:
    """Checks every value of X and names the cell and the gene of the first bad one."""

    name: str
    cells: NDArray[np.object_]
    """Names of all cells of the source."""
    genes: list[str]
    expression: str
    whole: bool
    """Counts were detected, not given: a fraction then means the detection was wrong."""
    hint: str = ""
    """Other matrices that could be read."""

    def __call__(self, rows: NDArray[np.int64], block: csr_matrix) -> None:
        """Check a block whose rows are the source's ``rows``.

        Raises:
            InputError: negative, NaN, infinite, log1p of 15 or more, or a fraction among counts.
        """
        low = float(block.data.min(initial=0.0))
        high = float(block.data.max(initial=0.0))
        if not (np.isfinite(low) and np.isfinite(high)):
            self._refuse(rows, block, ~np.isfinite(block.data), "NaN or infinite")
        if low < 0:
            self._refuse(rows, block, block.data < 0, "negative (scaled data?)")
        if self.expression == LOG1P and high >= LOG1P_LIMIT:
            why = f"not log1p, which stays below {LOG1P_LIMIT:g}"
            self._refuse(rows, block, block.data >= LOG1P_LIMIT, why)
        if self.whole and not (whole := block.data == np.rint(block.data)).all():
            why = "no whole number where the rest looks like counts (set expression if it is right)"
            self._refuse(rows, block, ~whole, why)

    def _refuse(
        self, rows: NDArray[np.int64], block: csr_matrix, bad: NDArray[np.bool_], why: str
    ) -> None:
        entry = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(block.indptr, entry, side="right")) - 1
        cell, gene = self.cells[rows[row]], self.genes[block.indices[entry]]
        hint = f"; {self.hint}" if self.hint else ""
        raise InputError(
            f"{self.name}: X of cell '{cell}' and gene '{gene}' is {block.data[entry]:.6g}: {why}; "
            f"expected raw counts or log1p of counts per 10,000{hint}"
        )
