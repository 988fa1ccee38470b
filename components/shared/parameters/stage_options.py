"""The options that ingest and split take, each in one dict beside the pipelines' parameters."""

from collections.abc import Mapping
from typing import Any

from components.shared.artifacts.perturbation_names import text_of
from components.shared.telling.errors import InputError, nearest

INGEST_OPTIONS: dict[str, Any] = {
    "batch_column": "",
    "expression": "auto",
    "scale": "auto",
    "layer": "",
    "gene_column": "",
    "genes": "intersection",
    "target_sum": "10000",
    "obs_filter": None,
    "label_separator": "",
    "missing_is_control": False,
    "left_out": (),
    "least_knock_down": 0.0,
    "least_perturbation_knock_down": 0.0,
}
"""Keys of `ingest_options`, with their defaults."""
SPLIT_OPTIONS: dict[str, Any] = {
    "val_line": "",
    "val_fraction": 0.05,
    "restrict_test_to_training": True,
    "halve_controls": False,
    "split_file": "",
    "aliases": "",
}
"""Keys of `split_options`, with their defaults."""


def checked_options(
    defaults: Mapping[str, Any], given: Mapping[str, Any] | None, *, name: str
) -> dict[str, Any]:
    """Return what is given in the types of its defaults; an unknown option is refused.

    KFP's local runner hands whole numbers inside a dict over as floats: where text is meant, as in
    a column, 3.0 is taken for 3.
    """
    options = {}
    for key, value in (given or {}).items():
        if key not in defaults:
            raise InputError(
                f"{name}: '{key}' is not an option{nearest(key, defaults)}; "
                f"options: {', '.join(defaults)}"
            )
        options[key] = _as(type(defaults[key]), value, f"{name}: {key}={value!r}")
    return options


def _as(kind: type, value: Any, where: str) -> Any:
    kind = dict if kind is type(None) else kind
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str and number:
        return text_of(value)  # KFP has made 1.0 of a column's 1
    if kind is tuple:
        entries = value if isinstance(value, list | tuple) else [value]
        return tuple(_as(str, entry, where) for entry in entries)
    if kind is float and number:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: expected a value of type {kind.__name__}")
    return value
