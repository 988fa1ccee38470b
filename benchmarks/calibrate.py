"""Compute the few numbers the generator needs from tables of real baseline expression.

Run once, by hand; what it writes is checked in beside the generator:

    python -m benchmarks.calibrate EXPRESSION_FOLDER GENE2GO.parquet CELLS.h5ad

`EXPRESSION_FOLDER` holds one parquet a cell type with columns `response_id` (Ensembl gene),
`relative_expression` (share of a cell's molecules) and `expression_size` (negative-binomial size),
as in the perturbplan package. `GENE2GO.parquet` (columns symbol, ensembl_id) names the genes.
`CELLS.h5ad` has obs `cell_type` and `ncounts`; its `k562` cells give the library sizes.
Written: `calibration.json` and `gene_symbols.txt` (genes in order of falling mean expression).
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.ingest.generator.real import FOLDER
from components.shared.model.vocabulary import packaged_vocabulary

GENES = 9000
"""Symbols kept, the most expressed ones."""
FLOOR = 5e-8
"""Share of molecules taken for a gene that a table does not list; the tables stop at 1e-7."""
POISSON_SIZE = 300.0
"""Fitted sizes pile up near 400, where a gene is no more variable than Poisson."""
PLAIN = r"[A-Z][A-Z0-9]{1,8}(?:-[A-Z]?[0-9]{1,2}[A-Z]?)?"
NOT_CODING = (
    r"(?:LINC|MIR|SNOR|SCARNA|RNU|RNY|RN7|RNA\d|MT-|SNHG|TRNA|RMRP|RPPH|TERC|VTRNA).*|.*-AS\d"
)
KNOWN_RNAS = {"MALAT1", "NEAT1", "XIST", "TSIX", "H19", "GAS5", "MEG3", "KCNQ1OT1", "HOTAIR"}


def log_expression(folder: Path, gene2go: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return log share and log size of plain coding symbols, frames [genes, cell types]."""
    names = pd.read_parquet(gene2go, columns=["symbol", "ensembl_id"]).dropna()
    symbol = names.drop_duplicates("ensembl_id").set_index("ensembl_id")["symbol"]
    vocabulary = set(packaged_vocabulary())
    shares, sizes = {}, {}
    for path in sorted(folder.glob("*.parquet")):
        table = pd.read_parquet(path)
        table.index = pd.Index(table["response_id"].map(symbol), dtype=object)
        table = table[table.index.isin(vocabulary - KNOWN_RNAS)]
        table = table[table.index.str.fullmatch(PLAIN) & ~table.index.str.fullmatch(NOT_CODING)]
        table = table[~table.index.duplicated()]
        shares[path.stem] = np.log(table["relative_expression"])
        sizes[path.stem] = np.log(table["expression_size"])
    return pd.DataFrame(shares), pd.DataFrame(sizes)


def size_by_mean(share: NDArray[np.float64], size: NDArray[np.float64]) -> dict[str, list[float]]:
    """Describe log size in bins of log share: how often Poisson-like, else median and sd."""
    edges = np.log(10.0) * np.arange(-6.5, -2.4, 0.5)
    found: dict[str, list[float]] = {"log_share": [], "poisson": [], "median": [], "sd": []}
    for low, high in pairwise(edges):
        part = size[(share >= low) & (share < high)]
        over = part[part < np.log(POISSON_SIZE)]
        spread = np.subtract(*np.percentile(over, [75, 25])) / 1.349
        values = ((low + high) / 2, 1 - len(over) / len(part), np.median(over), spread)
        for key, value in zip(found, values, strict=True):
            found[key].append(round(float(value), 3))
    return found


def library_sizes(cells: Path) -> dict[str, float]:
    """Return median and sd of log of the molecules per K562 cell."""
    with h5py.File(cells) as file:
        obs = anndata.io.read_elem(file["obs"])
    counts = np.log(obs.loc[obs["cell_type"] == "k562", "ncounts"])
    return {"median": round(float(np.exp(counts.median())), -2), "log_sd": round(counts.std(), 3)}


def calibrate(folder: Path, gene2go: Path, cells: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the calibration and the symbols, see the module's text."""
    shares, sizes = log_expression(folder, gene2go)
    filled = shares.fillna(np.log(FLOOR))
    symbols = filled.mean(axis=1).sort_values(ascending=False).index[:GENES]
    # Of the mean over cell types: the spread between lines comes on top of it.
    ordered = filled.loc[symbols].mean(axis=1).to_numpy()
    ranks = np.unique(np.r_[np.geomspace(1, GENES, 20), np.linspace(1, GENES, 10)].astype(int)) - 1
    # T cells are no line; tables differ in method too, so this is the most that lines may differ.
    lines = filled.loc[symbols].drop(columns=[c for c in filled if str(c).startswith("T_")])
    sd = np.sqrt((lines - lines.mean()).var(axis=1)).to_numpy()
    bins = np.array_split(np.arange(GENES), 9)
    calibration = {
        "genes": GENES,
        "log_share": {
            "rank": ranks.tolist(),
            "value": ordered[ranks].round(3).tolist(),
        },
        "log_share_sd_between_lines": {
            "rank": [int(part.mean()) for part in bins],
            "value": [round(float(np.median(sd[part])), 3) for part in bins],
        },
        "correlation_between_lines": round(
            float(lines.corr().to_numpy()[np.triu_indices(lines.shape[1], 1)].mean()), 3
        ),
        "log_size": size_by_mean(
            shares.to_numpy()[shares.notna().to_numpy()], sizes.to_numpy()[sizes.notna().to_numpy()]
        ),
        "library_size": library_sizes(cells),
    }
    return calibration, [str(symbol) for symbol in symbols]


def main() -> None:
    """Write both files beside the generator."""
    calibration, symbols = calibrate(*(Path(argument) for argument in sys.argv[1:4]))
    (FOLDER / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n")
    (FOLDER / "gene_symbols.txt").write_text("\n".join(symbols) + "\n")


if __name__ == "__main__":
    main()
