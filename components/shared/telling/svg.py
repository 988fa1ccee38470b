"""Plots for reports: inline SVG whose colours are the page's own, so that dark is dark."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PathCollection
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
PIXELS_PER_INCH = 150
"""Of what is drawn as pixels."""
POINT = "point:"
"""Stand-in addresses of points, with the number of the name that they become."""

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
        self.names: list[str] = []

    def name(self, points: PathCollection, names: Iterable[Any]) -> None:
        """Give each point a name that is shown when it is pointed at; they must be vector."""
        first = len(self.names)
        self.names += map(str, names)
        # matplotlib knows no titles, but it puts each point that has an address into a link.
        points.set_urls([f"{POINT}{number}" for number in range(first, len(self.names))])


@contextmanager
def plot(height: float) -> Iterator[Plot]:
    """Yield an empty plot, ``height`` inches high; its ``svg`` is there after the block."""
    with rc_context(STYLE):
        drawn = Plot(height)
        yield drawn
        drawn.svg = _titled(_inline(drawn.figure), drawn.names)


def _inline(figure: Figure) -> str:
    """Return a figure as an SVG element that takes colours and width from the page."""
    buffer = io.StringIO()
    figure.set_dpi(PIXELS_PER_INCH)
    # Figure.savefig would draw all of it twice.
    FigureCanvasSVG(figure).print_svg(buffer)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'<g id="[A-Za-z0-9_.]+">', "<g>", text)  # the same in every figure
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _titled(svg: str, names: list[str]) -> str:
    """Turn each link to a point's stand-in address into a group with the point's name."""

    def title(link: re.Match[str]) -> str:
        return f"<g><title>{escape(names[int(link[1])])}</title>"

    return re.sub(rf'<a xlink:href="{POINT}(\d+)"[^>]*>', title, svg).replace("</a>", "</g>")
