"""The ingest stage: any source of cells becomes the cells artifact, in blocks of rows."""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from components.ingest.generator import SCHEME, Screen
from components.ingest.labels import Labels, check_names, counts_of, labels_of
from components.ingest.normalise import (
    AUTO,
    COUNTS,
    EXPRESSIONS,
    LOG1P,
    ValueCheck,
    detect,
    log1p_of_counts,
    row_sums,
)
from components.ingest.source import Source
from components.ingest.source_h5ad import H5adSource, opened
from components.shared.artifact import CELLS, Draft, writing
from components.shared.cells import CELLS_FILE
from components.shared.csr_writer import CsrWriter
from components.shared.downloads import shown
from components.shared.errors import InputError, nearest
from components.shared.progress import bar
from components.shared.storage import fetched

NORMALISATION = "log1p of counts per 10,000"
TRUTH_FILE = "truth.npz"


@contextmanager
def source_at(uri: str, scratch: Path, seed: int) -> Iterator[Source]:
    """Yield the source that ``uri`` names; the buckets of a CSC matrix go to ``scratch``.

    Raises:
        InputError: unknown scheme, bad query, or a file that is no usable h5ad.
    """
    if uri.startswith(SCHEME):
        yield Screen.from_uri(uri, seed=seed)
    else:
        with fetched(uri) as path, opened(path, shown(uri), scratch) as source:
            yield source


def _say(text: str) -> None:
    print(f"ingest: {text}", file=sys.stderr, flush=True)


def write_cells(
    source: Source, labels: Labels, expression: str, how: str, draft: Draft
) -> dict[str, Any]:
    """Write `cells.h5ad` into the draft and return facts for its summary.

    Raises:
        InputError: a value of X that cannot be; names its cell and gene.
    """
    check = ValueCheck(
        source.name,
        source.cells.to_numpy(),
        source.genes,
        expression,
        whole=expression == COUNTS and how.startswith("detected"),
    )
    empty = 0
    log1p_totals = []
    with (
        h5py.File(draft.path / CELLS_FILE, "w") as file,
        bar(total=len(labels.obs), what="ingest", unit="cells") as progress,
    ):
        writer = CsrWriter(file, len(source.genes))
        for rows, block in source.blocks(labels.kept):
            block.sort_indices()
            check(rows, block)
            empty += int((np.diff(block.indptr) == 0).sum())
            if expression == COUNTS:
                log1p_of_counts(block)
            else:
                log1p_totals.append(row_sums(np.expm1(block.data), block.indptr))
            writer.append(block)
            progress.update(len(rows))
        digest = source.sha256()
        uns = {
            "source": source.name,
            "source_sha256": digest,
            "normalisation": NORMALISATION,
            "control_label": labels.facts["control_label"],
            # As text, since a name may have a slash, which parts the keys of an h5ad.
            "other_spellings": json.dumps(labels.spellings),
        }
        writer.finish(labels.obs, source.genes, uns)
        filled = writer.entries / max(1, writer.rows * writer.n_genes)
    facts = {
        "source": source.name,
        "source_sha256": digest,
        "expression": expression,
        "expression_known": how,
        "cells_without_counts": empty,
        "nonzero_fraction": round(filled, 4),
    }
    if log1p_totals:
        # 10,000 at most if it is what we take it for: less where genes were left out since.
        median = float(np.median(np.concatenate(log1p_totals)))
        facts["log1p_median_total_per_cell"] = round(median, 1)
    return facts


