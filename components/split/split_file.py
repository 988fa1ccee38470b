"""Split files as they ship with the State dataset, in the TOML form of cell-load.

`[training]` makes every line train that no other table names; `[zeroshot]` gives a whole line
(`"dataset.cell_line" = "test"`) one role; `[fewshot."dataset.cell_line"]` lists perturbations for
`val` and `test`, and the line's others train. See ArcInstitute/cell-load, `ExperimentConfig` and
`PerturbationDataModule`. Two things differ, since here a cell has one role and a run one test line:
a perturbation listed for both val and test is test only, and of several test lines one is chosen.
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.shared.artifacts.perturbation import CONTROL, in_the_words_of
from components.shared.artifacts.perturbation_names import canonical_name, known_line, line_named
from components.shared.artifacts.splits import TEST, TRAIN, UNUSED, VAL
from components.shared.storage.digests import sha256_of
from components.shared.storage.documents import read_text
from components.shared.telling.errors import InputError, nearest, refusing, shortlist
from components.split.coded_labels import Labels
from components.split.role_rules import Rules

ROLES = (TRAIN, VAL, TEST)
LISTED_ROLES = (VAL, TEST)
TABLES = ("datasets", "training", "zeroshot", "fewshot")


@dataclass(frozen=True)
class SplitFile:
    """Content of a split file, before it is checked against the cells."""

    name: str
    sha256: str
    others_train: bool
    """Whether lines that are not named train."""
    whole: dict[str, str]
    """Line to role."""
    listed: dict[str, dict[str, str]]
    """Line to perturbation to role."""
    both: int
    """Perturbations that are listed for val and test, and test."""

    @property
    def test_lines(self) -> list[str]:
        """The lines with anything to test, sorted."""
        lines = [line for line, role in self.whole.items() if role == TEST]
        return sorted([*lines, *(line for line, by in self.listed.items() if TEST in by.values())])


def read_split_file(path: Path, name: str) -> SplitFile:
    """Read a split file; messages call it ``name``. No line may have two roles.

    Raises:
        InputError: not TOML, an unknown table or role, or a line with two roles.
    """
    hint = "expected cell-load's split form"
    text = read_text(path, name, hint)
    # A number may have too many digits to be one, which is a ValueError.
    with refusing((ValueError, RecursionError), f"{name}: not TOML", f"; {hint}"):
        document = tomllib.loads(text)
    for table, value in document.items():
        # Numbers and strings beside the tables are settings of cell-load's loader.
        if isinstance(value, dict) and table not in TABLES:
            raise InputError(
                f"{name}: table [{table}] is unknown{nearest(table, TABLES)}; "
                f"allowed: {', '.join(TABLES)}"
            )
        if table in TABLES and not isinstance(value, dict):
            raise InputError(f"{name}: '{table}' is {value!r}; expected a table [{table}]")
    training = document.get("training", {})
    for dataset, role in training.items():
        if role != TRAIN:
            raise InputError(f"{name}: [training] {dataset} = {role!r}; expected 'train'")
    datasets = {*document.get("datasets", {}), *training}
    whole = _whole(document.get("zeroshot", {}), datasets, name)
    listed, both = _listed(document.get("fewshot", {}), datasets, name)
    for line in listed:
        if line in whole:
            raise InputError(
                f"{name}: line '{line}' is in both [zeroshot] and [fewshot]; leave one of them"
            )
    return SplitFile(name, sha256_of(path), bool(training), whole, listed, both)


def _line_of(key: str, datasets: set[str], where: str) -> str:
    """Return the cell line of ``dataset.cell_line``; the dataset's name is not held to anything."""
    fits = [dataset for dataset in datasets if key.startswith(f"{dataset}.")]
    line = key[len(max(fits, key=len)) + 1 :] if fits else key.partition(".")[2]
    if not line:
        raise InputError(f"{where}: key '{key}'; expected \"dataset.cell_line\" in quotes")
    return line


def _whole(table: dict[str, Any], datasets: set[str], name: str) -> dict[str, str]:
    whole: dict[str, str] = {}
    for key, role in table.items():
        line = _line_of(key, datasets, f"{name}: [zeroshot]")
        if role not in ROLES:
            raise InputError(
                f'{name}: [zeroshot] "{key}" = {role!r}; expected one of {", ".join(ROLES)}'
            )
        if whole.setdefault(line, role) != role:
            raise InputError(
                f"{name}: [zeroshot] line '{line}' is '{whole[line]}' in one dataset and '{role}' "
                "in another; the cells have one line of that name"
            )
    return whole


