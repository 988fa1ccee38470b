"""Long work shows itself: a bar on a terminal, plain lines elsewhere (a pod's log)."""

import re
import sys
from typing import Any

from components.shared.telling.errors import say

SECONDS_BETWEEN_LINES = 10.0
NOTHING_YET = re.compile(r"\| 0(\.0+)?/")
"""In the text of a bar at its start, which as a line of a log says nothing."""


class Lines:
    """A stream for tqdm that writes each refresh as a line of its own."""

    def write(self, text: str) -> None:
        """Print the text of one refresh, without the carriage return tqdm puts before it."""
        line = text.strip("\r\n ")
        if line and not NOTHING_YET.search(line):
            say(line)

    def flush(self) -> None:
        """Do nothing; every line is flushed as it is written."""


class Silent:
    """Stands in for a bar where tqdm is not installed: training itself needs no more than torch."""

    initial = n = 0

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def update(self, n: float = 1) -> None:
        """Do nothing."""


def as_lines(columns: int) -> dict[str, Any]:
    """Return the options by which a tqdm bar prints lines of so many columns off a terminal."""
    if sys.stderr.isatty():
        return {}
    own = {"file": Lines(), "mininterval": SECONDS_BETWEEN_LINES}
    return own | {"ncols": columns, "ascii": True}


def bar(*, total: int, what: str, unit: str) -> Any:
    """Return a tqdm bar (rate, time left) for ``total`` units; it prints lines off a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return Silent()
    # 76 are with the indent of a task a terminal's 80.
    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, **as_lines(columns=76))
