"""The ingest stage: any source of cells becomes the cells artifact, in blocks of rows."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from components.ingest.generator import SCHEME, Screen
from components.ingest.joined_files import (
    GENES,
    INTERSECTION,
    Genes,
    Part,
    brought_to,
    facts_of_all,
    genes_of_all,
    obs_of_all,
    spellings_of_all,
)
from components.ingest.knock_down import FILTER, Least, in_words, without_failed
from components.ingest.normalise import AUTO, COUNTS, EXPRESSIONS, LOG1P
from components.ingest.opening import opened
from components.ingest.scale import check_option, scale_of
from components.ingest.source_h5ad import H5adSource
from components.shared.artifacts.artifact import CELLS, Draft, writing
from components.shared.artifacts.cells import CELLS_FILE
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, read_target_sum, unit_of
from components.shared.parameters.datasets import as_text, with_files
from components.shared.parameters.numbers import whole_number
from components.shared.reading.labels import check_names, counts_of, labels_of
from components.shared.reading.readings import readings
from components.shared.reading.source import Reading, Source
from components.shared.storage.csr_writer import CsrWriter
from components.shared.storage.downloads import shown
from components.shared.telling.addresses import JOIN, visible
from components.shared.telling.errors import InputError, nearest, say
from components.shared.telling.facts import count
from components.shared.telling.progress import bar

TRUTH_FILE = "truth.npz"


@contextmanager
def source_at(uri: str, scratch: Path, seed: int, reading: Reading) -> Iterator[Source]:
    """Yield the source that ``uri`` names; the buckets of a CSC matrix go to ``scratch``.

    Raises:
        InputError: unknown scheme, bad query, or a file that is no usable h5ad.
    """
    if uri.startswith(SCHEME):
        if reading.layer or reading.gene_column:
            raise InputError(
                f"{uri}: a generated screen has X and gene symbols alone; leave out layer and "
                "gene_column"
            )
        yield Screen.from_uri(uri, seed=seed)
    else:
        with opened(uri, scratch, reading) as source:
            yield source


def _say(text: str) -> None:
    say(f"ingest: {visible(text)}")


def _part(source: Source, reading: Reading, seed: int) -> Part:
    """Label the cells of an opened source, and measure its scale."""
    labels = labels_of(source, reading)
    check_names(source, labels.obs.index)
    if isinstance(source, H5adSource):
        labels.facts.update(source.gene_facts)
    for line in labels.said:
        _say(line)
    found = scale_of(source, labels.kept, reading.expression, reading.scale, seed)
    part = Part(source, labels, found, source.genes)
    least = Least(reading.least_knock_down, reading.least_perturbation_knock_down)
    rest = without_failed(labels, part.genes, lambda: _converted(part), least, source.name)
    return replace(part, labels=rest)


def _say_scale(part: Part) -> None:
    found, source = part.found, part.source
    if found.how:
        what = source.matrix.said if isinstance(source, H5adSource) else "X"
        _say(f"{source.name}: {what} is {found.said} ({found.how}); {found.done}")


def _converted(
    part: Part, totals: list[NDArray[np.float64]] | None = None
) -> Iterator[tuple[NDArray[np.int64], csr_matrix]]:
    """Yield (row numbers, log1p of counts per 10,000) of a source's cells, checked.

    Unless they are counts, what cells added up to before goes to ``totals``.
    """
    names, check = part.source.cells.to_numpy(), part.checker
    for rows, block in part.source.blocks(part.labels.kept):
        block.sort_indices()
        check(rows, block)
        if totals is not None and not part.found.is_counts:
            totals.append(part.found.totals(block))
        part.found.convert(block, names[rows])
        yield rows, block


def _write_part(
    part: Part, file: int, genes: Genes, writer: CsrWriter, progress: Any
) -> dict[str, Any]:
    """Append a source's cells and return what was met on the way."""
    empty, totals = 0, list[NDArray[np.float64]]()
    for rows, block in _converted(part, totals):
        empty += int((np.diff(block.indptr) == 0).sum())
        writer.append(genes.place(block, file))
        progress.update(len(rows))
    if empty == len(part.labels.obs):
        raise InputError(
            f"{part.source.name}: none of its {empty:,} cells has a value above 0; expected "
            "expression in X, or in the layer that ingest_options name"
        )
    facts = {"cells_without_counts": empty, "source_sha256": part.source.sha256()}
    if totals:
        every = np.concatenate(totals)
        facts["median_total"] = round(float(np.median(every[every > 0], overwrite_input=True)), 1)
    return facts


