"""Requests that are made again while the other side may come round."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from components.shared.telling.errors import say

LONGEST_WAIT = 60.0
"""Seconds, whatever was asked for: a task that waits longer looks as if it hung."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes that another try may fix."""
T = TypeVar("T")


class PassingError(Exception):
    """A fault that another try may fix; ``wait`` = seconds the server asked to wait."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait, 0 if it does not say."""
    wait = headers.get("Retry-After", "")
    return float(wait) if wait.isdigit() else 0.0


def trying(
    name: str,
    call: Callable[[], T],
    *,
    tries: int,
    first_wait: float,
    size: Callable[[], int] = lambda: 0,
) -> T:
    """Return what ``call`` does, made again after each `PassingError`, with growing waits.

    The call must be one that may be made twice, since an answer can get lost. After so many
    ``tries`` in a row that bring nothing new (``size`` tells how much is here) the last error is
    raised. The ``first_wait``, in seconds, is doubled for each further one.
    """
    failures = 0
    while True:
        before = size()
        try:
            return call()
        except PassingError as fault:
            failures = 1 if size() > before else failures + 1
            if failures >= tries:
                raise
            wait = min(max(first_wait * 2 ** (failures - 1), fault.wait), LONGEST_WAIT)
            at = f" at {size()} bytes" if size() else ""
            say(f"{name}: {fault}{at}; trying again in {wait:g} s")
            time.sleep(wait)
