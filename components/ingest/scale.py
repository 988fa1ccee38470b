"""On what scale X is: measured from whole cells, named, and brought to log1p of counts per 10,000.

Two things tell a scale. Undo the logarithm: only under the right one do the cells add up to the
same total (or hold whole numbers), and only then are a cell's values multiples of its smallest,
which is one count. What neither tells is refused, unless the user says what it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.normalise import COUNTS, LOG1P, SCALE, detect, log1p_of_counts, row_sums
from components.shared.artifacts.normalisation import unit_of
from components.shared.reading.source import Source
from components.shared.telling.errors import InputError, nearest

AUTO = "auto"
Values = NDArray[np.float64]

UNDO: dict[str, Callable[[Values], Values]] = {
    "log1p": np.expm1,
    "log2": lambda x: np.exp2(x) - 1,
    "log10": lambda x: np.power(10.0, x) - 1,
    "log1p_log1p": lambda x: np.expm1(np.expm1(x)),
    "": lambda x: x,
}
"""Inverse of each logarithm, the likeliest first; an empty name for none."""
SAID = {
    "log1p": "log1p of ",
    "log2": "log2(x + 1) of ",
    "log10": "log10(x + 1) of ",
    "log1p_log1p": "log1p of log1p of ",
    "": "",
}
TOTALS = {"counts": None, "cp10k": 1e4, "cpm": 1e6, "fractions": 1.0}
"""Sum of a cell's values before the logarithm, by name; of counts, anything."""
SCALES = (
    AUTO,
    *(f"{log}_{total}" if log else total for log in reversed(UNDO) for total in TOTALS),
)
"""Allowed values of the option `scale`."""

SAME = 0.01
"""Share by which totals of cells may differ that were scaled to the same one."""
SURE = 2e-3
"""... and by which they then differ as a rule; where it is more, values must be multiples too."""
SOME = 0.3
"""Share of values that are multiples of a count if values were rounded to two digits."""
TIE = 1e-3
"""Scales whose totals spread by so little more than the best one's fit as well."""
NEAR = 0.02
"""How far a multiple may be from a whole number."""
MULTIPLES = (1.5, 50.0)
"""The multiples that are looked at: 1 says nothing, and single precision blurs the large ones."""
SMALL_COUNT, LARGEST_COUNT = 1e3, 1e7
"""Counts that single precision tells from fractions after a logarithm; a cell holds no more."""
ENOUGH = 20
"""Values from which on a share of them is looked at."""
MOSTLY = 0.95
"""Share of values that are to be whole: rounding spoils a few."""
ONE_COUNT = (0.05, 10.0)
"""One count in counts per 10,000, in cells of 1,000 to 200,000 counts."""
FACTORS = 0.1
"""How far from 1 the mean of the sampled cells' factors may be where they are size factors, whose
mean over all cells is 1 (scran, scater). In cells of 9,000 to 11,000 counts it is so near in counts
per 10,000 too."""
MANY_GENES = 10_000
"""Genes that hold nearly all counts of a cell, which expresses about as many: where there are more,
none were left out that would explain why a cell adds up to less than 10,000."""


