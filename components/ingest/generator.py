"""A CRISPRi screen with known effects: `sim://screen?cells=&genes=&perturbations=&lines=&seed=`.

Counts are negative binomial. Mean, dispersion and library size follow `calibration.json`, which
`calibrate` computed from real cells; genes bear real symbols in the order of their real mean
expression. Each line has a baseline of its own. A perturbation acts through one or two modules
(gene programmes) shared by the lines, whose strength and partly whose direction differ from line to
line, through a response common to all effective perturbations, and through a few genes of its own;
the target itself is knocked down where it is measured. About a fifth of the perturbations do
nothing but that. `&controls_only=rpe1` leaves the perturbed cells of a line out.

What real screens have beside that, each off by default: `&escape=20` makes as many percent of the
perturbed cells look like controls, `&batches=3` puts the cells of each line into batches that
differ gene by gene and hold perturbations in uneven parts (column `batch`), and `&pathways=10` has
every perturbation push as many dense directions, most of them weakly and a few strongly, in the
place of modules.

Write such a screen as raw counts, in the form users have:

    python -m components.ingest.generator "sim://screen?cells=4000" screen.h5ad
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.source_h5ad import dense_to_csr
from components.shared.artifacts.perturbation import CONTROL
from components.shared.storage.csr_writer import CsrWriter
from components.shared.telling.errors import InputError, nearest, one_line_errors
from components.shared.telling.progress import bar

SCHEME = "sim://"
HOST = "screen"
KEYS = ("cells", "genes", "perturbations", "lines", "seed")
CONTROLS_ONLY = "controls_only"
"""Key of the lines whose perturbed cells are left out, as of a line that was never screened."""
ESCAPE, BATCHES, PATHWAYS = "escape", "batches", "pathways"
OPTIONAL = (CONTROLS_ONLY, ESCAPE, BATCHES, PATHWAYS)
"""Keys that are in the full URI only where they are asked for."""
LINES = ("k562", "jurkat", "hepg2", "rpe1")

PERTURBATION_COLUMN = "gene"
LINE_COLUMN = "cell_line"
BATCH_COLUMN = "batch"

CONTROL_SHARE = 0.1
LEAST_CONTROLS = 20
"""Control cells per line, whatever the number of cells."""
PANEL = 4
"""Genes are drawn from the PANEL times as many most expressed ones, as a filtered panel is."""
UNMEASURED = 0.15
"""Share of targets that are not among the measured genes."""
WITHOUT_EFFECT = 0.2
MISSING = 0.05
"""Share of (line, perturbation) pairs without cells."""

PERTURBATIONS_PER_MODULE = 6
MODULE_GENES = 0.2
"""Share of the genes in a module; the common response has as many."""
OWN_GENES = 0.05
STRENGTH = 0.6
"""Median over effective perturbations of the sd of log fold change in the main module."""
STRENGTH_LOG_SD = 0.3
SECOND_MODULE = 0.4
COMMON = 0.35
OWN = 0.5
"""Strength of second module, common response and own genes, as shares of the main module's."""
MOST_CHANGE = 1.5
"""Log fold changes level off here (4.5 times), but for the target's."""
LINE_PART = 0.35
"""Share of a module's variance that is a line's own; the rest is shared by the lines."""
LINE_SCALE_LOG_SD = 0.3
LINE_DEPTH_LOG_SD = 0.25
KNOCK_DOWN = (3.0, 22.0)
"""Beta distribution of what is left of the target's expression; 0.12 on average, 0.2 at most."""
MOST_LEFT = 0.2
BATCH_SHIFT = 0.25
"""sd over genes of the log fold change that a batch makes."""
BATCH_EVENNESS = 1.0
"""Of the Dirichlet distribution of a perturbation's cells over batches; controls are even."""
STRONG = 0.2
"""Share of perturbations that act at full strength where there are pathways."""
WEAK = 0.3
"""Strength of the others, as a share of it."""

ENTRIES_PER_DRAW = 2**21
"""Rows x genes drawn at a time; it is part of what a seed means, so leave it as it is."""

FOLDER = Path(__file__).parent
SCALE = 1e4


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """Return the numbers computed from real cells."""
    return json.loads((FOLDER / "calibration.json").read_text())