def write_cells(parts: Sequence[Part], genes: Genes, total: int, draft: Draft) -> dict[str, Any]:
    """Write `cells.h5ad`, every value checked, into the draft and return facts for its summary."""
    obs = obs_of_all(parts)
    spellings = spellings_of_all(parts, obs)
    labels = facts_of_all(parts)
    labels["other_spellings"] = {what: len(found) for what, found in spellings.items()}
    with (
        h5py.File(draft.path / CELLS_FILE, "w") as file,
        bar(total=len(obs), what="ingest", unit=" cells") as progress,
    ):
        writer = CsrWriter(file, len(genes.names))
        met = [
            _write_part(part, number, genes, writer, progress) for number, part in enumerate(parts)
        ]
        facts = _facts(parts, met)
        told = ("source", "source_sha256", "scale_found", "scale_done", "normalisation")
        uns = {name: facts[name] for name in told}
        uns[TARGET_SUM] = total
        uns["control_label"] = labels["control_label"]
        # As text, since a name may have a slash, which parts the keys of an h5ad.
        uns["other_spellings"] = json.dumps(spellings)
        writer.finish(obs, genes.names, uns)
        filled = writer.filled
    facts |= {TARGET_SUM: total}
    facts |= counts_of(obs, genes.names) | {"genes": len(genes.names)} | labels
    if said := in_words(labels):
        facts[FILTER] = said
    return facts | {"nonzero_fraction": round(filled, 4)}


