"""Facts in words, and for a terminal behind their titles."""

import textwrap

WIDTH = 80
"""Columns of a terminal."""
TITLE = 12
"""Columns of a title."""


def count(n: int, what: str) -> str:
    """Return ``1 cell``, ``2 cells``."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def titled(title: str, fact: str, *, before: str = "") -> list[str]:
    """Return the lines of a fact, the first behind its title and what stands ``before`` that."""
    head = f"{before}{title:<{TITLE - 1}} "
    return textwrap.wrap(
        " ".join(fact.split()),
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * (4 if before else TITLE),
        break_long_words=False,
        break_on_hyphens=False,
    )
