"""How each file of a `dataset` is read: the options that are its own, else those of all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from components.shared.parameters.datasets import FILE, entries
from components.shared.reading.source import Reading
from components.shared.telling.errors import InputError, nearest

OPTIONS = {"control_label": "control"} | {
    name: name for name in Reading.__dataclass_fields__ if name != "control"
}
"""Keys of an entry of a list, and the field that each sets."""
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "control_label": ((str, list, tuple, int, float), "a label, or a list"),
    "obs_filter": ((Mapping,), "a dict"),
    "missing_is_control": ((bool,), "true or false"),
    "left_out": ((list, tuple), "a list of labels"),
    "least_knock_down": ((int, float), "a number"),
    "least_perturbation_knock_down": ((int, float), "a number"),
}
"""Types of options that are not text alone."""


def readings(dataset: str | Sequence[Any], given: Mapping[str, Any]) -> list[tuple[str, Reading]]:
    """Return each file of a `dataset` and how it is read.

    What it does not say is as ``given``, by the fields of a `Reading`; others in it are left.

    Raises:
        InputError: not a list of files, or an option that a file cannot have.
    """
    how = {name: given[name] for name in OPTIONS.values()}
    common = Reading(**how | {"obs_filter": given["obs_filter"] or {}})
    found = []
    for entry in entries(dataset):
        uri = entry.pop(FILE)
        own: dict[str, Any] = {}
        for name, value in entry.items():
            if name not in OPTIONS:
                raise InputError(
                    f"dataset: '{name}' is not an option of a file{nearest(name, OPTIONS)}; "
                    f"options: {', '.join(OPTIONS)}"
                )
            kinds, expected = KINDS.get(name, ((str,), "text in quotes"))
            if not isinstance(value, kinds):
                raise InputError(f"dataset: {name}={value!r}: expected {expected}")
            own[OPTIONS[name]] = value
        found.append((uri, replace(common, **own)))
    return found
