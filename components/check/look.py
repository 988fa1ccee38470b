"""A look at a dataset before it is read: obs and the names of genes alone, in seconds.

A remote file is read in part where its store allows it. Cells are labelled by the code that ingest
labels them with, so what is refused here is what ingest would refuse after the download; whatever
else goes wrong is a note, and the run continues.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.check.estimate import Size, estimated, training_of
from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import known_line
from components.shared.parameters.datasets import files
from components.shared.parameters.pretrained import resolve_vocabulary
from components.shared.parameters.roles import nothing_shared, nothing_trains, validating
from components.shared.parameters.stage_options import (
    INGEST_OPTIONS,
    SPLIT_OPTIONS,
    checked_options,
)
from components.shared.reading.file_kinds import check_is_anndata, check_is_hdf5
from components.shared.reading.labels import check_names, labels_of, with_one_name_each
from components.shared.reading.readings import readings
from components.shared.reading.source import Reading, Source
from components.shared.reading.tables import Tables, common_genes
from components.shared.storage.downloads import shown
from components.shared.storage.hdf5 import opened_hdf5
from components.shared.storage.ranged import Ranged, UnreadError, opened_in_part
from components.shared.telling.addresses import visible
from components.shared.telling.errors import InputError, shortlist
from components.shared.telling.facts import count, titled

GENERATED = "sim://"
UNREAD = ("X", "layers", "uns", "obsm", "obsp", "varm", "varp", "mod")
"""Groups that the look does not open; of raw it needs the names of genes."""
Generate = Callable[[str], Source]


@dataclass(frozen=True)
class Head(Tables):
    """The tables of an h5ad file; cells bear numbers, since their names are most of obs."""

    @cached_property
    def cells(self) -> "pd.Index[Any]":
        """One number per cell."""
        frame = self._frame("obs")
        return pd.RangeIndex(frame[frame.attrs["_index"]].shape[0])

    @property
    def entries(self) -> int:
        """Values that the matrix stores."""
        x = self.file[self.matrix.x]
        return int(np.prod(x.shape) if hasattr(x, "shape") else x["data"].shape[0])


@dataclass(frozen=True)
class Seen:
    """Labels and sizes of all files."""

    name: str
    """Of the first file."""
    obs: pd.DataFrame
    """Columns perturbation, cell_line and is_control of the cells that are kept."""
    genes: list[str]
    columns: list[str]
    """Of obs, in the first file."""
    entries: int
    """Values that the matrices store."""
    download: int
    """Bytes of the remote files."""


def look(parameters: Mapping[str, Any], *, generate: Generate | None = None) -> list[str]:
    """Return what there is to know of a run's dataset, in lines of a title and a fact.

    Parameters are those of any of the pipelines, defaults included; ``generate`` makes the labels
    of a generated screen, where that is at hand. What ingest or split would refuse is refused.
    """
    try:
        seen = _seen(parameters, generate)
        facts = _facts(seen, parameters)
    except UnreadError as error:
        facts = {"look": f"the cells were not looked at beforehand: {error}"}
    except InputError:
        raise
    except Exception as error:  # of many libraries; ingest reads by other ways
        facts = {"look": f"the cells were not looked at beforehand ({type(error).__name__})"}
    else:
        if training := training_of(parameters):
            facts |= estimated(_size(seen, parameters), training)
    return [line for title, fact in facts.items() for line in titled(title, fact)]


def print_look(parameters: Mapping[str, Any]) -> None:
    """Print the look at the dataset, in a pod: a run on this machine began with it."""
    for line in look(parameters) if "KUBERNETES_SERVICE_HOST" in os.environ else ():
        print(f"check: {visible(line)}", flush=True)


def _seen(parameters: Mapping[str, Any], generate: Generate | None) -> Seen:
    options = parameters.get("ingest_options")
    given = INGEST_OPTIONS | checked_options(INGEST_OPTIONS, options, name="ingest_options")
    given |= {
        "perturbation_column": parameters.get("perturbation_column", "gene"),
        "cell_line_column": parameters.get("cell_line_column", "cell_line"),
        "control": parameters.get("control_label", "non-targeting"),
    }
    wanted = readings(parameters["dataset"], given)
    found = [_of_file(uri, reading, generate) for uri, reading in wanted]
    if len(found) == 1:
        return found[0]
    tables = [one.obs.astype({"perturbation": str, "cell_line": str}) for one in found]
    measured = pd.Index(pd.unique(np.concatenate([one.genes for one in found])))
    obs = with_one_name_each(pd.concat(tables, ignore_index=True), frozenset(measured))
    obs = obs.astype({"perturbation": "category", "cell_line": "category"})
    in_all = common_genes([(one.name, one.genes) for one in found])
    genes = in_all if given["genes"] == "intersection" else measured
    return Seen(
        found[0].name,
        obs,
        list(genes),
        found[0].columns,
        sum(one.entries for one in found),
        sum(one.download for one in found),
    )


def _of_file(uri: str, reading: Reading, generate: Generate | None) -> Seen:
    if uri.startswith(GENERATED):
        if generate is None:
            raise UnreadError("they are generated")
        screen = generate(uri)
        return _labelled(screen, reading, len(screen.cells) * len(screen.genes), 0)
    with opened_in_part(uri) as file, _head(file, shown(uri), reading) as head:
        try:
            return _labelled(head, reading, head.entries, getattr(file, "size", 0))
        except Exception:
            if fault := getattr(file, "fault", ""):  # it is no fault of the labels
                raise UnreadError(fault) from None
            raise


@contextmanager
def _head(file: Path | Ranged, name: str, reading: Reading) -> Iterator[Head]:
    if isinstance(file, Path):
        if file.is_dir():
            raise UnreadError("they are in a folder, not in an h5ad file")
        if not file.exists():
            raise InputError(f"{name}: no such file; expected an h5ad file")
        check_is_hdf5(file, name)
    try:
        opened = opened_hdf5(file, name, UNREAD)
    except InputError as error:
        if isinstance(file, Path):
            raise
        raise UnreadError(file.fault or str(error)) from None
    with opened:
        if "obs" not in opened:
            raise UnreadError("the file is not an h5ad")
        check_is_anndata(opened, name)
        yield Head(opened, name, reading.layer, reading.gene_column)


def _labelled(source: Any, reading: Reading, entries: int, download: int) -> Seen:
    labels = labels_of(source, reading)
    check_names(source, labels.obs.index)
    kept = len(labels.obs) / max(1, len(source.cells))
    return Seen(
        source.name, labels.obs, source.genes, source.columns, int(entries * kept), download
    )


def _split(parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = parameters.get("split_options")
    return SPLIT_OPTIONS | checked_options(SPLIT_OPTIONS, given, name="split_options")


def _used(seen: Seen, parameters: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the lines that train, none where a split file says it, and the one to predict."""
    known = [str(line) for line in seen.obs["cell_line"].cat.categories]
    if _split(parameters)["split_file"]:
        return [], ""
    trained = [known_line(one, known, "train_lines") for one in parameters.get("train_lines", [])]
    asked = parameters.get("test_line") or parameters.get("cell_line") or ""
    if not asked:
        return trained, known[0] if len(known) == 1 else ""
    return trained, known_line(asked, known, "test_line")


