"""Numbers that are given as parameters."""

from numbers import Integral
from typing import Any

from components.shared.telling.errors import InputError

MOST = 2**53
"""KFP hands numbers over as doubles, and larger ones become others on the way."""


def whole_number(name: str, value: Any) -> int:
    """Return a whole number from 0 to `MOST`, which KFP may have made a float of.

    Raises:
        InputError: it is none.
    """
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise InputError(f"{name}={value!r}: expected 0 or more, a whole number")
    if value > MOST:
        raise InputError(f"{name}={value!r}: expected at most 2**53, {MOST}")
    return int(value)


def check_fraction(value: float) -> None:
    """Check `val_fraction`."""
    if not 0 <= value <= 1:
        raise InputError(f"val_fraction={value}: expected a number from 0 to 1")
