"""The split stage: a role for every cell, so that nothing tested was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.shared.artifacts.artifact import SPLITS, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.normalisation import TARGET_SUM
from components.shared.artifacts.perturbation import genes_of, in_the_words_of
from components.shared.artifacts.perturbation_names import (
    canonical_name,
    line_key,
    same_things,
    text_of,
)
from components.shared.artifacts.splits import (
    REQUEST_FILE,
    SPLITS_FILE,
    SUMMARY_FILE,
    TEST,
    TRAIN,
    VAL,
)
from components.shared.parameters.aliases import meanings_of, read_aliases
from components.shared.parameters.numbers import check_fraction, whole_number
from components.shared.parameters.perturbation_list import read_perturbations
from components.shared.parameters.roles import nothing_shared, nothing_trains
from components.shared.storage.documents import write_json
from components.shared.storage.downloads import shown
from components.shared.storage.files import fetched
from components.shared.telling.errors import InputError, shortlist
from components.split.coded_labels import Labels
from components.split.counts import NAMES, as_table, summarise
from components.split.role_rules import Rules, from_lines, with_validation
from components.split.roles import NOT_IN_TRAINING, assign
from components.split.split_file import read_split_file, rules_of


def split(
    cells: Path | str,
    target: Path | str,
    *,
    train_lines: list[str],
    test_line: str,
    perturbations: str | Sequence[str] = (),
    val_line: str = "",
    val_fraction: float = 0.05,
    restrict_test_to_training: bool = True,
    halve_controls: bool = False,
    split_file: str = "",
    aliases: str = "",
    seed: int = 0,
) -> None:
    """Give every cell one role and write the splits artifact.

    Args:
        cells: cells artifact.
        target: folder to write; must not exist.
        train_lines: cell lines whose perturbed cells train; with a split file only their order
            counts. None: a finished model is applied, nothing trains.
        test_line: cell line whose perturbed cells test; with a split file it chooses one where the
            file has several. Control cells of it are enough.
        perturbations: what to predict, see `perturbation_list.read_perturbations`. Empty: all that
            are measured in the test line (see ``restrict_test_to_training``); where none is, all
            that the training lines have.
        val_line: training line that validates; empty for all of them.
        val_fraction: fraction of the (line, perturbation) sets that validate, see
            `role_rules.with_validation`; 1 holds a whole line out, 0 makes no validation set. Not
            used where a split file says what validates.
        restrict_test_to_training: where ``perturbations`` names none, test only those that a
            training line has, as the reference run does.
        halve_controls: part each line's controls into basal and reference halves; without it they
            serve as both. Halved, a prediction and what it is compared with share the noise of the
            reference half, so that predicting nothing scores well above 0.
        split_file: path or URI of a TOML file in cell-load's form; goes before the lines.
        aliases: path or URI of a table of other gene names (see `aliases.read_aliases`), which says
            what a name that nobody knows may stand for.
        seed: draws validation perturbations and halves. Draws are over sorted names: they do not
            depend on the order of cells, nor a line's on what other lines are used.

    Raises:
        InputError: a line, fraction or file that cannot be used, or a set that would be empty;
            nothing is written.
    """
    parameters = dict(locals())
    del parameters["cells"], parameters["target"]
    check_fraction(val_fraction)
    seed = whole_number("seed", seed)
    asked = read_perturbations(perturbations)
    opened = Cells.open(cells)
    if not isinstance(train_lines, str):
        train_lines = [text_of(line) for line in train_lines]
    parameters |= {
        "train_lines": train_lines,
        "perturbations": _shown(perturbations),
        "split_file": shown(split_file),
        "aliases": shown(aliases),
        "seed": seed,
    }
    inputs = {"cells": opened.artifact}
    with writing(target, SPLITS, parameters=parameters, inputs=inputs) as draft:
        labels = Labels.of(opened.obs)
        check_one_name_each(labels, opened.file)
        if split_file:
            rules, facts = _rules_of_file(split_file, labels, train_lines, test_line)
        else:
            rules, facts = from_lines(train_lines, test_line, labels), {}
        asked = in_the_words_of(labels.perturbations, asked)
        if not rules.has(VAL):
            rules = with_validation(
                rules, labels, val_line=val_line, val_fraction=val_fraction, seed=seed
            )
        elif val_line:
            print(f"split: note: val_line '{val_line}' is overridden by the split file", flush=True)
        roles, unused_because = assign(
            labels,
            rules,
            asked=asked,
            # A finished model knows perturbations that these cells do not show.
            restrict_test_to_training=restrict_test_to_training and rules.has(TRAIN),
            halve_controls=halve_controls,
            seed=seed,
        )
        own = {name: opened.obs[name].to_numpy(object) for name in ("cell_line", "perturbation")}
        table = pd.DataFrame({"cell": labels.cells} | own | {"role": roles})
        asked = asked or _found(table)
        summary = summarise(table, rules, opened.genes)
        summary |= {"unused_because": unused_because} | facts | _asked_for(asked, table)
        _check_sets(summary, rules, trains=bool(train_lines or split_file))
        table.to_parquet(draft.path / SPLITS_FILE, index=False)
        write_json(draft.path / SUMMARY_FILE, summary)
        wanted = {"perturbations": asked, "other_names": _other_names(asked, aliases)}
        write_json(draft.path / REQUEST_FILE, wanted)
        draft.summary |= summary | _carried(opened.artifact.summary)
    print(as_table(summary), flush=True)
    numbers = ", ".join(f"{summary[f'{name}_cells']:,} {name}" for name in NAMES.values())
    controls = f"{summary['test_controls_basal']:,} basal controls"
    print(f"split: wrote {target}: {numbers} cells, {controls}", flush=True)


def _carried(of_cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model card tells of the cells: publish does not read them."""
    names = (
        *("source", "source_sha256", "scale_found", "scale_done", "scale_caveat"),
        *("knock_down_filter", TARGET_SUM),
    )
    return {name: of_cells[name] for name in names if of_cells.get(name)}


