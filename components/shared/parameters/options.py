"""Options given as one dict: each checked against the stage function's own keywords."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from components.shared.artifacts.perturbation_names import text_of
from components.shared.telling.errors import InputError, nearest


def options_for(
    function: Callable[..., Any], given: Mapping[str, Any], *, allowed: tuple[str, ...], name: str
) -> dict[str, Any]:
    """Return ``given`` as keyword arguments of ``function``, in the types of its defaults.

    KFP's local runner hands whole numbers inside a dict over as floats, so 3.0 is taken for 3, and
    a number for the text that a column may hold.

    Raises:
        InputError: an unknown option, or a value of another type than the default's.
    """
    defaults = {key: inspect.signature(function).parameters[key].default for key in allowed}
    return checked_options(defaults, given, name=name)


def checked_options(
    defaults: Mapping[str, Any], given: Mapping[str, Any], *, name: str
) -> dict[str, Any]:
    """Return ``given`` in the types of its defaults, as `options_for`.

    Raises:
        InputError: an unknown option, or a value of another type than the default's.
    """
    options = {}
    for key, value in given.items():
        if key not in defaults:
            raise InputError(
                f"{name}: '{key}' is not an option{nearest(key, defaults)}; "
                f"options: {', '.join(defaults)}"
            )
        options[key] = _as(type(defaults[key]), value, f"{name}: {key}={value!r}")
    return options


def _as(kind: type, value: Any, where: str) -> Any:
    if kind is type(None) or kind is dict:
        kind = dict
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str and number:
        return text_of(value)  # KFP has made 1.0 of a column's 1
    if kind is tuple:
        entries = value if isinstance(value, list | tuple) else [value]
        return tuple(_as(str, entry, where) for entry in entries)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: expected a value of type {kind.__name__}")
    return value
