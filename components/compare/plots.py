"""Plots of a comparison: scores by prior, and paired differences."""

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from components.compare.statistics import BETTER, WORSE
from components.shared.artifacts.evaluation import HEADLINE_METRIC
from components.shared.telling.svg import INK, MODEL, OTHER, QUIET, SOFT, plot

ROW, LINE = 0.34, 0.13
"""Inches of a row, and of each line of its name beyond the second."""
LONGEST = 30
"""Letters of a line of a name in a plot, where it stands whole: of two priors the ends differ."""
STYLES = ((OTHER, "--"), (QUIET, "-."), (QUIET, ":"), (INK, (0, (1, 3))))
"""Of the lines of what needs no model, and of the ceiling."""


def scores(rows: pd.DataFrame, baselines: Mapping[str, float]) -> str:
    """Draw the headline metric by prior: mean, interval over perturbations, one point per seed.

    ``rows``: name, mean, low, high and points (the means of single seeds); ``baselines`` are means
    of what needs no model, drawn as lines, by title.
    """
    with plot(_height(rows["name"]) + 1.5) as drawn:
        axes = drawn.axes
        for place, row in enumerate(rows.to_dict("records")):
            axes.plot([row["low"], row["high"]], [place] * 2, color=MODEL, linewidth=1.5)
            axes.scatter([row["mean"]], [place], color=MODEL, s=34, zorder=3)
            points = np.array(row["points"], dtype=float)
            heights = np.full(len(points), place + 0.22)
            axes.scatter(points, heights, s=10, color=SOFT, linewidths=0)
        styles = zip(baselines.items(), STYLES, strict=False)
        for (title, value), (colour, style) in styles:
            axes.axvline(value, color=colour, linestyle=style, linewidth=1.2, label=title)
        _names(axes, list(rows["name"]))
        axes.set_xlabel(HEADLINE_METRIC)
        if baselines:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.35, 1.0), fontsize=7.5)
    return drawn.svg


def forest(rows: pd.DataFrame) -> str:
    """Draw paired differences in the headline metric (difference, low, high, verdict) by name."""
    colours = {BETTER: MODEL, WORSE: OTHER}
    with plot(_height(rows["name"]) + 0.8) as drawn:
        axes = drawn.axes
        axes.axvline(0, color=QUIET, linewidth=1)
        for place, row in enumerate(rows.to_dict("records")):
            colour = colours.get(row["verdict"], QUIET)
            axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=1.5)
            axes.scatter([row["difference"]], [place], color=colour, s=30, zorder=3)
        _names(axes, list(rows["name"]))
        axes.set_xlabel(f"difference in {HEADLINE_METRIC}")
    return drawn.svg


def _height(names: Iterable[str]) -> float:
    """Return the inches that rows of these names take, each as high as the longest name's."""
    lines = [len(textwrap.wrap(name, LONGEST)) for name in names]
    return len(lines) * (ROW + LINE * max(0, max(lines, default=0) - 2))


def _names(axes, names: list[str]) -> None:  # type: ignore[no-untyped-def]
    labels = [textwrap.fill(name, LONGEST) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=7.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
