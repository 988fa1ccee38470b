"""Markdown as every page shows it alike: KFP's takes the underscores of a name for emphasis."""

import re
from collections.abc import Sequence

CODE = re.compile(r"(`+[^`]+`+)")
FENCE = re.compile(r"\s*(```|~~~)")
NAME = re.compile(r"[\w./:@=+-]*\w_\w[\w./:@=+-]*")
TRAILING = "./:@=+-"


def names_as_code(text: str) -> str:
    """Return a page with every name that has an underscore between backticks, where it is bare."""
    lines, fenced = [], False
    for line in text.split("\n"):
        fence = FENCE.match(line) is not None
        fenced = fenced != fence
        lines.append(line if fenced or fence else _marked(line))
    return "\n".join(lines)


def _marked(line: str) -> str:
    parts = CODE.split(line)
    parts[::2] = [NAME.sub(_code, part) for part in parts[::2]]
    return "".join(parts)


def _code(found: re.Match[str]) -> str:
    name = found[0].rstrip(TRAILING)
    return f"`{name}`{found[0][len(name) :]}"


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Return a text that cannot bring markup along."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as plain text, its first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
