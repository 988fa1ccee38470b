"""Several files as one data set: which genes are kept, and the total that cells are brought to.

Ten thousand counts, to which cells are brought as a rule, are a tenth to a whole of what a cell has
over all genes. Of a panel of hundreds of genes it has a few hundred, and brought to ten thousand
one molecule becomes many: hence the controls' median depth, where that is requested.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.normalise import COUNTS, LOG1P, ValueCheck
from components.ingest.scale import Found
from components.shared.artifacts.matched_controls import BATCH, NO_BATCH
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, read_target_sum
from components.shared.artifacts.perturbation_names import line_key
from components.shared.reading.labels import Labels, with_one_name_each
from components.shared.reading.names import one_name_each
from components.shared.reading.source import Source
from components.shared.reading.tables import common_genes
from components.shared.telling.errors import InputError

INTERSECTION = "intersection"
UNION = "union"
GENES = (INTERSECTION, UNION)


@dataclass(frozen=True)
class Part:
    """A file that was opened: its cells' labels and its scale."""

    source: Source
    labels: Labels
    found: Found
    genes: list[str]

    @property
    def checker(self) -> ValueCheck:
        """What checks every value of the file."""
        return ValueCheck(
            self.source.name,
            self.source.cells.to_numpy(),
            self.genes,
            LOG1P if self.found.log == LOG1P else COUNTS,
            whole=self.found.whole,
            hint=self.source.hint,
        )


@dataclass(frozen=True)
class Genes:
    """The genes of all files together."""

    names: list[str]
    places: list[NDArray[np.int64]]
    """For each file, where each of its genes goes; -1 = left out."""

    def place(self, block: csr_matrix, file: int) -> csr_matrix:
        """Return a block of a file with the genes of all files as its columns."""
        if len(self.places) == 1:
            return block
        columns = self.places[file][block.indices]
        kept = columns >= 0
        before = np.r_[0, np.cumsum(kept)]
        placed = csr_matrix(
            (block.data[kept], columns[kept].astype(np.int32), before[block.indptr]),
            shape=(block.shape[0], len(self.names)),
        )
        placed.sort_indices()
        return placed


def genes_of_all(parts: Sequence[Part], how: str) -> tuple[Genes, dict[str, Any]]:
    """Return the genes that are kept of several files, and facts for the summary.

    ``intersection``: those that all files have; ``union``: those of any, zeros elsewhere.
    """
    each = [pd.Index(part.genes, dtype=object) for part in parts]
    if len(parts) == 1:
        return Genes(parts[0].genes, [np.arange(len(each[0]))]), {}
    common = common_genes([(part.source.name, part.genes) for part in parts])
    every = pd.unique(np.concatenate(each))
    names = common if how == INTERSECTION else pd.Index(every)
    facts = {
        "genes_kept": how,
        "genes_in_all_files": len(common),
        "genes_in_any_file": len(every),
    }
    return Genes([str(name) for name in names], [names.get_indexer(index) for index in each]), facts


def stems(parts: Sequence[Part]) -> list[str]:
    """Return a short name for each file, each once."""
    names = [PurePosixPath(part.source.name.partition("?")[0]).stem for part in parts]
    taken = {name for name in names if names.count(name) == 1}
    found = []
    for number, name in enumerate(names, start=1):
        own = name
        if names.count(name) > 1:
            own = next(o for n in count(number) if (o := f"{name}-{n}") not in taken)
        taken.add(own)
        found.append(own)
    return found


def obs_of_all(parts: Sequence[Part]) -> pd.DataFrame:
    """Return the labels of the cells of all files.

    Cells of two files that bear one name get the file's name at the end of it. Batches are a
    file's own, since two files may count theirs alike.
    """
    if len(parts) == 1:
        return parts[0].labels.obs
    tables = [part.labels.obs.astype({"perturbation": str, "cell_line": str}) for part in parts]
    names = pd.Index(np.concatenate([table.index for table in tables]), dtype=object)
    batched = any(BATCH in table for table in tables)
    for stem, table in zip(stems(parts), tables, strict=True):
        if names.has_duplicates:
            table.index = pd.Index([f"{cell}-{stem}" for cell in table.index], dtype=object)
        if batched:
            own = table[BATCH].astype(str) if BATCH in table else None
            table[BATCH] = stem if own is None else own.where(own.isin(NO_BATCH), f"{stem}:" + own)
    obs = with_one_name_each(pd.concat(tables), measured_in(parts))
    if obs.index.has_duplicates:  # a name with another file's at its end
        obs.index = make_index_unique(obs.index)
    return obs.astype({name: "category" for name in obs.columns if name != "is_control"})