def _listed(
    table: dict[str, Any], datasets: set[str], name: str
) -> tuple[dict[str, dict[str, str]], int]:
    """Return roles of listed perturbations by line, and how many are listed for val and test."""
    listed: dict[str, dict[str, str]] = {}
    both = 0
    for key, lists in table.items():
        line = _line_of(key, datasets, f"{name}: [fewshot]")
        where = f'{name}: [fewshot."{key}"]'
        if line in listed:
            raise InputError(f"{where}: line '{line}' comes twice; the cells have one of that name")
        if not isinstance(lists, dict):
            raise InputError(f"{where} is {lists!r}; expected a table with lists val and test")
        for role, names in lists.items():
            if role not in LISTED_ROLES:
                raise InputError(
                    f"{where}: '{role}' is unknown; expected val or test (all others train)"
                )
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise InputError(f"{where}: {role} = {names!r:.60}; expected a list of names")
        val, test = (set(lists.get(role, ())) - {CONTROL} for role in LISTED_ROLES)
        both += len(val & test)
        # Validation chooses the checkpoint, so a test perturbation must not take part in it.
        listed[line] = dict.fromkeys(sorted(val), VAL) | dict.fromkeys(sorted(test), TEST)
    return listed, both


def rules_of(
    file: SplitFile, labels: Labels, *, train_lines: list[str], test_line: str
) -> tuple[Rules, dict[str, Any]]:
    """Hold a split file against the cells; return its rules and facts for the summary.

    ``train_lines`` only orders the lines that the file makes train (the first one validates);
    ``test_line`` chooses among several test lines; else the file's goes before it.

    Raises:
        InputError: a line that the cells lack, no test line, or several and none chosen.
    """
    file = _in_the_words_of(file, labels)
    for line in [*file.whole, *file.listed]:
        known_line(line, labels.lines, file.name)
    train_lines = [line_named(line, labels.lines) for line in train_lines]
    test = _test_line(file, line_named(test_line, labels.lines))
    roles = dict(file.whole) | dict.fromkeys(file.listed, TRAIN)
    if file.others_train:
        roles = dict.fromkeys(labels.lines, TRAIN) | roles
    # Whole lines that only another run would test, and what that run would test in part of a line.
    roles = {line: role for line, role in roles.items() if role != TEST or line == test}
    listed = {
        line: {
            label: UNUSED if role == TEST and line != test else role for label, role in by.items()
        }
        for line, by in file.listed.items()
    }
    given = {line: i for i, line in enumerate(train_lines)}
    order = sorted(roles, key=lambda line: (line == test, given.get(line, len(given)), line))
    absent = {
        line: sorted(set(by) - set(labels.perturbations_of(line))) for line, by in listed.items()
    }
    facts = {
        "split_file_sha256": file.sha256,
        "listed_perturbations": sum(len(by) for by in listed.values()),
        "listed_perturbations_absent": sum(len(names) for names in absent.values()),
        "listed_perturbations_absent_names": {line: n for line, n in absent.items() if n},
        "listed_for_val_and_test": file.both,
    }
    return Rules(test, {line: roles[line] for line in order}, listed), facts


def _in_the_words_of(file: SplitFile, labels: Labels) -> SplitFile:
    """Return the file with lines and perturbations under the names that the cells have."""
    names = [*file.whole, *file.listed]
    line_of = {line: line_named(line, labels.lines) for line in names}
    if twice := [line for line in names if list(line_of.values()).count(line_of[line]) > 1]:
        raise InputError(f"{file.name}: lines {shortlist(twice)} are one; name it once")
    listed: dict[str, dict[str, str]] = {}
    for line, by in file.listed.items():
        found = listed.setdefault(line_of[line], {})
        for label, role in by.items():
            [name] = in_the_words_of(labels.perturbations, [canonical_name(label)])
            if found.setdefault(name, role) != role:
                # As where both lists have the very same name.
                found[name] = TEST
    whole = {line_of[line]: role for line, role in file.whole.items()}
    return replace(file, whole=whole, listed=listed)


def _test_line(file: SplitFile, given: str) -> str:
    found = file.test_lines
    if not found:
        raise InputError(
            f'{file.name}: names no test line; expected [zeroshot] "dataset.cell_line" = "test" '
            "or a test list under [fewshot]"
        )
    if len(found) > 1 and given not in found:
        raise InputError(
            f"{file.name}: tests {len(found)} lines ({shortlist(found)}), a run predicts one; set "
            f"test_line to one of them, got '{given}'"
        )
    return given if given in found else found[0]