def _facts(parts: Sequence[Part], met: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the cells are from, what their scale was and what was done to it."""
    digests = [facts["source_sha256"] for facts in met]
    several = hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def told(texts: Sequence[str]) -> str:
        if len(set(texts)) == 1:
            return texts[0]
        named = zip(parts, texts, strict=True)
        return "; ".join(f"{part.source.name}: {text}" for part, text in named if text)

    facts: dict[str, Any] = {
        "source": JOIN.join(part.source.name for part in parts),
        "source_sha256": digests[0] if len(digests) == 1 else several,
        "expression": told([COUNTS if part.found.is_counts else LOG1P for part in parts]),
        "expression_known": told([part.found.how for part in parts]),
        "scale_found": told([part.found.said for part in parts]),
        "scale_done": told([part.found.done for part in parts]),
        "scale_caveat": told([part.found.caveat for part in parts]),
        "normalisation": told([part.found.normalisation for part in parts]),
        "cells_without_counts": sum(facts["cells_without_counts"] for facts in met),
    }
    if len(parts) > 1:
        facts["sources"] = [
            {"source": part.source.name, "sha256": digest, "cells": len(part.labels.obs)}
            for part, digest in zip(parts, digests, strict=True)
        ]
    medians = [facts["median_total"] for facts in met if "median_total" in facts]
    if medians:
        facts["log1p_median_total_per_cell"] = medians[0] if len(medians) == 1 else medians
    return facts


def _warn(summary: Mapping[str, Any]) -> None:
    if summary[TARGET_SUM] != USUAL:
        _say(f"note: cells are {unit_of(summary[TARGET_SUM])}, rather than per {USUAL:,}")
    if summary["scale_caveat"]:
        _say(f"warning: X is {summary['normalisation']}")
    if FILTER in summary:
        _say(f"note: {summary[FILTER]}")
    if "genes_kept" in summary:
        _say(
            f"note: {summary['genes']} genes are kept ({summary['genes_kept']}): "
            f"{summary['genes_in_all_files']} are in all files, "
            f"{summary['genes_in_any_file']} in any"
        )
    for key, what in (
        ("genes_without_symbol", "genes have no symbol and keep their id"),
        ("genes_numbered", "genes bear the symbol of another and got a number, as in 'TBCE-1'"),
        ("cells_without_label", "cells without a perturbation or line were left out"),
        ("cells_without_counts", "cells have no count at all and are kept as zeros"),
    ):
        if summary.get(key):
            _say(f"note: {summary[key]} {what}")


def ingest(
    source: str | Sequence[Any],
    target: Path | str,
    *,
    perturbation_column: str = "gene",
    cell_line_column: str = "cell_line",
    control: str | Sequence[str] = "non-targeting",
    batch_column: str = "",
    expression: str = AUTO,
    scale: str = AUTO,
    layer: str = "",
    gene_column: str = "",
    genes: str = INTERSECTION,
    target_sum: str | float = str(USUAL),
    obs_filter: dict[str, Any] | None = None,
    label_separator: str = "",
    missing_is_control: bool = False,
    left_out: Sequence[str] = (),
    least_knock_down: float = 0.0,
    least_perturbation_knock_down: float = 0.0,
    seed: int = 0,
) -> None:
    """Read a screen and write the cells artifact; memory does not grow with X.

    Args:
        source: a path or a ``file://``, ``gs://``, ``s3://``, ``hf://`` or ``https://`` URI of an
            h5ad file, or ``sim://screen?…`` for a generated screen (see `generator`). Or a list of
            these, as a list or as JSON: an entry may be a dict of ``file`` and of any option below
            that is a file's own, as in ``{"file": "b.h5ad", "cell_line_column": "=rpe1"}``.
        target: folder to write; must not exist.
        perturbation_column: column of obs with the perturbed gene; ``A+B`` are two at once, in
            either order, GEARS's ``GENE+ctrl`` is ``GENE``. ``=<control>`` if all cells are
            controls.
        cell_line_column: column of obs with the cell line, or ``=name`` if all cells are of one.
        control: label of control cells in the perturbation column, several with commas between
            or as a list, or a pattern (``NT-*``); they become ``non-targeting``.
        batch_column: column of obs with the batch; empty for none.
        expression: ``counts``, ``log1p``, or ``auto`` to tell from a sample of X.
        scale: the same to the full: ``counts``, ``log1p_cp10k``, ``log1p_cpm``, ``log2_cp10k``, …
            (see `scale`), or ``auto``.
        layer: the matrix to read: empty for X, the name of a layer, or ``raw`` for adata.raw.
        gene_column: column of var with the gene symbols; empty for its index.
        genes: which genes are kept of several files: the ``intersection``, or the ``union`` with
            zeros where a file lacks a gene.
        target_sum: what a cell's counts are brought to before log1p: a number, or ``median`` for
            the median total of control cells, as for panels of hundreds of genes.
        obs_filter: column of obs to the value, or the list of values, that are kept.
        label_separator: what stands between two genes in a label beside ``+``, such as ``_``.
            Empty: labels that look as if something did are refused; ``+``: they are single genes.
        missing_is_control: cells without a label are controls, rather than left out.
        left_out: labels, or patterns, whose cells are not wanted.
        least_knock_down: share of its line's control mean by which a cell's own target must be
            lower for the cell to be kept; 0 keeps all, as where the target is not measured.
        least_perturbation_knock_down: the same of the mean over a perturbation's cells in a line.
        seed: seed of a generated screen whose URI names none, and of the sample of rows.

    Raises:
        InputError: the source cannot be used; nothing is written.
    """
    parameters = dict(locals())
    del parameters["target"]
    seed = whole_number("seed", seed)
    parameters["left_out"] = [left_out] if isinstance(left_out, str) else left_out
    text = as_text(source)
    files = readings(text, parameters)
    _check_options(files, genes)
    read_target_sum(target_sum)
    target = Path(target)
    parameters |= {"source": with_files(text, shown), "seed": seed}
    with (
        writing(target, CELLS, parameters=parameters) as draft,
        tempfile.TemporaryDirectory(prefix=".ingest.", dir=target.parent) as scratch,
        ExitStack() as stack,
    ):
        parts = []
        for uri, reading in files:
            opening = source_at(uri, Path(scratch), seed, reading)
            parts.append(_part(stack.enter_context(opening), reading, seed))
        kept, gene_facts = genes_of_all(parts, genes)
        parts, total = brought_to(parts, target_sum)
        for part in parts:
            _say_scale(part)
        draft.summary |= write_cells(parts, kept, total, draft) | gene_facts
        for part in parts if len(parts) == 1 else ():
            if isinstance(part.source, Screen):
                part.source.write_truth(draft.path / TRUTH_FILE)
        _warn(draft.summary)
    summary, lines = draft.summary, len(draft.summary["lines"])
    _say(
        f"wrote {target}: {summary['cells']:,} cells x {summary['genes']:,} genes, "
        f"{count(summary['perturbations'], 'perturbation')} in {count(lines, 'line')}"
    )


def _check_options(files: Sequence[tuple[str, Reading]], genes: str) -> None:
    """Check the options that have few values, before anything is read."""
    checked: list[tuple[str, str, tuple[str, ...]]] = [("genes", genes, GENES)]
    checked += [("expression", reading.expression, EXPRESSIONS) for _, reading in files]
    for name, value, allowed in checked:
        if value not in allowed:
            raise InputError(
                f"{name} '{value}' is not allowed{nearest(value, allowed)}; "
                f"allowed: {', '.join(allowed)}"
            )
    for _, reading in files:
        check_option(reading.scale)
        Least(reading.least_knock_down, reading.least_perturbation_knock_down)
