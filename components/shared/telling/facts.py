"""Facts for a terminal, each behind its title."""

import textwrap

WIDTH = 80
"""Columns of a terminal."""
TITLE = 12
"""Columns of a title."""


def titled(title: str, fact: str) -> list[str]:
    """Return the lines of a fact, those after the first without the title."""
    wrapped = textwrap.wrap(
        " ".join(fact.split()), WIDTH - TITLE, break_long_words=False, break_on_hyphens=False
    )
    return [f"{title if not i else '':<{TITLE}}{line}" for i, line in enumerate(wrapped)]
