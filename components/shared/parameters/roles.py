"""What trains, validates and tests, as far as the look at a dataset and split have to agree."""

from collections.abc import Mapping, Sequence

from components.shared.artifacts.perturbation_names import line_named
from components.shared.telling.errors import InputError, nearest, shortlist

LEAST_SETS = 10
"""With twelve sets in place of one to four an epoch was chosen whose test score was 0.05 higher."""
MOST_RAISED = 0.15
"""Share of the sets that `LEAST_SETS` may take away from training."""


def validating(
    sets: Mapping[str, int], *, val_line: str, val_fraction: float
) -> tuple[list[str], int]:
    """Return the lines of which sets validate, and how many sets, of all these lines together.

    Args:
        sets: number of sets of each training line, in the order given.
        val_line: training line that validates; empty for all, or for the first one with a fraction
            of 1.
        val_fraction: fraction of the sets, rounded; unless 0 it is at least one set, and without a
            line at least `LEAST_SETS` where those are no more than `MOST_RAISED` of all.

    Raises:
        InputError: a line that does not train, or that has no perturbed cell.
    """
    lines = list(sets)
    val_line = line_named(val_line, lines) if val_line else ""
    if val_line and val_line not in lines:
        raise InputError(
            f"val_line '{val_line}' is not a training line{nearest(val_line, lines)}; "
            f"training lines: {shortlist(lines, 12)}"
        )
    if not val_fraction or not lines:
        return [], 0
    chosen = [val_line or lines[0]] if val_line or val_fraction == 1 else lines
    total = sum(sets[line] for line in chosen)
    if not total:
        raise InputError(
            f"validation: {shortlist(chosen)} has no perturbed cells, so the validation set would "
            "be empty; give another val_line or val_fraction 0"
        )
    raised = 0 if val_line or val_fraction == 1 else min(LEAST_SETS, int(MOST_RAISED * total))
    return chosen, max(1, raised, round(val_fraction * total))


def nothing_trains(train_lines: Sequence[str], validation: str) -> str:
    """Return how it is told that nothing trains; ``validation`` says what validates."""
    return (
        f"no perturbed cells are left to train on (training lines: "
        f"{', '.join(train_lines) or 'none'}; in validation: {validation}); give more train_lines "
        "or a smaller val_fraction"
    )


def nothing_shared(test_line: str) -> str:
    """Return how it is told that the test line has nothing that trains."""
    return (
        f"the test set is empty: test line '{test_line}': it shares no perturbation with the "
        "training lines; name what to predict in perturbations, give other lines, or set "
        "restrict_test_to_training false in split_options, as where perturbations of one line are "
        "held out by a split file"
    )