@dataclass(frozen=True)
class Found:
    """The scale of a source, how it is known, and the way from it to the target."""

    name: str
    log: str
    """Which logarithm was taken."""
    total: float | None
    """Sum of every cell before the logarithm; None for counts as they were measured."""
    how: str
    part: bool = False
    """Genes were left out after the scaling, so that cells add up to less than ``total``."""
    factors: bool = False
    """Counts were divided by a factor of each cell's own (a size factor)."""
    lenient: bool = False
    """The user said log1p and no more: totals are then not checked, but told."""
    whole: bool = False
    """Whole numbers were seen: a fraction then means that something is wrong."""
    low: float = SCALE
    high: float = SCALE
    target: float = SCALE
    """Total that cells are scaled to before log1p."""

    @property
    def said(self) -> str:
        """Return the scale in words."""
        what = "counts over a factor of each cell" if self.factors else _of(self.total)
        return SAID[self.log] + what

    @property
    def is_target(self) -> bool:
        """Return whether nothing is to be done."""
        total = self.total
        return self.log == "log1p" and total is not None and _same(total, self.target)

    @property
    def is_counts(self) -> bool:
        """Return whether cells are divided by their own total and no logarithm is undone."""
        return not self.log and self.total is None

    def totals(self, block: csr_matrix) -> Values:
        """Return what the cells of a block add up to before the logarithm."""
        with np.errstate(all="ignore"):
            return row_sums(UNDO[self.log](block.data.astype(np.float64)), block.indptr)

    @property
    def done(self) -> str:
        """Say what is done to X."""
        return "kept as it is" if self.is_target else f"turned into {unit_of(int(self.target))}"

    @property
    def normalisation(self) -> str:
        """Say what X is afterwards."""
        return f"{unit_of(int(self.target))}{f' ({self.caveat})' if self.caveat else ''}"

    @property
    def caveat(self) -> str:
        """Say in what X differs from the target; empty where it does not."""
        if self.lenient and self.high > SCALE * (1 + SAME):
            return f"as given; cells add up to {_range(self.low, self.high)} before the logarithm"
        if self.part:
            share = self.total or SCALE
            low, high = self.low * self.target / share, self.high * self.target / share
            return (
                f"cells add up to {_range(low, high)} rather than {self.target:,.0f}, as where "
                "genes were left out after the scaling"
            )
        return ""

    def convert(self, block: csr_matrix, cells: NDArray[np.object_]) -> None:
        """Bring a block to the target, in place; ``cells`` are the names of its rows.

        Raises:
            InputError: a cell is on another scale; names it.
        """
        if self.is_counts:
            log1p_of_counts(block, self.target)
            return
        if self.is_target and self.lenient:
            return
        values = UNDO[self.log](block.data.astype(np.float64))
        totals = row_sums(values, block.indptr)
        self._check(values, totals, block.indptr, cells)
        if self.is_target:
            return
        if self.part:
            factor = np.full(len(totals), self.target / (self.total or SCALE))
        else:
            factor = np.divide(self.target, totals, out=np.zeros_like(totals), where=totals > 0)
        block.data[:] = np.log1p(values * np.repeat(factor, np.diff(block.indptr)))

    def _check(
        self,
        values: Values,
        totals: Values,
        indptr: NDArray[np.integer],
        cells: NDArray[np.object_],
    ) -> None:
        total = self.total
        if total is None:
            if not self.factors and not _whole(values):
                entry = int(np.flatnonzero(~_is_whole(values))[0])
                row = int(np.searchsorted(indptr, entry, side="right")) - 1
                self._refuse(cells[row], f"has {values[entry]:.6g}, which is not a count,")
            return
        bad = totals > total * (1 + SAME)
        if not self.part:
            bad |= (totals < total * (1 - SAME)) & (totals > 0)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            self._refuse(cells[row], f"adds up to {totals[row]:,.6g}")

    def _refuse(self, cell: str, what: str) -> None:
        raise InputError(
            f"{self.name}: X was taken for {self.said} ({self.how}), but cell '{cell}' "
            f"{what}{_before(self.log)}; bring all cells to one scale, or give raw counts"
        )


def _of(total: float | None) -> str:
    if total is None:
        return "raw counts"
    return "fractions of a cell's counts" if _same(total, 1.0) else f"counts per {total:,.0f}"


def _range(low: float, high: float) -> str:
    low_text, high_text = f"{low:,.6g}", f"{high:,.6g}"
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


def _same(one: float, other: float) -> bool:
    return abs(one / other - 1) <= SAME


def _is_whole(values: Values) -> NDArray[np.bool_]:
    # Single precision loses 5e-7 of a logarithm of 10, and so of the number it is of.
    return np.abs(values - np.rint(values)) <= 1e-3 + 4e-6 * values


def _whole(values: Values) -> bool:
    return bool(_is_whole(values).all())


def check_option(scale: str) -> None:
    """Check the option `scale`."""
    if scale not in SCALES:
        raise InputError(
            f"scale '{scale}' is not allowed{nearest(scale, SCALES)}; allowed: {AUTO}, "
            f"{', '.join(TOTALS)}, and each after {', '.join(f'{log}_' for log in UNDO if log)}"
        )


@dataclass(frozen=True)
class _Undone:
    """A sample as it is before one logarithm."""

    log: str
    values: Values
    totals: Values
    """Of the cells that have any value."""
    multiples: float
    """Share of a cell's small values that are multiples of its smallest."""
    one_count: float
    """A cell's smallest value, the median over cells."""
    factor: float
    """What a cell's counts were divided by, if that value is one of them; the mean over cells."""

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.totals.min()), float(self.totals.max())

    @property
    def median(self) -> float:
        return float(np.median(self.totals))

    @property
    def spread(self) -> float:
        return float(np.abs(self.totals / self.median - 1).max())

    @property
    def known(self) -> bool:
        return any(total and _same(self.median, total) for total in TOTALS.values())


