"""The split stage: a role for every cell, so that nothing tested was trained on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.shared.artifact import SPLITS, writing
from components.shared.cells import Cells
from components.shared.downloads import shown
from components.shared.errors import InputError
from components.shared.splits import SPLITS_FILE, SUMMARY_FILE, VAL
from components.shared.storage import fetched
from components.split.labels import Labels
from components.split.roles import NOT_IN_TRAINING, assign
from components.split.rules import Rules, from_lines, with_validation
from components.split.split_file import read_split_file, rules_of
from components.split.summary import as_table, summarise


def split(
    cells: Path | str,
    target: Path | str,
    *,
    train_lines: list[str],
    test_line: str,
    val_line: str = "",
    val_fraction: float = 0.05,
    restrict_test_to_training: bool = True,
    halve_controls: bool = True,
    split_file: str = "",
    seed: int = 0,
) -> None:
    """Give every cell one role and write the splits artifact.

    Args:
        cells: cells artifact.
        target: folder to write; must not exist.
        train_lines: cell lines whose perturbed cells train; with a split file only their order
            counts.
        test_line: cell line whose perturbed cells test; with a split file it chooses one where the
            file has several.
        val_line: training line that validates; empty for the first one.
        val_fraction: fraction of that line's perturbations that validate, in that line only; 1
            holds the whole line out, 0 makes no validation set. Not used where a split file says
            what validates.
        restrict_test_to_training: test only perturbations that a training line has, as the
            reference run does.
        halve_controls: part each line's controls into basal and reference halves; without it they
            serve as both, as in the reference run.
        split_file: path or URI of a TOML file in cell-load's form; goes before the lines.
        seed: draws validation perturbations and halves. Draws are over sorted names: they do not
            depend on the order of cells, nor a line's on what other lines are used.

    Raises:
        InputError: a line, fraction or file that cannot be used, or a set that would be empty;
            nothing is written.
    """
    if not 0 <= val_fraction <= 1:
        raise InputError(f"val_fraction={val_fraction}: expected a number from 0 to 1")
    if seed < 0:
        raise InputError(f"seed={seed}: expected 0 or more")
    opened = Cells.open(cells)
    parameters = {
        "train_lines": train_lines,
        "test_line": test_line,
        "val_line": val_line,
        "val_fraction": val_fraction,
        "restrict_test_to_training": restrict_test_to_training,
        "halve_controls": halve_controls,
        "split_file": shown(split_file),
        "seed": seed,
    }
    inputs = {"cells": opened.artifact}
    with writing(target, SPLITS, parameters=parameters, inputs=inputs) as draft:
        labels = Labels.of(opened.obs)
        if split_file:
            rules, facts = _rules_of_file(split_file, labels, train_lines, test_line)
        else:
            rules, facts = from_lines(train_lines, test_line, labels), {}
        if not rules.has(VAL):
            rules = with_validation(
                rules, labels, val_line=val_line, val_fraction=val_fraction, seed=seed
            )
        elif val_line:
            print(f"split: note: val_line '{val_line}' gives way to the split file", flush=True)
        assigned = assign(
            labels,
            rules,
            restrict_test_to_training=restrict_test_to_training,
            halve_controls=halve_controls,
            seed=seed,
        )
        table = pd.DataFrame(
            {
                "cell": labels.cells,
                "cell_line": opened.obs["cell_line"].to_numpy(object),
                "perturbation": opened.obs["perturbation"].to_numpy(object),
                "role": assigned.roles,
            }
        )
        summary = summarise(table, rules, opened.genes)
        summary |= {"unused_because": assigned.unused} | facts
        _check_sets(summary, rules)
        table.to_parquet(draft.path / SPLITS_FILE, index=False)
        (draft.path / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
        draft.summary |= summary
        # Carried along for the model card: publish does not read the cells.
        source = {key: opened.artifact.summary.get(key) for key in ("source", "source_sha256")}
        draft.summary |= {key: value for key, value in source.items() if value}
    print(as_table(summary), flush=True)
    print(f"split: wrote {len(table):,} roles to {Path(target) / SPLITS_FILE}", flush=True)


def _rules_of_file(
    uri: str, labels: Labels, train_lines: Sequence[str], test_line: str
) -> tuple[Rules, dict[str, Any]]:
    with fetched(uri) as path:
        file = read_split_file(path, shown(uri))
    rules, facts = rules_of(file, labels, train_lines=list(train_lines), test_line=test_line)
    if test_line and rules.test_line != test_line:
        print(
            f"split: note: test_line '{test_line}' gives way to '{rules.test_line}' of {file.name}",
            flush=True,
        )
    return rules, {"split_file": file.name} | facts


def _check_sets(summary: dict[str, Any], rules: Rules) -> None:
    """Check that no set is empty.

    Raises:
        InputError: one is.
    """
    if not summary["training_cells"]:
        raise InputError(
            f"no perturbed cells are left to train on (training lines: "
            f"{', '.join(summary['train_lines']) or 'none'}; in validation: "
            f"{summary['validation_cells']} cells); give more train_lines or a smaller val_fraction"
        )
    if rules.has(VAL) and not summary["validation_cells"]:
        raise InputError(
            "the validation set is empty: the lines and perturbations meant for it have no cells; "
            "name others, or give val_fraction without a val list in the split file"
        )
    if not summary["test_cells"]:
        why = (
            "it shares no perturbation with the training lines; give other lines or set "
            "restrict_test_to_training false"
            if NOT_IN_TRAINING in summary["unused_because"]
            else "it has no perturbed cells to test; give another line"
        )
        raise InputError(f"the test set is empty: test line '{rules.test_line}': {why}")
