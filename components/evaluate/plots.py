"""The report's plots, each a self-contained SVG; points of large plots are drawn as pixels."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MODEL_COLOUR = "#1b5e9b"
OTHER_COLOUR = "#d9822b"
QUIET_COLOUR = "#8a94a0"
MANY_POINTS = 300
"""From here on points are pixels inside the SVG, or a page of 1,000 perturbations grows heavy."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": "#333d47",
    "axes.titlesize": 10,
    "xtick.color": "#56616c",
    "ytick.color": "#56616c",
    "axes.grid": True,
    "grid.color": "#e8ebee",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "evaluate",  # the same numbers give the same file
    "text.parse_math": False,  # labels are the user's, a $ among them is a dollar
}


def data_uri(figure: Figure) -> str:
    """Return a figure as the data URI of an SVG image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=150, bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def distributions(values: Mapping[str, pd.Series], metric: str, rest: str = QUIET_COLOUR) -> str:
    """Draw a metric's distribution over perturbations, a row each.

    Args:
        values: metric by perturbation (NaN is left out), by the row's title.
        metric: its name, for the axis.
        rest: colour of all rows but the first, which has the model's.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.62 * len(values) + 0.7))
        axes = figure.add_subplot()
        names = list(values)
        rng = np.random.default_rng(0)
        axes.axvline(0, color="#b9c0c7", linewidth=1)
        for row, name in enumerate(names):
            found = values[name].dropna().to_numpy()
            colour = rest if row else MODEL_COLOUR
            jitter = row + rng.uniform(-0.24, 0.24, len(found))
            _points(axes, found, jitter, colour, alpha=0.22 if len(found) > MANY_POINTS else 0.45)
            if len(found):
                axes.boxplot(
                    found,
                    positions=[row],
                    orientation="horizontal",
                    widths=0.55,
                    showfliers=False,
                    manage_ticks=False,
                    boxprops={"color": colour},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                    medianprops={"color": colour, "linewidth": 2.4},
                    zorder=3,
                )
            else:
                axes.text(0, row, "  no value", va="center", color=colour)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.set_xlabel(f"{metric} of each perturbation (box: quartiles and median)")
        axes.grid(visible=False, axis="y")
        return data_uri(figure)


def model_against(
    model: pd.Series, baseline: pd.Series, seen: pd.Series, metric: str, title: str
) -> str:
    """Draw the model's metric against a baseline's, a point a perturbation."""
    both = pd.DataFrame({"model": model, "baseline": baseline, "seen": seen}).dropna()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.2))
        axes = figure.add_subplot()
        _by_seen(axes, both["baseline"], both["model"], both["seen"])
        _diagonal(axes, both[["baseline", "model"]].to_numpy(float))
        axes.set_xlabel(f"{metric}, {title}")
        axes.set_ylabel(f"{metric}, model")
        return data_uri(figure)


def effect_size(size: pd.Series, model: pd.Series, seen: pd.Series, metric: str) -> str:
    """Draw the metric against how strong the measured effect is (mean absolute delta)."""
    both = pd.DataFrame({"size": size, "model": model, "seen": seen}).dropna()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.2))
        axes = figure.add_subplot()
        axes.axhline(0, color="#b9c0c7", linewidth=1)
        _by_seen(axes, both["size"], both["model"], both["seen"])
        axes.set_xlabel("measured effect: mean |delta| over genes")
        axes.set_ylabel(f"{metric}, model")
        return data_uri(figure)


def effects(
    chosen: list[tuple[str, str, float]], predicted: Floats, measured: Floats, genes: list[str]
) -> str:
    """Draw predicted against measured deltas over genes, a panel a perturbation.

    Args:
        chosen: (what it is, perturbation, its metric) of each panel.
        predicted: deltas, shape [panels, genes], log1p of counts per 10,000.
        measured: the same of the measured cells.
        genes: names of the columns; the perturbed genes among them are marked.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(3.05 * len(chosen), 3.2))
        panels = figure.subplots(1, len(chosen), squeeze=False)[0]
        for axes, (what, label, value), x, y in zip(
            panels, chosen, measured, predicted, strict=True
        ):
            axes.axhline(0, color="#b9c0c7", linewidth=1)
            axes.axvline(0, color="#b9c0c7", linewidth=1)
            _points(axes, x, y, MODEL_COLOUR, alpha=0.35)
            own = [number for number, gene in enumerate(genes) if gene in label.split("+")]
            if own:
                axes.scatter(x[own], y[own], s=34, color=OTHER_COLOUR, zorder=3)
            axes.set_title(f"{what}: {_short(label)} ({value:.2f})")
            axes.set_xlabel("measured delta")
        panels[0].set_ylabel("predicted delta")
        figure.tight_layout()
        return data_uri(figure)


def _points(axes: Axes, x: Floats, y: Floats, colour: str, *, alpha: float) -> None:
    many = len(x) > MANY_POINTS
    axes.scatter(
        x, y, s=9 if many else 20, color=colour, alpha=alpha, linewidths=0, rasterized=many
    )


def _by_seen(axes: Axes, x: pd.Series, y: pd.Series, seen: pd.Series) -> None:
    """Draw points coloured by whether training had the perturbation, with a legend."""
    many = len(x) > MANY_POINTS
    groups = (("seen in training", MODEL_COLOUR, True), ("not seen", OTHER_COLOUR, False))
    for label, colour, flag in groups:
        part = seen.astype(bool) == flag
        if part.any():
            axes.scatter(
                x[part],
                y[part],
                s=12 if many else 24,
                color=colour,
                alpha=0.6,
                linewidths=0,
                rasterized=many,
                label=f"{label} ({int(part.sum())})",
            )
    if len(x):
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            fontsize=9,
            handletextpad=0.1,
            columnspacing=1.0,
        )


def _diagonal(axes: Axes, values: Floats) -> None:
    if len(values):
        low, high = float(values.min()), float(values.max())
        pad = 0.06 * (high - low or 1.0)
        ends = (low - pad, high + pad)
        axes.plot(ends, ends, color="#b9c0c7", linewidth=1, zorder=0)
        axes.set_xlim(ends)
        axes.set_ylim(ends)
    axes.set_aspect("equal")


def _short(label: str, most: int = 18) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"
