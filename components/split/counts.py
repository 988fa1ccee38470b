"""Counts of a split, as in the reference's card, and as a table to print."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from components.shared.artifacts.perturbation import genes_of
from components.shared.artifacts.splits import (
    CONTROL_BASAL,
    CONTROL_BOTH,
    CONTROL_REFERENCE,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
)
from components.shared.parameters.roles import LEAST_SETS
from components.shared.telling.markdown import aligned
from components.split.role_rules import Rules

NAMES = {TRAIN: "training", VAL: "validation", TEST: "test"}


def summarise(table: pd.DataFrame, rules: Rules, genes: list[str]) -> dict[str, Any]:
    """Count cells and perturbations by role."""
    cells = {role: table[table["role"] == role] for role in NAMES}
    labels = {role: sorted(set(part["perturbation"])) for role, part in cells.items()}
    trained = set(labels[TRAIN])
    own = {role: int((part["cell_line"] == rules.test_line).sum()) for role, part in cells.items()}
    few_shot = bool(own[TRAIN] or own[VAL])
    lines = [line for line in rules.lines if line != rules.test_line or few_shot]
    val_lines = [line for line in rules.lines if line in set(cells[VAL]["cell_line"])]
    sets = cells[VAL].groupby("cell_line", observed=True)["perturbation"].nunique()
    controls = table[table["cell_line"] == rules.test_line]["role"].value_counts()
    both = int(controls.get(CONTROL_BOTH, 0))
    per_line = cells[TRAIN]["cell_line"].value_counts()
    pools = table["role"].isin((CONTROL_BASAL, CONTROL_REFERENCE, CONTROL_BOTH))
    summary: dict[str, Any] = {
        "train_lines": lines,
        "val_line": ", ".join(val_lines),
        "test_line": rules.test_line,
        "few_shot": few_shot,
        "cells": len(table),
        "training_cells": len(cells[TRAIN]),
        "training_perturbations": len(labels[TRAIN]),
        "training_cells_per_line": {line: int(per_line.get(line, 0)) for line in lines},
        "training_controls": int((pools & table["cell_line"].isin(lines)).sum()),
        "validation_cells": len(cells[VAL]),
        "validation_perturbations": len(labels[VAL]),
        "validation_sets": {line: int(sets[line]) for line in val_lines},
        "test_cells": len(cells[TEST]),
        "test_perturbations": len(labels[TEST]),
        "test_perturbations_seen": sum(label in trained for label in labels[TEST]),
        "test_perturbations_unseen": sum(label not in trained for label in labels[TEST]),
        "test_controls_basal": int(controls.get(CONTROL_BASAL, 0)) + both,
        "test_controls_reference": int(controls.get(CONTROL_REFERENCE, 0)) + both,
        "controls_halved": not both,
        "test_line_training_cells": own[TRAIN],
        "test_line_validation_cells": own[VAL],
    }
    measured = set(genes)
    for role, name in NAMES.items():
        of = [genes_of(label) for label in labels[role]]
        summary[f"{name}_doubles"] = sum(len(targets) > 1 for targets in of)
        summary[f"{name}_perturbations_not_all_measured"] = sum(
            not set(targets) <= measured for targets in of
        )
    summary["unused_cells"] = int((table["role"] == UNUSED).sum())
    return summary


def _validation(sets: Mapping[str, int]) -> str:
    """Return what validates, as a line to print."""
    if not sets:
        return "validation sets: none"
    few = f" (fewer than {LEAST_SETS}: an epoch is chosen by little)"
    counts = ", ".join(f"{line} {n}" for line, n in sets.items())
    return f"validation sets: {counts}" + (few if sum(sets.values()) < LEAST_SETS else "")


def as_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as a small table for a person."""
    per_line = summary["training_cells_per_line"]
    rows: list[tuple[str, ...]] = [
        ("role", "cells", "perturbations", "doubles", "target not measured")
    ]
    for name in NAMES.values():
        keys = ("cells", "perturbations", "doubles", "perturbations_not_all_measured")
        rows.append((name, *(f"{summary[f'{name}_{key}']:,}" for key in keys)))
    lines = aligned(rows)
    if summary["asked_for_not_measured"] or not summary["asked_for"]:
        asked = f"{summary['asked_for']:,}" if summary["asked_for"] else "all the model knows"
        lines.append(
            f"requested: {asked}, measured in {summary['test_line']}: "
            f"{summary['asked_for_measured']:,}"
        )
    lines += [
        "training cells: " + (", ".join(f"{line} {n:,}" for line, n in per_line.items()) or "none"),
        _validation(summary["validation_sets"]),
        f"test line {summary['test_line']}: {summary['test_perturbations_seen']:,} perturbations "
        f"seen in training, {summary['test_perturbations_unseen']:,} unseen; controls "
        f"{summary['test_controls_basal']:,} basal, {summary['test_controls_reference']:,} "
        "reference" + ("" if summary["controls_halved"] else " (the same cells)"),
        f"unused cells: {summary['unused_cells']:,}"
        + "".join(f"; {why}: {n:,}" for why, n in summary["unused_because"].items()),
    ]
    if summary["few_shot"]:
        lines.append(
            f"FEW-SHOT: the split file has {summary['test_line_training_cells']:,} cells of the "
            f"test line in training and {summary['test_line_validation_cells']:,} in validation"
        )
    if summary.get("listed_perturbations_absent"):
        lines.append(
            f"the split file lists {summary['listed_perturbations_absent']:,} perturbations (of "
            f"{summary['listed_perturbations']:,}) that their line lacks"
        )
    return "\n".join(lines)