@lru_cache(maxsize=1)
def symbols() -> NDArray[np.str_]:
    """Return the gene symbols, most expressed first."""
    return np.array((FOLDER / "gene_symbols.txt").read_text().split())


def _number(key: str, text: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InputError(f"sim://: {key}={text}: expected a whole number from {low} to {high}")
    return int(text)


def _lines(text: str) -> tuple[str, ...]:
    if text.isdigit():
        return LINES[: _number("lines", text, 1, len(LINES))]
    lines = tuple(text.split(","))
    for line in lines:
        if line not in LINES:
            raise InputError(
                f"sim://: lines={text}: no line '{line}'{nearest(line, LINES)}; expected a number "
                f"from 1 to {len(LINES)} or names out of {','.join(LINES)}"
            )
    if len(set(lines)) != len(lines):
        raise InputError(f"sim://: lines={text}: a line is named twice; name each once")
    return lines


@dataclass(frozen=True)
class Spec:
    """What a sim:// URI asks for."""

    cells: int = 4000
    genes: int = 500
    perturbations: int = 24
    lines: tuple[str, ...] = LINES
    seed: int = 0
    controls_only: tuple[str, ...] = ()
    escape: int = 0
    """Percent of the perturbed cells whose knock-down failed."""
    batches: int = 0
    """Of each line; 0 = they are not told apart, and are one."""
    pathways: int = 0
    """Dense directions that perturbations share; 0 = modules."""

    @classmethod
    def from_uri(cls, uri: str, *, seed: int = 0) -> "Spec":
        """Parse ``uri``; ``seed`` is taken where it names none.

        Raises:
            InputError: unknown or doubled key, a value that cannot be, or too few cells.
        """
        parts = urlsplit(uri)
        if parts.netloc != HOST or parts.path.strip("/") or parts.fragment:
            raise InputError(f"{uri}: expected sim://{HOST}?{'=&'.join(KEYS)}=")
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
        except ValueError:
            pairs = []
            if parts.query:
                raise InputError(f"{uri}: expected key=value pairs joined with '&'") from None
        given = dict(pairs)
        for key, _ in pairs:
            if key not in (*KEYS, *OPTIONAL):
                raise InputError(
                    f"{uri}: unknown key '{key}'{nearest(key, (*KEYS, *OPTIONAL))}; allowed: "
                    f"{', '.join((*KEYS, *OPTIONAL))}"
                )
        if len(given) != len(pairs):
            raise InputError(f"{uri}: a key is given twice; give each once")
        most = len(symbols())
        lines = _lines(given["lines"]) if "lines" in given else cls.lines
        spec = cls(
            cells=_number("cells", given.get("cells", str(cls.cells)), 1, 10**8),
            genes=_number("genes", given.get("genes", str(cls.genes)), 20, most),
            perturbations=_number(
                "perturbations", given.get("perturbations", str(cls.perturbations)), 1, most // 2
            ),
            lines=lines,
            seed=_number("seed", given.get("seed", str(seed)), 0, 2**63 - 1),
            controls_only=tuple(given[CONTROLS_ONLY].split(",")) if CONTROLS_ONLY in given else (),
            escape=_number(ESCAPE, given.get(ESCAPE, "0"), 0, 100),
            batches=_number(BATCHES, given.get(BATCHES, "0"), 0, 100),
            pathways=_number(PATHWAYS, given.get(PATHWAYS, "0"), 0, 1000),
        )
        for line in spec.controls_only:
            if line not in lines:
                raise InputError(
                    f"{uri}: {CONTROLS_ONLY}={line}: no line of the screen{nearest(line, lines)}; "
                    f"lines: {', '.join(lines)}"
                )
        least = len(lines) * (LEAST_CONTROLS + 2 * spec.perturbations)
        if spec.cells < least:
            raise InputError(
                f"{uri}: cells={spec.cells} is too few for {spec.perturbations} perturbations in "
                f"{len(lines)} lines; expected {least} or more"
            )
        return spec

    @property
    def uri(self) -> str:
        """The URI with every key."""
        asked = {
            CONTROLS_ONLY: ",".join(self.controls_only),
            ESCAPE: self.escape,
            BATCHES: self.batches,
            PATHWAYS: self.pathways,
        }
        return (
            f"sim://{HOST}?cells={self.cells}&genes={self.genes}"
            f"&perturbations={self.perturbations}&lines={','.join(self.lines)}&seed={self.seed}"
            + "".join(f"&{key}={value}" for key, value in asked.items() if value)
        )


@dataclass(frozen=True)
class Design:
    """Everything about a screen but its cells; L lines, P perturbations, G genes, M modules."""

    genes: NDArray[np.str_]
    """Symbols of measured genes [G]."""
    targets: NDArray[np.str_]
    """Perturbed genes [P], which name the perturbations."""
    log_share: NDArray[np.float64]
    """Log of a gene's share of all a control cell's molecules, measured or not [L, G]."""
    size: NDArray[np.float64]
    """Negative-binomial size [G]; variance = mean + mean**2 / size."""
    programmes: NDArray[np.float64]
    """Log fold change of each module at strength 1 [L, M, G]; the last one is the common one."""
    loadings: NDArray[np.float64]
    """Strength of each module in each perturbation [P, M]; zero rows are without effect."""
    own: NDArray[np.float64]
    """Log fold change in genes of a perturbation's own [P, G]."""
    module: NDArray[np.int64]
    """The main module of each perturbation [P], -1 where it has no effect."""
    left: NDArray[np.float64]
    """What is left of the target's expression [L, P]."""
    missing: NDArray[np.bool_]
    """Pairs without cells [L, P]."""
    depth: NDArray[np.float64]
    """Median molecules per cell over all genes, measured or not [L]."""
    batch_shift: NDArray[np.float64]
    """Log fold change of each batch [L, B, G]."""


def _at_rank(key: str, ranks: NDArray) -> NDArray[np.float64]:
    table = calibration()[key]
    return np.interp(ranks, table["rank"], table["value"])


def _sizes(rng: np.random.Generator, log_share: NDArray) -> NDArray[np.float64]:
    """Draw a size per gene: Poisson-like for some, log-normal around the trend for the rest."""
    table = calibration()["log_size"]
    at = {
        key: np.interp(log_share, table["log_share"], table[key])
        for key in ("poisson", "median", "sd")
    }
    size = np.exp(at["median"] + at["sd"] * rng.standard_normal(len(log_share)))
    return np.where(rng.random(len(log_share)) < at["poisson"], 400.0, np.clip(size, 0.05, 400.0))


def _programmes(
    rng: np.random.Generator, n_lines: int, n_modules: int, n_genes: int, share: float
) -> NDArray[np.float64]:
    """Draw log fold changes [lines, modules, genes]: shared direction, line's own part, scale.

    A module has ``share`` of the genes.
    """
    member = rng.random((n_modules, n_genes)) < share
    shared = rng.standard_normal((n_modules, n_genes))
    own = rng.standard_normal((n_lines, n_modules, n_genes))
    scale = np.exp(LINE_SCALE_LOG_SD * rng.standard_normal((n_lines, n_modules, 1)))
    return scale * member * (np.sqrt(1 - LINE_PART) * shared + np.sqrt(LINE_PART) * own)


def _targets(
    rng: np.random.Generator, spec: Spec, measured: NDArray, n_symbols: int
) -> NDArray[np.int64]:
    """Draw symbol numbers of perturbed genes, about UNMEASURED of them not measured."""
    others = np.setdiff1d(np.arange(n_symbols), measured)
    n_other = min(
        max(round(UNMEASURED * spec.perturbations), spec.perturbations - spec.genes), len(others)
    )
    inside = rng.choice(measured, spec.perturbations - n_other, replace=False)
    return rng.permutation(np.r_[inside, rng.choice(others, n_other, replace=False)])


def _loadings(rng: np.random.Generator, n: int, n_modules: int) -> tuple[NDArray, NDArray]:
    """Draw strengths [perturbations, modules + common] and the main module, -1 without effect."""
    strength = STRENGTH * np.exp(STRENGTH_LOG_SD * rng.standard_normal(n))
    strength[rng.permutation(n)[: round(WITHOUT_EFFECT * n)]] = 0.0
    main = rng.permutation(np.arange(n) % n_modules)
    second = (main + rng.integers(1, max(2, n_modules), n)) % n_modules
    loadings = np.zeros((n, n_modules + 1))
    # Half of them push the second module the other way.
    sign = rng.choice([-1.0, 1.0], n)
    np.add.at(loadings, (np.arange(n), second), SECOND_MODULE * sign * strength)
    np.add.at(loadings, (np.arange(n), main), strength)
    loadings[:, -1] = COMMON * strength
    return loadings, np.where(strength > 0, main, -1)


def _pathway_loadings(rng: np.random.Generator, n: int, n_pathways: int) -> tuple[NDArray, NDArray]:
    """Draw strengths [perturbations, pathways + common] and the main pathway, -1 without effect.

    Each perturbation pushes all pathways, one way or the other; a few do so strongly.
    """
    strength = STRENGTH * np.exp(STRENGTH_LOG_SD * rng.standard_normal(n))
    order = rng.permutation(n)
    without, strong = round(WITHOUT_EFFECT * n), round(STRONG * n)
    strength[order[:without]] = 0.0
    strength[order[without + strong :]] *= WEAK
    weights = rng.standard_normal((n, n_pathways))
    weights *= strength[:, None] / np.linalg.norm(weights, axis=1, keepdims=True)
    main = np.where(strength > 0, np.abs(weights).argmax(axis=1), -1)
    return np.column_stack([weights, COMMON * strength]), main


def _batch_shifts(spec: Spec, n_lines: int) -> NDArray[np.float64]:
    """Draw log fold changes [lines, batches, genes], of draws of their own."""
    rng = np.random.default_rng([spec.seed, 4])
    return BATCH_SHIFT * rng.standard_normal((n_lines, spec.batches, spec.genes))


def design(spec: Spec) -> Design:
    """Draw the screen's design; the same ``spec`` gives the same design."""
    rng = np.random.default_rng([spec.seed, 0])
    names = symbols()
    n_lines, n = len(LINES), spec.perturbations
    pool = min(len(names), PANEL * spec.genes)
    ranks = np.sort(rng.choice(pool, spec.genes, replace=False))
    # All four lines are drawn whichever are asked for: k562 is the same beside any others.
    log_share = _at_rank("log_share", ranks) + _at_rank(
        "log_share_sd_between_lines", ranks
    ) * rng.standard_normal((n_lines, spec.genes))
    size = _sizes(rng, _at_rank("log_share", ranks))
    targets = _targets(rng, spec, ranks, len(names))
    n_modules = spec.pathways or int(np.clip(round(n / PERTURBATIONS_PER_MODULE), 1, 60))
    loadings, module = (_pathway_loadings if spec.pathways else _loadings)(rng, n, n_modules)
    share = 1.0 if spec.pathways else MODULE_GENES
    programmes = _programmes(rng, n_lines, n_modules + 1, spec.genes, share)
    own = rng.standard_normal((n, spec.genes)) * (rng.random((n, spec.genes)) < OWN_GENES)
    own *= OWN * np.abs(loadings).max(axis=1)[:, None]
    left = np.minimum(rng.beta(*KNOCK_DOWN, size=(n_lines, n)), MOST_LEFT)
    missing = rng.random((n_lines, n)) < MISSING
    chosen = [LINES.index(line) for line in spec.lines]
    # A perturbation is missing in one line at most, and never in the only one; a line has one.
    missing &= np.cumsum(missing, axis=0) == 1
    missing &= len(chosen) > 1
    missing &= ~missing.all(axis=1, keepdims=True)
    depth = np.exp(LINE_DEPTH_LOG_SD * rng.standard_normal(n_lines))
    return Design(
        genes=names[ranks],
        targets=names[targets],
        log_share=log_share[chosen],
        size=size,
        programmes=programmes[chosen],
        loadings=loadings,
        own=own,
        module=module,
        left=left[chosen],
        missing=missing[chosen],
        depth=calibration()["library_size"]["median"] * depth[chosen],
        batch_shift=_batch_shifts(spec, n_lines)[chosen],
    )


def expected_shares(plan: Design, line: int) -> NDArray[np.float64]:
    """Return each gene's expected share of the measured molecules of one line.

    Returns:
        Shape [perturbations + 1, genes], the control last; rows add up to 1.
    """
    change = plan.loadings @ plan.programmes[line] + plan.own
    change = MOST_CHANGE * np.tanh(change / MOST_CHANGE)
    place = {gene: i for i, gene in enumerate(plan.genes)}
    for row, target in enumerate(plan.targets):
        if target in place:
            change[row, place[target]] = np.log(plan.left[line, row])
    shares = np.exp(plan.log_share[line] + np.vstack([change, np.zeros(len(plan.genes))]))
    return shares / shares.sum(axis=1, keepdims=True)


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
        """Return the screen that ``uri`` asks for; ``seed`` is taken where it names none.

        Raises:
            InputError: the query cannot be used.
        """
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
        """What the shares of all genes, measured or not, add up to."""
        return float(np.exp(_at_rank("log_share", np.arange(len(symbols())))).sum())

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
        """Write what is known of the screen as an npz without pickle.

        Arrays (L lines, P perturbations, G genes, M modules): ``effects`` float32 [L, P, G],
        log1p(1e4 * share) of the perturbation less that of the control, where a share is a gene's
        expected part of the measured molecules (the mean of log1p over noisy cells is smaller
        where counts are few); ``baseline`` float32 [L, G], log1p(1e4 * share) of controls;
        ``lines``, ``perturbations``, ``genes``; ``effective``, ``measured`` bool [P]; ``present``
        bool [L, P]; ``module`` int [P], -1 without effect; ``programmes`` float32 [L, M, G],
        natural log fold changes at strength 1, the last one common to all; ``loadings`` float32
        [P, M]. Where they are asked for: ``escaped`` bool [cells]; ``batch_shift`` float32
        [L, B, G], natural log fold changes.
        """
        plan = self.plan
        n_lines, n, n_genes = len(self.spec.lines), len(plan.targets), len(plan.genes)
        effects = np.empty((n_lines, n, n_genes), dtype=np.float32)
        baseline = np.empty((n_lines, n_genes), dtype=np.float32)
        for line in range(n_lines):
            level = np.log1p(SCALE * expected_shares(plan, line))
            baseline[line] = level[-1]
            effects[line] = level[:-1] - level[-1]
        np.savez_compressed(
            path,
            effects=effects,
            baseline=baseline,
            lines=np.array(self.spec.lines),
            perturbations=plan.targets,
            genes=plan.genes,
            effective=plan.module >= 0,
            measured=np.isin(plan.targets, plan.genes),
            present=~plan.missing,
            module=plan.module,
            programmes=plan.programmes.astype(np.float32),
            loadings=plan.loadings.astype(np.float32),
            **self._more_truth(),
        )

    def _more_truth(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.spec.escape:
            more["escaped"] = self._escaped
        if self.spec.batches:
            more["batch_shift"] = self.plan.batch_shift.astype(np.float32)
        return more


def write_raw(uri: str, target: Path, *, seed: int = 0) -> None:
    """Write the screen of ``uri`` as an h5ad of raw counts (CSR) with obs gene and cell_line.

    Raises:
        InputError: the query cannot be used, or ``target`` exists.
    """
    screen = Screen.from_uri(uri, seed=seed)
    if target.exists():
        raise InputError(f"{target}: exists already; give another name or remove it first")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            writer = CsrWriter(file, screen.spec.genes)
            with bar(total=screen.spec.cells, what="generating", unit="cells") as progress:
                for rows, block in screen.blocks(np.ones(screen.spec.cells, dtype=bool)):
                    writer.append(block)
                    progress.update(len(rows))
            obs = pd.DataFrame({name: screen.column(name) for name in screen.columns})
            writer.finish(obs.set_index(screen.cells), screen.genes, {"source": screen.name})
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Write a screen: `python -m components.ingest.generator URI OUT.h5ad`."""
    with one_line_errors("generator"):
        if len(sys.argv) != 3:
            raise InputError("expected two arguments: a sim:// URI and the h5ad file to write")
        write_raw(sys.argv[1], Path(sys.argv[2]))
        print(f"generator: wrote {sys.argv[2]}", file=sys.stderr)


if __name__ == "__main__":
    main()