def _perturbed(seen: Seen, lines: Sequence[str]) -> pd.DataFrame:
    obs = seen.obs
    return obs[obs["cell_line"].isin(lines) & ~obs["is_control"]]


def _facts(seen: Seen, parameters: Mapping[str, Any]) -> dict[str, str]:
    obs = seen.obs
    many = len(files(parameters["dataset"]))
    facts = {
        "cells": f"{len(obs):,} x {len(seen.genes):,} genes"
        + (f" of {many} files" if many > 1 else "")
        + f"; obs has {shortlist(seen.columns, 12)}"
    }
    counted = obs.groupby("cell_line", observed=True)["is_control"].agg(["size", "sum"])
    facts["by line"] = ", ".join(
        f"{line} {int(row['size']):,} ({int(row['sum']):,} controls)"
        for line, row in counted.iterrows()
    )
    trained, tested = _used(seen, parameters)
    trains_on = _to_train(seen, trained, parameters)
    names = [name for name in obs["perturbation"].cat.categories if name != CONTROL]
    if trained and tested:
        ours = set(_perturbed(seen, trained)["perturbation"])
        theirs = set(_perturbed(seen, [tested])["perturbation"])
        restricted = _split(parameters)["restrict_test_to_training"]
        if theirs and not ours & theirs and restricted and not parameters.get("perturbations"):
            raise InputError(f"{seen.name}: {nothing_shared(tested)}")
        facts["perturbed"] = (
            f"{len(ours):,} genes or pairs in the training lines, {len(theirs):,} in {tested}, "
            f"{len(ours & theirs):,} in both"
        )
    else:
        facts["perturbed"] = f"{len(names):,} genes or pairs"
    measured = set(seen.genes)
    known = sum(measured.issuperset(genes_of(str(name))) for name in names)
    facts["targets"] = f"{known:,} of {len(names):,} are measured genes"
    if said := _in_vocabulary(seen.genes, parameters):
        facts["vocabulary"] = said
    if trains_on:
        facts["trains on"] = trains_on
    return facts


def _in_vocabulary(genes: Sequence[str], parameters: Mapping[str, Any]) -> str:
    if not parameters.get("pretrained"):
        return ""
    try:
        vocabulary = resolve_vocabulary(parameters["pretrained"])
    except (InputError, ImportError, OSError):
        return ""  # of another image, or not to be had from here; prior and finetune say so
    known = sum(gene in vocabulary for gene in genes)
    return f"{known:,} of {len(genes):,} genes are in scGPT's"


def _to_train(seen: Seen, trained: Sequence[str], parameters: Mapping[str, Any]) -> str:
    if not parameters.get("train_lines"):
        return ""
    if not trained:
        return "what the split file says"
    cells = _perturbed(seen, trained)
    counted = cells.groupby("cell_line", observed=True)["perturbation"].nunique()
    sets = {line: int(counted.get(line, 0)) for line in trained}
    options = _split(parameters)
    try:
        _, validate = validating(
            sets, val_line=options["val_line"], val_fraction=options["val_fraction"]
        )
    except InputError as error:
        raise InputError(f"{seen.name}: {error}") from None
    total = sum(sets.values())
    if validate >= total:
        raise InputError(f"{seen.name}: {nothing_trains(trained, f'{validate} of {total} sets')}")
    filters = [name for name in parameters.get("ingest_options") or {} if name.startswith("least_")]
    filtered = ", less those whose knock-down failed" if filters else ""
    return (
        f"{len(cells):,} cells in {count(total, 'set')} (line, perturbation)"
        f"{filtered}, of which about {validate:,} validate"
    )


def _size(seen: Seen, parameters: Mapping[str, Any]) -> Size:
    trained, _ = _used(seen, parameters)
    lines = trained or list(map(str, seen.obs["cell_line"].cat.categories))
    obs = seen.obs
    return Size(
        training_cells=len(_perturbed(seen, lines)),
        training_controls=int((obs["cell_line"].isin(lines) & obs["is_control"]).sum()),
        genes=len(seen.genes),
        entries=seen.entries,
        download=seen.download,
        runs=max(1, len(parameters.get("priors", [])) * len(parameters.get("seeds", []))),
    )
