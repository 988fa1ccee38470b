"""Plots of what was expected beside what was reached."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from components.evaluate.pages.plots import MANY_POINTS, PIXELS
from components.shared.telling.svg import INK, MODEL, OTHER, QUIET
from components.shared.telling.svg import plot as plot_of


def expected_against_reached(table: pd.DataFrame, bins: pd.DataFrame) -> str:
    """Draw what was reached over what was expected, one point per perturbation.

    Args:
        table: `expected`, `reached`, `trained` (bool), index = perturbation, no NaN.
        bins: means of both over perturbations with like expectations, `expected`, `reached`.
    """
    with plot_of(3.9) as plot:
        axes = plot.axes
        values = table[["expected", "reached"]].to_numpy(float)
        low, high = float(min(values.min(), 0)), float(max(values.max(), 0.1))
        pad = 0.05 * (high - low)
        ends = (low - pad, high + pad)
        axes.plot(ends, ends, color=QUIET, linewidth=1, zorder=0)
        many = len(table) > MANY_POINTS
        groups = (("a training line has it", MODEL, True), ("none has it", OTHER, False))
        for title, colour, trained in groups:
            part = table[table["trained"] == trained]
            if not len(part):
                continue
            label = f"{title} ({len(part)})"
            points = axes.scatter(
                part["expected"],
                part["reached"],
                s=14,
                color=PIXELS if many and trained else colour,
                alpha=0.55,
                linewidths=0,
                rasterized=many,
                label=label,
            )
            if not many:
                plot.name(points, part.index)
        if len(bins) > 1:
            axes.plot(
                bins["expected"],
                bins["reached"],
                "D-",
                color=INK,
                markersize=5,
                linewidth=1.2,
                label="means of similar expectations",
            )
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_aspect("equal")
        axes.set_xlabel("expected pearson_delta")
        axes.set_ylabel("achieved")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), handletextpad=0.3)
    return plot.svg


def surest_curve(curves: Mapping[str, pd.DataFrame]) -> str:
    """Draw the mean of what was reached when only the surest are kept.

    Args:
        curves: `kept` (share, ascending) and `reached` (mean over those), by title.
    """
    with plot_of(3.2) as plot:
        axes = plot.axes
        styles = ((MODEL, "-"), (OTHER, "--"))
        for (title, curve), (colour, style) in zip(curves.items(), styles, strict=False):
            axes.plot(100 * curve["kept"], curve["reached"], style, color=colour, label=title)
            axes.axhline(float(curve["reached"].iloc[-1]), color=QUIET, linewidth=0.8, zorder=0)
        axes.set_xlim(0, 100)
        axes.set_xticks(np.arange(0, 101, 20), [f"{share} %" for share in range(0, 101, 20)])
        axes.set_xlabel("perturbations kept, most confident first")
        axes.set_ylabel("mean achieved pearson_delta")
        if len(curves) > 1:
            axes.legend()
    return plot.svg
