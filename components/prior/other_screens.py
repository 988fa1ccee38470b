"""Effects of perturbations in other screens, from their cells or from a table of deltas.

Of cells, the delta of a (perturbation, cell line) is the mean of its cells less the mean of its
line's controls, and its sampling variance is that of both means. A gene that hardly varies among a
few cells is taken to vary as in controls, at least.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.shared.artifacts.artifact import PROVENANCE, Artifact
from components.shared.artifacts.cells import CELLS_FILE, Cells
from components.shared.artifacts.gene_prior import CELL_LINE, CELLS, PERTURBATION, OtherEffects
from components.shared.artifacts.licences import Source, licence_of
from components.shared.artifacts.normalisation import TARGET_SUM
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.perturbation_names import canonical_name
from components.shared.storage.digests import sha256_of
from components.shared.storage.documents import read_json
from components.shared.storage.downloads import shown
from components.shared.storage.files import ending_of, fetched, fetched_folder, local_path
from components.shared.storage.parquet import (
    PARQUET_FAULTS,
    check_number_columns,
    opened_parquet,
    read_numbers,
)
from components.shared.telling.addresses import LOCAL, scheme_of
from components.shared.telling.errors import InputError, refusing, shortlist
from components.shared.telling.progress import bar

ROWS_AT_ONCE = 1024
HIGHEST = 15.0
"""log1p of counts per 10,000 is 9.2 at most; ingest refuses from here on too."""
AS_INGEST = (
    "expected CSR cells as ingest writes them, with perturbation, cell_line, is_control in obs: "
    "run ingest on it and give its artifact"
)
ONE_SIDED = 0.99
"""Share of values that lie on one side of zero: deltas of whole profiles lie on both (41 to 55 % of
those of four real lines are above it), ranks, p-values and expression levels on one."""
ENOUGH_VALUES = 100
"""Values other than zero that are looked at, at least: few may lie on one side by chance."""

Floats = NDArray[np.float64]


def write_effects(uri: str, folder: Path) -> tuple[dict[str, Any], Source]:
    """Write the deltas of another screen into the folder of an artifact; return facts and source.

    The ``uri`` is a cells artifact's folder; an h5ad file as in one; or a table of deltas, parquet
    with the column `perturbation`, perhaps `cell_line` and `cells`, and one column per gene.
    """
    name = shown(uri)
    ending = ending_of(uri)
    in_folder = _is_folder(uri, ending)
    if ending == ".parquet":
        with fetched(uri) as path:
            effects, digest, scale = read_deltas(path, name), sha256_of(path), {}
    elif ending == ".h5ad" or in_folder:
        with _cells(uri, name, in_folder=in_folder) as cells:
            effects, digest = measure(cells, name), sha256_of(cells.file)
            scale = {TARGET_SUM: cells.target_sum}
    else:
        raise InputError(
            f"prior 'effects:{name}': expected the folder of a cells artifact, or a file that ends "
            "in .h5ad (cells) or .parquet (deltas)"
        )
    effects.write(folder)
    facts = {
        "uri": name,
        "perturbations": len(set(effects.perturbations)),
        "cell_lines": sorted(set(filter(None, effects.lines))),
        "genes": len(effects.genes),
        "with_errors": effects.error is not None,
        **scale,
    }
    return facts, Source("effects", name, digest, licence_of(name, ""))


def read_deltas(path: Path, name: str) -> OtherEffects:
    """Read a table of deltas; rows of controls are left out. Messages call it ``name``.

    Raises:
        InputError: a column that is missing or no number, a row that comes twice, or a delta that
            is not finite.
    """
    with refusing(PARQUET_FAULTS, f"{name}: not readable as a table of deltas"):
        file = opened_parquet(path, name, "a table of deltas")
        genes = _gene_columns(file.schema_arrow, name)
        labels = [canonical_name(label) for label in _text(file, PERTURBATION, name)]
        named = file.schema_arrow.names
        lines = _text(file, CELL_LINE, name) if CELL_LINE in named else [""] * len(labels)
        cells = file.read([CELLS]).column(0).cast(pa.int64()) if CELLS in named else None
        delta = read_numbers(file, genes)
    kept = np.array([i for i, label in enumerate(labels) if label != CONTROL], dtype=np.int64)
    if not len(kept):
        raise InputError(f"{name}: has no row of a perturbation; expected one row per perturbation")
    pairs = [(labels[i], lines[i]) for i in kept]
    twice = [pair for pair, n in Counter(pairs).items() if n > 1]
    if twice:
        label, line = twice[0]
        raise InputError(f"{name}: perturbation '{label}' comes twice in line '{line}'")
    bad = np.argwhere(~np.isfinite(delta[kept]))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{name}: perturbation '{pairs[row][0]}' has {delta[kept[row], column]} for gene "
            f"'{genes[column]}'; expected finite numbers"
        )
    _check_centre(delta[kept], name)
    counts = None if cells is None else cells.to_numpy()[kept]
    return OtherEffects([p for p, _ in pairs], [c for _, c in pairs], genes, delta[kept], counts)


def _check_centre(delta: NDArray[np.float32], name: str) -> None:
    above, below = int((delta > 0).sum()), int((delta < 0).sum())
    if above + below >= ENOUGH_VALUES and max(above, below) > ONE_SIDED * (above + below):
        side = "above" if above > below else "below"
        raise InputError(
            f"{name}: {max(above, below) / (above + below):.1%} of its values are {side} zero, as "
            "of ranks, p-values or expression levels; expected deltas, perturbed less control in "
            "log1p of normalised counts, or scores whose zero means no effect (z-scores, signed "
            "log p, log fold changes)"
        )


def _gene_columns(schema: pa.Schema, name: str) -> list[str]:
    columns = [column for column in schema.names if not column.startswith("__index_level_")]
    if PERTURBATION not in columns:
        raise InputError(
            f"{name}: column '{PERTURBATION}' is missing; the file has {shortlist(columns)}"
        )
    genes = [column for column in columns if column not in (PERTURBATION, CELL_LINE, CELLS)]
    check_number_columns(schema, genes, name, "the deltas of a gene")
    return genes


def _text(file: pq.ParquetFile, column: str, name: str) -> list[str]:
    texts = file.read([column]).column(0).cast(pa.string())
    if texts.null_count:
        raise InputError(f"{name}: column '{column}' has an empty field; name every row")
    return list(texts.to_pylist())


def _is_folder(uri: str, ending: str) -> bool:
    """Return whether this is an artifact's folder, whose name may end in a version: cells-1.2."""
    if scheme_of(uri) in LOCAL and local_path(uri).is_dir():
        return True
    return not ending or ending[1:].isdecimal()


