"""Shared by the pages of reports: the stylesheet, and the format of numbers and names."""

import re
from importlib.resources import files

import pandas as pd
from markupsafe import Markup, escape

CONTENTS = "<!-- contents -->"


def page_css() -> str:
    """Return the stylesheet of every report: light and dark, for phones too."""
    return files("components.shared.telling").joinpath("page.css").read_text(encoding="utf-8")


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number for a table; a dash where there is none."""
    if value is None or pd.isna(value):
        return "\N{EN DASH}"
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """Format a difference."""
    return number(value, "+z.3f")


def share(value: float | None) -> str:
    """Format a share as per cent."""
    return number(value, ".1%")


def breakable(name: str) -> Markup:
    """Let a name break after its underscores, and nowhere else."""
    return Markup("_<wbr>").join(map(escape, name.split("_")))


def with_contents(page: str) -> str:
    """Return a page whose sections can be linked to, listed where it holds `CONTENTS`."""
    titles: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        titles.append(found[1])
        return f'<h2 id="part-{len(titles)}">{found[1]}</h2>'

    page = re.sub("<h2>(.*?)</h2>", numbered, page)
    links = "".join(
        f'<li><a href="#part-{number}">{title}</a></li>' for number, title in enumerate(titles, 1)
    )
    nav = f"<nav><ol>{links}</ol></nav>"
    return page.replace(CONTENTS, f"<details><summary>On this page</summary>{nav}</details>")
