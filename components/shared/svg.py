"""Plots for reports: inline SVG whose colours are the page's own, so that dark is dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

VARIABLES = {
    "#010101": "ink",
    "#020202": "soft",
    "#030303": "line",
    "#040404": "model",
    "#050505": "other",
    "#060606": "quiet",
}
"""Stand-in colours to the variables of the page that they become."""
INK, SOFT, LINE, MODEL, OTHER, QUIET = VARIABLES
WIDTH = 4.3
"""Inches, of every figure: what a phone is wide."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "grid.color": LINE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "evaluate",  # the same numbers give the same file
    "text.parse_math": False,  # labels are the user's, a $ among them is a dollar
}


class Plot:
    """A figure of one panel that becomes an inline SVG."""

    svg = ""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), facecolor="none", layout="constrained")
        self.axes: Axes = self.figure.add_subplot()


@contextmanager
def plot(height: float) -> Iterator[Plot]:
    """Yield an empty plot, ``height`` inches high; its ``svg`` is there after the block."""
    with rc_context(STYLE):
        drawn = Plot(height)
        yield drawn
        drawn.svg = _inline(drawn.figure)


def _inline(figure: Figure) -> str:
    """Return a figure as an SVG element that takes colours and width from the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=150, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'<g id="[A-Za-z0-9_.]+">', "<g>", text)  # the same in every figure
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return text
