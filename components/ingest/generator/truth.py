"""The design of a screen: all that is known of it before a cell is drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.ingest.generator.real import at_rank, calibration, symbols
from components.ingest.generator.spec import LINES, Spec

PANEL = 4
"""Genes are drawn from the PANEL times as many most expressed ones, as a filtered panel is."""
UNMEASURED = 0.15
"""Share of targets that are not among the measured genes."""
WITHOUT_EFFECT = 0.2
"""Share of perturbations that are in no module."""
MISSING = 0.05
"""Share of (line, perturbation) pairs without cells."""

PERTURBATIONS_PER_MODULE = 6
"""On average: those of a module are told by each other."""
MODULE_GENES = 0.2
"""Share of the genes in a module; the common response has as many."""
OWN_GENES = 0.05
"""Share of the genes that a perturbation moves beside its modules."""
STRENGTH = 0.6
"""Median over effective perturbations of the sd of log fold change in the main module."""
STRENGTH_LOG_SD = 0.3
"""How far perturbations spread around it."""
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
"""How far lines differ in the size of a module's change, and in molecules a cell."""
KNOCK_DOWN = (3.0, 22.0)
"""Beta distribution of what is left of the target's expression; 0.12 on average, 0.2 at most."""
MOST_LEFT = 0.2
BATCH_SHIFT = 0.25
"""sd over genes of the log fold change that a batch makes."""
STRONG = 0.2
"""Share of perturbations that act at full strength where there are pathways."""
WEAK = 0.3
"""Strength of the others, as a share of it."""

SCALE = 1e4
"""Effects are told as log1p of counts per 10,000, as stages have cells."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Everything about a screen but its cells; L lines, P perturbations, G genes, M modules."""

    genes: NDArray[np.str_]
    """Symbols of measured genes [G]."""
    targets: NDArray[np.str_]
    """Perturbed genes [P], which name the perturbations."""
    log_share: Floats
    """Log of a gene's share of all a control cell's molecules, measured or not [L, G]."""
    size: Floats
    """Negative-binomial size [G]; variance = mean + mean**2 / size."""
    programmes: Floats
    """Log fold change of each module at strength 1 [L, M, G]; the last one is the common one."""
    loadings: Floats
    """Strength of each module in each perturbation [P, M]; zero rows are without effect."""
    own: Floats
    """Log fold change in genes of a perturbation's own [P, G]."""
    module: Ints
    """The main module of each perturbation [P], -1 where it has no effect."""
    left: Floats
    """Remaining expression of the target [L, P]."""
    missing: NDArray[np.bool_]
    """Pairs without cells [L, P]."""
    depth: Floats
    """Median molecules per cell over all genes, measured or not [L]."""
    batch_shift: Floats
    """Log fold change of each batch [L, B, G]."""


def _sizes(rng: np.random.Generator, log_share: Floats) -> Floats:
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
) -> Floats:
    """Draw log fold changes [lines, modules, genes]: shared direction, line's own part, scale.

    A module has ``share`` of the genes.
    """
    member = rng.random((n_modules, n_genes)) < share
    shared = rng.standard_normal((n_modules, n_genes))
    own = rng.standard_normal((n_lines, n_modules, n_genes))
    scale = np.exp(LINE_SCALE_LOG_SD * rng.standard_normal((n_lines, n_modules, 1)))
    return scale * member * (np.sqrt(1 - LINE_PART) * shared + np.sqrt(LINE_PART) * own)


def _targets(rng: np.random.Generator, spec: Spec, measured: Ints, n_symbols: int) -> Ints:
    """Draw symbol numbers of perturbed genes, about UNMEASURED of them not measured."""
    others = np.setdiff1d(np.arange(n_symbols), measured)
    n_other = min(
        max(round(UNMEASURED * spec.perturbations), spec.perturbations - spec.genes), len(others)
    )
    inside = rng.choice(measured, spec.perturbations - n_other, replace=False)
    return rng.permutation(np.r_[inside, rng.choice(others, n_other, replace=False)])


def _loadings(rng: np.random.Generator, n: int, n_modules: int) -> tuple[Floats, Ints]:
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


def _pathway_loadings(rng: np.random.Generator, n: int, n_pathways: int) -> tuple[Floats, Ints]:
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


def design(spec: Spec) -> Design:
    """Draw the screen's design; the same ``spec`` gives the same design."""
    rng = np.random.default_rng([spec.seed, 0])
    names = symbols()
    n_lines, n = len(LINES), spec.perturbations
    pool = min(len(names), PANEL * spec.genes)
    ranks = np.sort(rng.choice(pool, spec.genes, replace=False))
    # All four lines are drawn whichever are asked for: k562 is the same beside any others.
    log_share = at_rank("log_share", ranks) + at_rank(
        "log_share_sd_between_lines", ranks
    ) * rng.standard_normal((n_lines, spec.genes))
    size = _sizes(rng, at_rank("log_share", ranks))
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
    of_batches = np.random.default_rng([spec.seed, 4])  # draws of their own
    shifts = BATCH_SHIFT * of_batches.standard_normal((n_lines, spec.batches, spec.genes))
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
        batch_shift=shifts[chosen],
    )


def expected_shares(plan: Design, line: int) -> Floats:
    """Return each gene's expected share of the measured molecules of one line.

    [perturbations + 1, genes], the control last; rows add up to 1.
    """
    change = plan.loadings @ plan.programmes[line] + plan.own
    change = MOST_CHANGE * np.tanh(change / MOST_CHANGE)
    place = {gene: i for i, gene in enumerate(plan.genes)}
    for row, target in enumerate(plan.targets):
        if target in place:
            change[row, place[target]] = np.log(plan.left[line, row])
    shares = np.exp(plan.log_share[line] + np.vstack([change, np.zeros(len(plan.genes))]))
    return shares / shares.sum(axis=1, keepdims=True)


def write_truth(
    path: Path, spec: Spec, plan: Design, escaped: NDArray[np.bool_] | None = None
) -> None:
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
    n_lines, n, n_genes = len(spec.lines), len(plan.targets), len(plan.genes)
    effects = np.empty((n_lines, n, n_genes), dtype=np.float32)
    baseline = np.empty((n_lines, n_genes), dtype=np.float32)
    for line in range(n_lines):
        level = np.log1p(SCALE * expected_shares(plan, line))
        baseline[line] = level[-1]
        effects[line] = level[:-1] - level[-1]
    more: dict[str, Any] = {}
    if escaped is not None:
        more["escaped"] = escaped
    if spec.batches:
        more["batch_shift"] = plan.batch_shift.astype(np.float32)
    np.savez_compressed(
        path,
        effects=effects,
        baseline=baseline,
        lines=np.array(spec.lines),
        perturbations=plan.targets,
        genes=plan.genes,
        effective=plan.module >= 0,
        measured=np.isin(plan.targets, plan.genes),
        present=~plan.missing,
        module=plan.module,
        programmes=plan.programmes.astype(np.float32),
        loadings=plan.loadings.astype(np.float32),
        **more,
    )