def _warn(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    if facts.get("log1p_median_total_per_cell", 0) > 1.01e4:
        _say(
            f"warning: log1p input adds up to {facts['log1p_median_total_per_cell']:g} per cell "
            f"before the logarithm, more than 10,000: it was scaled otherwise and is kept as it is"
        )
    for key, what in (
        ("cells_without_label", "cells without a perturbation or line were left out"),
        ("cells_without_counts", "cells have no count at all and are kept as zeros"),
    ):
        if summary[key]:
            _say(f"note: {summary[key]} {what}")


def ingest(
    source: str,
    target: Path | str,
    *,
    perturbation_column: str = "gene",
    cell_line_column: str = "cell_line",
    control: str | Sequence[str] = "non-targeting",
    batch_column: str = "",
    expression: str = AUTO,
    obs_filter: dict[str, Any] | None = None,
    label_separator: str = "",
    missing_is_control: bool = False,
    left_out: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Read a screen and write the cells artifact; memory does not grow with X.

    Args:
        source: a path or a ``file://``, ``gs://``, ``s3://``, ``hf://`` or ``https://`` URI of an
            h5ad file, or ``sim://screen?…`` for a generated screen (see `generator`).
        target: folder to write; must not exist.
        perturbation_column: column of obs with the perturbed gene; ``A+B`` are two at once, in
            either order, GEARS's ``GENE+ctrl`` is ``GENE``. ``=<control>`` if all cells are
            controls.
        cell_line_column: column of obs with the cell line, or ``=name`` if all cells are of one.
        control: label of control cells in the perturbation column, several with commas between
            or as a list, or a pattern (``NT-*``); they become ``non-targeting``.
        batch_column: column of obs with the batch; empty for none.
        expression: ``counts``, ``log1p``, or ``auto`` to tell from a sample of X.
        obs_filter: column of obs to the value, or the list of values, that are kept.
        label_separator: what stands between two genes in a label beside ``+``, such as ``_``.
            Empty: labels that look as if something did are refused; ``+``: they are single genes.
        missing_is_control: cells without a label are controls, rather than left out.
        left_out: labels, or patterns, whose cells are not wanted.
        seed: seed of a generated screen whose URI names none, and of the sample of rows.

    Raises:
        InputError: the source cannot be used; nothing is written.
    """
    if expression not in EXPRESSIONS:
        raise InputError(
            f"expression '{expression}' is not allowed{nearest(expression, EXPRESSIONS)}; "
            f"allowed: {', '.join(EXPRESSIONS)}"
        )
    target = Path(target)
    parameters = {
        "source": shown(source),
        "perturbation_column": perturbation_column,
        "cell_line_column": cell_line_column,
        "control": control if isinstance(control, str) else list(control),
        "batch_column": batch_column,
        "expression": expression,
        "obs_filter": obs_filter or {},
        "label_separator": label_separator,
        "missing_is_control": missing_is_control,
        "left_out": list(left_out),
        "seed": seed,
    }
    with (
        writing(target, CELLS, parameters=parameters) as draft,
        tempfile.TemporaryDirectory(prefix=".ingest.", dir=target.parent) as scratch,
        source_at(source, Path(scratch), seed) as cells,
    ):
        labels = labels_of(
            cells,
            perturbation_column=perturbation_column,
            cell_line_column=cell_line_column,
            control=control,
            batch_column=batch_column,
            obs_filter=obs_filter or {},
            label_separator=label_separator,
            missing_is_control=missing_is_control,
            left_out=left_out,
        )
        for line in labels.said:
            _say(line)
        symbol_columns = cells.symbol_columns() if isinstance(cells, H5adSource) else ()
        check_names(cells, labels.obs.index, symbol_columns)
        found, how = detect(cells.sample(labels.kept, seed), expression, cells.name)
        kept_as = "kept as it is" if found == LOG1P else f"turned into {NORMALISATION}"
        _say(f"X is {found} ({how}); {kept_as}")
        facts = write_cells(cells, labels, found, how, draft)
        counts = counts_of(labels.obs, cells.genes)
        draft.summary |= counts | {"genes": len(cells.genes)} | labels.facts | facts
        if isinstance(cells, Screen):
            cells.write_truth(draft.path / TRUTH_FILE)
        _warn(facts, draft.summary)
    _say(
        f"wrote {counts['cells']} cells x {len(cells.genes)} genes, {counts['perturbations']} "
        f"perturbations in {len(counts['lines'])} lines to {target}"
    )