def _undone(log: str, cells: csr_matrix) -> _Undone | None:
    """Undo a logarithm; None where what comes out cannot be."""
    with np.errstate(all="ignore"):
        values = UNDO[log](cells.data.astype(np.float64))
        totals = row_sums(values, cells.indptr)
    filled = np.diff(cells.indptr) > 0
    totals = totals[filled]
    if not len(totals) or not np.isfinite(totals).all() or (totals <= 0).any():
        return None
    starts = cells.indptr[:-1][filled]
    smallest = np.minimum.reduceat(values, starts)
    ratio = values / np.repeat(smallest, np.diff(cells.indptr)[filled])
    ratio = ratio[(ratio > MULTIPLES[0]) & (ratio <= MULTIPLES[1])]
    near = np.abs(ratio - np.rint(ratio)) <= NEAR
    multiples = float(near.mean()) if len(ratio) >= ENOUGH else 0.0
    factor = float(np.mean(1 / smallest))
    return _Undone(log, values, totals, multiples, float(np.median(smallest)), factor)


def measure(cells: csr_matrix, name: str, hint: str = "") -> Found:
    """Tell the scale of values that are not whole numbers; one that is not known is refused.

    The ``cells`` are whole ones from all over the source, CSR; finite and not negative.
    """
    undone = [found for log in UNDO if (found := _undone(log, cells)) is not None]
    n = int((np.diff(cells.indptr) > 0).sum())
    if (one := _one_total(undone)) is not None:
        total = _round(one.median)
        how = f"detected: {n} sampled cells all add up to {total:,.6g}{_before(one.log)}"
        return Found(name, one.log, total, how)
    for one in undone:
        if one.log and _are_counts(one):
            how = f"detected: whole numbers{_before(one.log)} in {n} sampled cells"
            return Found(name, one.log, None, how)
    if (one := max(undone, key=lambda found: found.multiples, default=None)) is not None:
        part = _of_some_genes(one, name, n, cells.shape[1])
        if part is not None:
            return part
    raise InputError(f"{name}: {_unknown(undone, one)}{f'; {hint}' if hint else ''}")


def _one_total(undone: list[_Undone]) -> _Undone | None:
    """Return what all cells add up to the same total under; a usual total wins a tie."""
    same = [
        one
        for one in undone
        if one.spread <= SURE or (one.spread <= SAME and one.multiples >= SOME)
    ]
    least = min((one.spread for one in same), default=0.0)
    tied = [one for one in same if one.spread <= least + TIE]
    return next((one for one in tied if one.known), tied[0] if tied else None)


def _are_counts(one: _Undone) -> bool:
    """Return whether whole numbers come out, seen where single precision can tell them."""
    small = one.values[one.values <= SMALL_COUNT]
    enough = len(small) >= ENOUGH and float(one.values.max()) <= LARGEST_COUNT
    return enough and _whole(small)


def _round(total: float) -> float:
    """Take a total for the usual one that it is but for rounding."""
    return next((usual for usual in TOTALS.values() if usual and _same(total, usual)), total)


def _of_some_genes(one: _Undone, name: str, n: int, genes: int) -> Found | None:
    """Take multiples of a count, in cells of many totals, for what they can be."""
    if one.multiples < MOSTLY:
        return None
    low, high = one.ends
    if not one.log:
        how = f"detected: in each of {n} sampled cells, multiples of its smallest value"
        return Found(name, "", None, how, factors=True)
    if high > SCALE * (1 + SAME) or not ONE_COUNT[0] <= one.one_count <= ONE_COUNT[1]:
        return None
    doubt = ""
    if _like_size_factors(one):
        if genes >= MANY_GENES:
            return None
        doubt = (
            "; one count is 1 on average, as size factors make it too: if the counts were divided "
            f"by those, set scale: {one.log}_counts"
        )
    how = (
        f"detected: {n} sampled cells add up to {_range(low, high)} before the logarithm, at most "
        f"10,000, and hold multiples of a count, as where genes were left out{doubt}"
    )
    return Found(name, one.log, SCALE, how, part=True, low=low, high=high)


