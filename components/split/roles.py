"""From rules to one role a cell."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.splits import (
    CONTROL_BASAL,
    CONTROL_BOTH,
    CONTROL_REFERENCE,
    ROLES,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
)
from components.shared.telling.errors import InputError
from components.split.coded_labels import Ints, Labels, generator
from components.split.role_rules import Rules

CODE = {role: i for i, role in enumerate(ROLES)}

OTHER_LINE = "cell line not used"
OTHER_TEST = "test perturbation of a line that is not predicted"
NOT_IN_TRAINING = "test-line perturbation that no training line has"
NOT_ASKED_FOR = "test-line perturbation that was not requested"


def assign(
    labels: Labels,
    rules: Rules,
    *,
    asked: Collection[str] = (),
    restrict_test_to_training: bool,
    halve_controls: bool,
    seed: int,
) -> tuple[NDArray[np.object_], dict[str, int]]:
    """Give every cell exactly one role; a used line without controls is refused.

    ``asked`` are the perturbations to test, whether or not training has them; none = all there are,
    of which ``restrict_test_to_training`` leaves out those that no training line has, as the
    reference run does. ``halve_controls`` parts each line's controls into basal and reference
    halves; those of a test line without test cells stay whole.

    Returns:
        The roles, each one of `splits.ROLES`, [cells]; and each reason for which cells are unused,
        to their number.
    """
    table = _table(labels, rules)
    by_rule = table.copy()
    if asked:
        left_out, why = ~np.isin(labels.perturbations, list(asked)), NOT_ASKED_FOR
    else:
        training = (labels.counts > 0) & np.isin(table, [CODE[TRAIN], CODE[VAL]])
        elsewhere = np.asarray(training.any(axis=0))
        left_out, why = ~elsewhere & restrict_test_to_training, NOT_IN_TRAINING
    table[(table == CODE[TEST]) & left_out] = CODE[UNUSED]
    codes = table[labels.line_of, labels.perturbation_of]
    before = by_rule[labels.line_of, labels.perturbation_of]
    # Where nothing is tested, nothing is compared: every control can be a model's input.
    tested = bool((codes[~labels.is_control] == CODE[TEST]).any())
    for line in rules.lines:
        compared = tested or line != rules.test_line
        rows = np.flatnonzero(labels.is_control & (labels.line_of == labels.lines.index(line)))
        codes[rows] = _pools(labels.cells[rows], line, halve_controls and compared, seed)
    unused = codes == CODE[UNUSED]
    used_line = np.isin(np.array(labels.lines, dtype=object), list(rules.lines))[labels.line_of]
    reasons = {
        OTHER_LINE: int((unused & ~used_line).sum()),
        why: int((unused & used_line & (before == CODE[TEST])).sum()),
        OTHER_TEST: int((unused & used_line & (before == CODE[UNUSED])).sum()),
    }
    return np.array(ROLES, dtype=object)[codes], {why: n for why, n in reasons.items() if n}


def _table(labels: Labels, rules: Rules) -> NDArray[np.int8]:
    """Return the code of the role of each line and perturbation, [lines, perturbations]."""
    table = np.full((len(labels.lines), len(labels.perturbations)), CODE[UNUSED], dtype=np.int8)
    column = {name: i for i, name in enumerate(labels.perturbations)}
    for line, role in rules.lines.items():
        row = labels.lines.index(line)
        table[row] = CODE[role]
        for name, listed in rules.listed.get(line, {}).items():
            if name in column:
                table[row, column[name]] = CODE[listed]
    return table


def _pools(cells: NDArray[np.object_], line: str, halve: bool, seed: int) -> Ints:
    """Return the role codes of the control cells of one line, drawn over their sorted names."""
    if len(cells) < 1 + halve:
        raise InputError(
            f"cell line '{line}' has {len(cells)} control cells (perturbation '{CONTROL}'); "
            f"expected at least {1 + halve}"
            + (" to halve them, or halve_controls false" if halve and len(cells) else "")
        )
    if not halve:
        return np.full(len(cells), CODE[CONTROL_BOTH])
    codes = np.full(len(cells), CODE[CONTROL_REFERENCE])
    by_name = np.argsort(cells.astype(str), kind="stable")
    drawn = generator(seed, "controls", line).permutation(len(cells))
    codes[by_name[drawn[: (len(cells) + 1) // 2]]] = CODE[CONTROL_BASAL]
    return codes
