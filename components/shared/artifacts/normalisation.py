"""The total that a cell's counts are scaled to before log1p: 10,000, as for scGPT, or another."""

from collections.abc import Mapping
from typing import Any

from components.shared.artifacts.perturbation_names import text_of
from components.shared.artifacts.settings import OWN
from components.shared.telling.errors import InputError

TARGET_SUM = "target_sum"
"""Option of ingest, and key in the summary of cells and in `args.json` of models."""
USUAL = 10_000
MEDIAN = "median"
"""Value of the option: the median over control cells of what they were measured with."""
MOST = 1_000_000
"""log1p of it is 13.8, below the 15 that ingest and cell-eval take for no log1p."""


def unit_of(total: int) -> str:
    """Return what expression is, in words."""
    return f"log1p of counts per {total:,}"


def read_target_sum(value: str | float) -> int | None:
    """Return the total that the option names, a whole number up to `MOST`; None for the median.

    Raises:
        InputError: it is neither a whole number from 1 to `MOST` nor `MEDIAN`.
    """
    text = text_of(value)
    if text == MEDIAN:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
        raise InputError(
            f"{TARGET_SUM}={value!r}: expected '{MEDIAN}', or a whole number from 1 to {MOST:,} "
            f"(usually {USUAL:,})"
        )
    return int(text)


def total_of_model(args: Mapping[str, Any]) -> int:
    """Return what a model's training cells were brought to, by its `args.json`; else as scGPT's."""
    own = args.get(OWN)
    total = own.get(TARGET_SUM) if isinstance(own, Mapping) else None
    return total if isinstance(total, int) else USUAL


def check_total(cells: int, model: int, where: object) -> None:
    """Check that cells are on the scale of the model that is applied to them.

    Both are what cells are, or are to be, brought to; 0 = their own median.
    """
    if cells != model:
        found = unit_of(cells) if cells else "log1p of counts per their own median"
        raise InputError(
            f"{where}: the model was trained on {unit_of(model)}, and these cells are {found}; "
            f"ingest them with ingest_options.{TARGET_SUM}={model}"
        )


def check_asked(ingest_options: Mapping[str, Any], model: Mapping[str, Any], where: object) -> None:
    """Check, before cells are read, that they will be on the scale of the model."""
    asked = read_target_sum(ingest_options.get(TARGET_SUM, USUAL))
    check_total(asked or 0, model.get(TARGET_SUM, USUAL), where)