@contextmanager
def _cells(uri: str, name: str, *, in_folder: bool) -> Iterator[Cells]:
    """Yield the cells of an artifact's folder, or of an h5ad file like the one in it."""
    if in_folder:
        with fetched_folder(uri, (PROVENANCE,)) as folder:
            files = _files_of(folder / PROVENANCE, name)
        with fetched_folder(uri, (PROVENANCE, *files)) as folder:
            try:
                artifact = Cells.open(folder).artifact
            except InputError as error:
                raise InputError(str(error).replace(str(folder), name)) from None
            yield Cells(artifact, f"{name}/{CELLS_FILE}", AS_INGEST)
        return
    with fetched(uri) as path, TemporaryDirectory() as folder:
        (Path(folder) / CELLS_FILE).symlink_to(path.absolute())
        yield Cells(Artifact(Path(folder), "", {}), name, AS_INGEST)


def _files_of(provenance: Path, name: str) -> list[str]:
    found = read_json(provenance, f"{name}/{PROVENANCE}", "expected a cells artifact").get("files")
    files = list(found) if isinstance(found, dict) else []
    if CELLS_FILE not in files or not all(Path(file).name == file for file in files):
        raise InputError(f"{name}: no {CELLS_FILE} in its {PROVENANCE}; expected a cells artifact")
    return files


def measure(cells: Cells, name: str) -> OtherEffects:
    """Measure the delta of every (perturbation, cell line), controls aside, and its error.

    Each line needs two control cells, and values and labels as ingest writes them.

    Raises:
        InputError: a line without two control cells, no perturbed cell, or values or labels that
            are not as ingest writes them.
    """
    obs = cells.obs
    label, lines = obs[PERTURBATION].to_numpy(str), obs[CELL_LINE].to_numpy(str)
    groups, of_cell = np.unique(np.array([lines, label]), axis=1, return_inverse=True)
    mean, variance, n = _moments(cells, of_cell.ravel(), groups.shape[1], name)
    number = {(line, label): i for i, (line, label) in enumerate(groups.T.tolist())}
    perturbed = [pair for pair in number if pair[1] != CONTROL]
    if not perturbed:
        raise InputError(f"{name}: has no perturbed cells; expected a screen")
    delta = np.empty((len(perturbed), mean.shape[1]), np.float32)
    error = np.empty_like(delta)
    for row, (line, which) in enumerate(perturbed):
        own, basal = number[line, which], number.get((line, CONTROL), -1)
        if basal < 0 or n[basal] < 2:
            raise InputError(f"{name}: cell line '{line}' has no two control cells to compare with")
        delta[row] = mean[own] - mean[basal]
        spread = np.fmax(variance[own], variance[basal]) / n[own] + variance[basal] / n[basal]
        error[row] = np.sqrt(spread)
    counts = np.array([n[number[pair]] for pair in perturbed], np.int64)
    names = [which for _, which in perturbed], [line for line, _ in perturbed]
    return OtherEffects(*names, cells.genes, delta, counts, error)


def _moments(
    cells: Cells, groups: NDArray[np.integer], n_groups: int, name: str
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return mean, variance (NaN of one cell) and number of cells of each group."""
    sums = np.zeros((n_groups, len(cells.genes)))
    squares = np.zeros_like(sums)
    with bar(total=len(groups), what="measuring effects", unit=" cells") as progress:
        for start, block in cells.blocks(ROWS_AT_ONCE):
            _check_values(block, name)
            here, place = np.unique(groups[start : start + block.shape[0]], return_inverse=True)
            rows = np.arange(len(place))
            assign = csr_matrix((np.ones(len(place)), (place, rows)))
            exact = block.astype(np.float64)
            sums[here] += (assign @ exact).toarray()
            squares[here] += (assign @ exact.multiply(exact).tocsr()).toarray()
            progress.update(block.shape[0])
    n = np.bincount(groups, minlength=n_groups).astype(np.int64)
    mean = sums / n[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.maximum(squares - n[:, None] * mean**2, 0) / (n[:, None] - 1)
    return mean, variance, n


def _check_values(block: csr_matrix, name: str) -> None:
    if block.nnz and not (block.data.min() >= 0 and block.data.max() < HIGHEST):
        raise InputError(
            f"{name}: X has values outside 0 to {HIGHEST:g}; expected log1p of normalised "
            "counts, as ingest writes it"
        )