def check_one_name_each(labels: Labels, where: Path | str) -> None:
    """Check that no line or perturbation of the cells has two names: it could have two roles."""
    for what, names, key in (
        ("cell line", labels.lines, line_key),
        ("perturbation", labels.perturbations, canonical_name),
    ):
        if same := same_things(names, key):
            raise InputError(
                f"{where}: {shortlist(same[0])} are names of one {what}; run the ingest task "
                "again, which gives each one name"
            )


def _rules_of_file(
    uri: str, labels: Labels, train_lines: Sequence[str], test_line: str
) -> tuple[Rules, dict[str, Any]]:
    with fetched(uri) as path:
        file = read_split_file(path, shown(uri))
    rules, facts = rules_of(file, labels, train_lines=list(train_lines), test_line=test_line)
    if test_line and rules.test_line != test_line:
        print(
            f"split: note: test_line '{test_line}' is overridden by '{rules.test_line}' "
            f"of {file.name}",
            flush=True,
        )
    return rules, {"split_file": file.name} | facts


def _shown(perturbations: str | Sequence[str]) -> list[str]:
    entries = [perturbations] if isinstance(perturbations, str) else perturbations
    return [shown(entry) for entry in entries]


def _found(table: pd.DataFrame) -> list[str]:
    """Return what to predict where nothing is requested: what is tested, else what trains."""
    tested = table["role"] == TEST
    wanted = tested if tested.any() else table["role"].isin((TRAIN, VAL))
    return sorted(set(table.loc[wanted, "perturbation"]))


def _other_names(asked: Sequence[str], uri: str) -> dict[str, list[str]]:
    """Return the symbols that the requested genes may stand for, of those that are no symbols."""
    if not uri:
        return {}
    with fetched(uri) as path:
        table = read_aliases(path, shown(uri))
    genes = sorted({gene for label in asked for gene in genes_of(label)})
    found = {gene: meanings_of(gene, table) for gene in genes}
    return {gene: sorted(symbols) for gene, symbols in found.items() if symbols != {gene}}


def _asked_for(asked: Sequence[str], table: pd.DataFrame) -> dict[str, int]:
    """Count the requested perturbations and those measured in the test line."""
    measured = set(table.loc[table["role"] == TEST, "perturbation"])
    return {
        "asked_for": len(asked),
        "asked_for_measured": len(measured.intersection(asked)),
        "asked_for_not_measured": len(set(asked) - measured),
    }


def _check_sets(summary: dict[str, Any], rules: Rules, *, trains: bool) -> None:
    """Check that no set is empty that must not be; a test line may have control cells alone."""
    if trains and not summary["training_cells"]:
        validation = f"{summary['validation_cells']} cells"
        raise InputError(nothing_trains(summary["train_lines"], validation))
    if rules.has(VAL) and not summary["validation_cells"]:
        raise InputError(
            "the validation set is empty: the lines and perturbations meant for it have no cells; "
            "name others, or give val_fraction without a val list in the split file"
        )
    if not summary["test_cells"] and NOT_IN_TRAINING in summary["unused_because"]:
        raise InputError(nothing_shared(rules.test_line))
    if not summary["test_cells"] and rules.lines[rules.test_line] != TEST:
        raise InputError(
            f"the test set is empty: test line '{rules.test_line}' has no cells of what the split "
            "file lists for it; list others, or name what to predict in perturbations"
        )
