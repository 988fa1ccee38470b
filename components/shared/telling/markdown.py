"""Markdown as every page shows it alike: KFP's takes the underscores of a name for emphasis."""

import re

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