def _like_size_factors(one: _Undone) -> bool:
    return abs(one.factor - 1) <= FACTORS


def _before(log: str) -> str:
    return " before the logarithm" if log else ""


def _unknown(undone: list[_Undone], best: _Undone | None) -> str:
    likely = best if best is not None and best.multiples >= MOSTLY else None
    shown = likely or next((one for one in undone if one.log == "log1p"), None)
    seen = "no usual logarithm can be undone"
    if shown:
        seen = f"taken for {SAID[shown.log]}counts, cells add up to {_range(*shown.ends)}"
    log = likely.log if likely and likely.log else "log1p"
    ways = (
        f"if you know the scale, set it, as in scale: {log}_cpm (or {log}_counts: counts over a "
        "factor of each cell; log1p_cp10k, log2_cp10k, counts)"
    )
    if likely and _like_size_factors(likely):
        seen += " and one count is 1 on average, as size factors make it"
        ways = (
            f"set scale: {log}_counts for counts over size factors, or {log}_cp10k for counts per "
            "10,000 of which genes were left out"
        )
    return (
        f"X is on no scale that is recognised: not whole numbers, and {seen}; expected raw counts, "
        f"or log1p of counts per 10,000; {ways}"
    )


def given(scale: str, cells: csr_matrix, name: str) -> Found:
    """Return what the user says the scale is, checked against a sample of whole cells."""
    log, _, total_name = f"_{scale}".rpartition("_")
    log, total = log.removeprefix("_"), TOTALS[total_name]
    undone = _undone(log, cells)
    if undone is None:
        raise InputError(f"{name}: scale {scale} is given, but X cannot be that; set another scale")
    low, high = undone.ends
    if total is None:
        factors = bool(log) and not _are_counts(undone)
        if factors and undone.multiples < MOSTLY:
            raise InputError(
                f"{name}: scale {scale} is given, but does not make whole numbers of X; set "
                "another scale"
            )
        return Found(name, log, None, "given", factors=factors)
    if high > total * (1 + SAME):
        raise InputError(
            f"{name}: scale {scale} is given, but cells add up to {_range(low, high)}"
            f"{_before(log)}, more than {total:,.6g}; set another scale"
        )
    part = low < total * (1 - SAME)
    how = f"given; sampled cells add up to {_range(low, high)}{_before(log)}"
    return Found(name, log, total, how, part=part, low=low, high=high)


def as_log1p(cells: csr_matrix, name: str) -> Found:
    """Return log1p of what its cells add up to, where the user says log1p and no more."""
    undone = _undone("log1p", cells)
    if undone is not None and undone.spread <= SAME:
        total = _round(undone.median)
        return Found(name, "log1p", total, f"given; cells add up to {total:,.6g}")
    low, high = undone.ends if undone else (SCALE, SCALE)
    how = f"given; sampled cells add up to {_range(low, high)} before the logarithm"
    part = high <= SCALE * (1 + SAME)
    return Found(name, "log1p", SCALE, how, part, lenient=True, low=low, high=high)


def scale_of(
    source: Source, kept: NDArray[np.bool_], expression: str, scale: str, seed: int
) -> Found:
    """Return the scale of a source: as the user says it, if that can be, else as it is measured.

    Raises:
        InputError: the scale is none that is known, or not the one that was said.
    """
    if COUNTS in (expression, scale) and {expression, scale} - {AUTO, COUNTS}:
        raise InputError(f"expression {expression} and scale {scale} differ; give one of them")
    logged = expression == LOG1P or "_" in scale
    wanted = COUNTS if COUNTS in (expression, scale) else LOG1P if logged else AUTO
    which, how = detect(source.sample(kept, seed), wanted, source.name)
    if which == COUNTS and scale in (AUTO, COUNTS):
        return Found(source.name, "", None, how, whole=wanted == AUTO)
    cells = source.cells_sample(kept, seed)
    usable = np.isfinite(cells.data) & (cells.data >= 0)
    if not usable.all() or not cells.nnz:
        # Every value is checked when it is read, which names the cell and the gene.
        return Found(source.name, LOG1P, SCALE, "", lenient=True)
    if scale != AUTO:
        return given(scale, cells, source.name)
    if expression == LOG1P:
        return as_log1p(cells, source.name)
    return measure(cells, source.name, source.hint)