def measured_in(parts: Sequence[Part]) -> frozenset[str]:
    """Return the genes that any file measures."""
    return frozenset().union(*(part.genes for part in parts))


def spellings_of_all(parts: Sequence[Part], obs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Return column to name to what the files call it, where that is not the name alone.

    In ``obs``, the labels of the cells of all files, a line has one name.
    """
    lines = {line_key(str(line)): str(line) for line in obs["cell_line"].cat.categories}
    counts = Counter[str]()
    for part in parts:
        each = part.labels.obs["perturbation"].value_counts()
        counts.update({str(name): int(n) for name, n in each.items()})
    perturbations = one_name_each(counts, measured_in(parts))
    merged: dict[str, dict[str, list[str]]] = {}
    for column in ("perturbation", "cell_line"):
        found: dict[str, set[str]] = {}
        for part in parts:
            own = part.labels.spellings.get(column, {})
            for name in map(str, part.labels.obs[column].cat.categories):
                one = lines[line_key(name)] if column == "cell_line" else perturbations[name]
                found.setdefault(one, set()).update(own.get(name, [name]))
        merged[column] = {n: sorted(found[n]) for n in sorted(found) if found[n] != {n}}
    return merged


def facts_of_all(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the facts of the files' labels together: counts added up, others each once."""
    facts: dict[str, Any] = {}
    for part in parts:
        for name, value in part.labels.facts.items():
            facts[name] = _together(facts[name], value) if name in facts else value
    return facts


def _together(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}
    if isinstance(one, list):
        return sorted({*one, *other})
    if isinstance(one, str):
        return ", ".join(dict.fromkeys([*one.split(", "), *other.split(", ")]))
    return one + other


def brought_to(parts: Sequence[Part], target_sum: str | float) -> tuple[list[Part], int]:
    """Return the parts with what their cells are to be brought to, and that total.

    The median is over the control cells of all files: what a perturbation does to the depth of its
    cells must not move it, and a data set of controls alone has one.
    """
    asked = read_target_sum(target_sum)
    if any(not part.found.how for part in parts):
        return list(parts), USUAL  # values that cannot be, which reading refuses by name
    total = _median(parts) if asked is None else asked
    for part in parts:
        if total != USUAL and part.found.lenient:
            raise InputError(
                f"{part.source.name}: {TARGET_SUM}={total} needs to know what X is, and expression "
                "log1p alone keeps it as it is; set scale, as in scale: log1p_cp10k"
            )
    return [replace(part, found=replace(part.found, target=float(total))) for part in parts], total


def _median(parts: Sequence[Part]) -> int:
    totals: list[NDArray[np.float64]] = []
    for part in parts:
        found = part.found
        if found.total is not None or found.factors or found.lenient:
            raise InputError(
                f"{part.source.name}: {TARGET_SUM}=median needs the cells' raw counts, and X is "
                f"{found.said}; give raw counts (a layer, or layer: raw), or a number"
            )
        kept = part.labels.kept.copy()
        kept[kept] = part.labels.obs["is_control"].to_numpy(bool)
        check = part.checker
        for rows, block in part.source.blocks(kept):
            check(rows, block)
            totals.append(found.totals(block))
    every = np.concatenate([np.zeros(0), *totals])
    every = every[every > 0]
    if not len(every):
        raise InputError(
            f"{parts[0].source.name}: {TARGET_SUM}=median needs control cells with counts, and "
            "there are none; give a number"
        )
    return max(1, round(float(np.median(every))))
