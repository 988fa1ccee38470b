"""Which role a cell line's perturbed cells get: from the arguments, or refined by a draw."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

from components.shared.artifacts.perturbation_names import known_line, text_of
from components.shared.artifacts.splits import TEST, TRAIN, VAL
from components.shared.parameters.conditions import check_lines
from components.shared.parameters.roles import validating
from components.split.coded_labels import Labels, generator


@dataclass(frozen=True)
class Rules:
    """A role for each used line, and for single perturbations of a line where it differs."""

    test_line: str
    lines: dict[str, str]
    """Used line to the role of its perturbed cells, training lines in the order given."""
    listed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Line to perturbation to role; goes before ``lines``."""

    @property
    def train_lines(self) -> list[str]:
        """The lines, other than the test line, whose cells train unless they are listed."""
        return [
            line for line, role in self.lines.items() if role == TRAIN and line != self.test_line
        ]

    def has(self, role: str) -> bool:
        """Return whether any line or listed perturbation has ``role``."""
        roles = [*self.lines.values(), *(r for by in self.listed.values() for r in by.values())]
        return role in roles


def from_lines(train_lines: Sequence[str], test_line: str, labels: Labels) -> Rules:
    """Return the rules that the arguments give: whole lines train, one line tests.

    Without training lines nothing is left but to apply a finished model to the test line, which
    need not be named where it is the only one. A line is refused that is unknown, given twice, or
    both.
    """
    if not train_lines and not text_of(test_line) and len(labels.lines) == 1:
        test_line = labels.lines[0]
    check_lines(train_lines, test_line, by_file=False)
    train_lines = [known_line(line, labels.lines, "train_lines") for line in train_lines]
    test_line = known_line(test_line, labels.lines, "test_line")
    return Rules(test_line, dict.fromkeys(train_lines, TRAIN) | {test_line: TEST})


def with_validation(
    rules: Rules, labels: Labels, *, val_line: str, val_fraction: float, seed: int
) -> Rules:
    """Draw the (line, perturbation) sets that validate; other lines still train on them.

    Without a line they are spread over all training lines, each perturbation in as few as possible:
    a score of few sets, or of one line, chooses an epoch by luck. With a line they are that line's,
    as in the reference run (5 % of K562's perturbations); a fraction of 1 holds a whole line out.
    The draw is over sorted names, so it does not depend on the order of cells.

    How many, and of which lines, `validating` says.

    Raises:
        InputError: a line that does not train, or that has no perturbed cell.
    """
    names = {
        line: [p for p in labels.perturbations_of(line) if p not in rules.listed.get(line, {})]
        for line in rules.train_lines
    }
    sets = {line: len(own) for line, own in names.items()}
    chosen, size = validating(sets, val_line=val_line, val_fraction=val_fraction)
    if not size:
        return rules
    drawn = _drawn({line: names[line] for line in chosen}, size, seed)
    listed = {
        line: rules.listed.get(line, {}) | dict.fromkeys(sorted(labels_of), VAL)
        for line, labels_of in drawn.items()
        if labels_of
    }
    return replace(rules, listed=rules.listed | listed)


def _drawn(names: dict[str, list[str]], size: int, seed: int) -> dict[str, list[str]]:
    """Draw ``size`` sets, the lines in turn, each a perturbation that was drawn least often."""
    left = {}
    for line, own in names.items():
        order = generator(seed, "validation", line).permutation(len(own))
        left[line] = [own[i] for i in order]
    drawn: dict[str, list[str]] = {line: [] for line in names}
    times: Counter[str] = Counter()
    for line in cycle(names):
        if not size:
            return drawn
        if left[line]:
            name = min(left[line], key=times.__getitem__)
            left[line].remove(name)
            drawn[line].append(name)
            times[name] += 1
            size -= 1
    return drawn
