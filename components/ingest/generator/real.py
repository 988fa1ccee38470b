"""Properties of real cells: the numbers and the gene symbols that `benchmarks.calibrate` wrote."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """Return the numbers computed from real cells."""
    return json.loads((FOLDER / "calibration.json").read_text())


@lru_cache(maxsize=1)
def symbols() -> NDArray[np.str_]:
    """Return the gene symbols, most expressed first."""
    return np.array((FOLDER / "gene_symbols.txt").read_text().split())


def at_rank(key: str, ranks: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return what genes of these ranks have, 0 being the most expressed one."""
    table = calibration()[key]
    return np.interp(ranks, table["rank"], table["value"])
