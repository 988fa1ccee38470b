"""The report's plots: inline SVG whose colours are the page's own, so that dark is dark."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from components.evaluate.measures.metrics import EVERY, LOWER
from components.shared.telling.svg import INK, MODEL, OTHER, QUIET, SOFT, Plot
from components.shared.telling.svg import plot as plot_of

Floats = NDArray[np.float64]

PIXELS = "#3f87c7"
"""Of points that are drawn as pixels: legible on white and on black."""
MANY_POINTS = 1500
"""From here on points are pixels inside the SVG, or the page grows heavy."""
NAMED = 40
"""So many points farthest out, along either axis, keep names where the others are pixels."""
FEW_POINTS = 60
"""Up to here a distribution shows each perturbation."""


def distributions(values: Mapping[str, pd.Series], metric: str) -> str:
    """Draw a metric's distribution over perturbations, a row each: quartiles, mean, 5 to 95 %.

    ``values`` are by perturbation (NaN is left out), by the row's title; the model's first.
    """
    with plot_of(0.27 * len(values) + 0.75) as plot:
        axes, rng = plot.axes, np.random.default_rng(0)
        known = {row: found.dropna() for row, found in enumerate(values.values())}
        for row, found in known.items():
            if not len(found):
                beside = axes.get_yaxis_transform()
                axes.text(0, row, "  no value", va="center", color=SOFT, transform=beside)
            elif len(found) <= FEW_POINTS:
                colour, jitter = _of_row(row), row + rng.uniform(-0.25, 0.25, len(found))
                points = axes.scatter(found, jitter, s=7, color=colour, alpha=0.45, linewidths=0)
                plot.name(points, found.index)
        _boxes(axes, {row: found.to_numpy() for row, found in known.items() if len(found)})
        axes.set_yticks(range(len(values)), list(values))
        axes.set(ylim=(len(values) - 0.45, -0.55), xlim=_span(values, metric), xlabel=metric)
        axes.grid(visible=False, axis="y")
    return plot.svg


def _of_row(row: int) -> str:
    return QUIET if row else MODEL


def _boxes(axes: Axes, values: Mapping[int, Floats]) -> None:
    """Draw a box a row: quartiles, median and mean, and whiskers from 5 to 95 %.

    Lines of a kind are one object; `Axes.boxplot` makes seven of each box, several times slower.
    """
    if not values:
        return
    y, box, cap = np.array(list(values)), 0.3, 0.15
    percentiles = [np.percentile(found, [5, 25, 50, 75, 95]) for found in values.values()]
    low, left, middle, right, high = np.transpose(percentiles)
    line: dict[str, Any] = {"colors": [_of_row(row) for row in values], "zorder": 3}
    for at, start, end in ((y, low, left), (y, right, high)):
        axes.hlines(at, start, end, linewidth=1.3, **line)
    for at in (y - box, y + box):
        axes.hlines(at, left, right, linewidth=1.3, **line)
    for at, half, width in (
        (low, cap, 1.3),
        (high, cap, 1.3),
        (left, box, 1.3),
        (right, box, 1.3),
        (middle, box, 2.4),
    ):
        axes.vlines(at, y - half, y + half, linewidth=width, **line)
    means = [found.mean() for found in values.values()]
    axes.scatter(means, y, s=4.5**2, marker="D", color=OTHER, linewidths=0, zorder=3)


def _span(values: Mapping[str, pd.Series], metric: str) -> tuple[float, float]:
    """Return the ends of a metric's axis: from nothing to all, however alike the values are.

    An axis of what values there are alone makes a difference of a hundredth look like one of half.
    """
    known = pd.concat([found.dropna() for found in values.values()])
    low, high = float(min(0.0, known.min())), float(known.max())
    if metric in EVERY and EVERY[metric].better != LOWER:
        high = max(high, 1.0)
    if not len(known):
        return 0.0, 1.0
    pad = 0.03 * (high - low or 1.0)
    return low - pad, high + pad


def model_against(
    model: pd.Series, baseline: pd.Series, seen: pd.Series, names: tuple[str, str]
) -> str:
    """Draw the model's metric against a baseline's, one point per perturbation.

    ``seen``: whether training had it; ``names``: labels of the axes, the baseline's first.
    """
    both = pd.DataFrame({"x": baseline, "y": model, "seen": seen}).dropna()
    with plot_of(3.9) as plot:
        _by_seen(plot, both)
        _diagonal(plot.axes, both[["x", "y"]].to_numpy(float))
        plot.axes.set(xlabel=names[0], ylabel=names[1])
    return plot.svg


def by_size(size: pd.Series, model: pd.Series, seen: pd.Series, names: tuple[str, str]) -> str:
    """Draw the model's metric against a count, one point per perturbation."""
    both = pd.DataFrame({"x": size, "y": model, "seen": seen}).dropna()
    with plot_of(3.9) as plot:
        plot.axes.axhline(0, color=QUIET, linewidth=1)
        plot.axes.set_xscale("symlog", linthresh=1)
        _by_seen(plot, both)
        ticks = [0, *(10**power for power in range(6))]
        plot.axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        plot.axes.set_xlim(-0.2, max(both["x"].max() * 1.5, 10) if len(both) else 10)
        plot.axes.set(xlabel=names[0], ylabel=names[1])
    return plot.svg


def effect(
    predicted: Floats, measured: Floats, own: list[int], title: str, genes: Sequence[str] = ()
) -> str:
    """Draw predicted against measured deltas [genes] of one perturbation, one point per gene.

    Units are log1p of counts per 10,000; ``own`` are the perturbed genes. Points have the names of
    ``genes``; where they are too many to be vector, those farthest out. Empty = no names.
    """
    with plot_of(3.6) as plot:
        axes = plot.axes
        _diagonal(axes, np.stack([measured, predicted]))
        axes.axhline(0, color=QUIET, linewidth=0.8)
        axes.axvline(0, color=QUIET, linewidth=0.8)
        many = len(measured) > MANY_POINTS
        colour = PIXELS if many else MODEL
        points = axes.scatter(
            measured, predicted, s=8, color=colour, alpha=0.4, linewidths=0, rasterized=many
        )
        if genes and many:
            reach = np.maximum(np.abs(measured), np.abs(predicted))
            far = np.argsort(-reach, kind="stable")[:NAMED].tolist()
            points = axes.scatter(measured[far], predicted[far], s=8, color=colour, linewidths=0)
            plot.name(points, [genes[n] for n in far])
        elif genes:
            plot.name(points, genes)
        if own:
            points = axes.scatter(measured[own], predicted[own], s=34, color=OTHER, zorder=3)
            if genes:
                plot.name(points, [genes[n] for n in own])
        axes.set(title=title, xlabel="measured change", ylabel="predicted change")
    return plot.svg


def calibration(tables: Mapping[str, pd.DataFrame]) -> str:
    """Draw how many genes of each bin of predicted FDR are really called; the model's first."""
    with plot_of(3.2) as plot:
        axes = plot.axes
        for number, (title, table) in enumerate(tables.items()):
            colour, style = _line(number)
            known = table["really_de"].notna()
            axes.plot(
                np.flatnonzero(known), table["really_de"][known], style, color=colour, label=title
            )
        edges = next(iter(tables.values()))
        axes.set_xticks(range(len(edges)), [f"{high:g}" for high in edges["high"]])
        axes.set(ylim=(-0.03, 1.03), ylabel="share really called")
        axes.set_xlabel("bin of predicted FDR, up to")
        axes.legend()
    return plot.svg


def called_by_expression(lines: Mapping[str, pd.Series]) -> str:
    """Draw the share of genes that is called, by quintile of expression, the lowest first.

    ``lines`` are by title; the measured cells' first.
    """
    with plot_of(3.2) as plot:
        axes = plot.axes
        for number, (title, share) in enumerate(lines.items()):
            colour, style = (INK, "s-") if not number else _line(number - 1)
            axes.plot(range(1, len(share) + 1), share, style, color=colour, label=title)
        axes.set_xticks(range(1, 1 + max(map(len, lines.values()))))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("quintile of genes by expression, lowest first")
        axes.set_ylabel("share of genes called")
        axes.legend()
    return plot.svg


def _line(number: int) -> tuple[str, str]:
    lines = ((MODEL, "o-"), (OTHER, "D--"), (QUIET, "^:"), (QUIET, "v-."))
    return lines[number % len(lines)]


def _by_seen(plot: Plot, both: pd.DataFrame) -> None:
    """Draw points (x, y) named as the rows, coloured by whether training had the perturbation."""
    _in_two(plot, both, ("seen in training", "not seen"), 0.65, many=False)
    if len(both):
        plot.axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handletextpad=0.1)


def _in_two(
    plot: Plot, both: pd.DataFrame, titles: tuple[str, str], alpha: float, *, many: bool
) -> None:
    """Draw points (x, y) of the `seen` and of the others, named as the rows unless too many."""
    groups = zip(titles, (PIXELS if many else MODEL, OTHER), (True, False), strict=True)
    for title, colour, flag in groups:
        part = both[both["seen"].astype(bool) == flag]
        if len(part):
            points = plot.axes.scatter(
                part["x"],
                part["y"],
                s=14,
                color=colour,
                alpha=alpha,
                linewidths=0,
                rasterized=many,
                label=f"{title} ({len(part)})",
            )
            if not many:
                plot.name(points, part.index)


def _diagonal(axes: Axes, values: Floats, margin: float = 0.06) -> None:
    if values.size:
        low, high = float(values.min()), float(values.max())
        pad = margin * (high - low or 1.0)
        ends = (low - pad, high + pad)
        axes.plot(ends, ends, color=QUIET, linewidth=1, zorder=0)
        axes.set(xlim=ends, ylim=ends)
    axes.set_aspect("equal")


def short(label: str, most: int = 22) -> str:
    """Return a label that fits a title."""
    return label if len(label) <= most else label[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def expected_against_reached(table: pd.DataFrame, bins: pd.DataFrame) -> str:
    """Draw what was reached over what was expected, one point per perturbation.

    ``table`` has `expected`, `reached` and `trained` (bool), index = perturbation, no NaN; ``bins``
    means of both over perturbations with like expectations.
    """
    with plot_of(3.9) as plot:
        axes = plot.axes
        values = table[["expected", "reached"]].to_numpy(float)
        _diagonal(axes, np.append(values, (0.0, 0.1)), 0.05)
        both = table.rename(columns={"expected": "x", "reached": "y", "trained": "seen"})
        titles = ("a training line has it", "none has it")
        _in_two(plot, both, titles, 0.55, many=len(table) > MANY_POINTS)
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
        axes.set(xlabel="expected pearson_delta", ylabel="achieved")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), handletextpad=0.3)
    return plot.svg


def surest_curve(curve: pd.DataFrame) -> str:
    """Draw the mean of what was reached when only the surest are kept.

    ``curve`` has `kept` (share, ascending) and `reached` (mean over those).
    """
    with plot_of(3.2) as plot:
        axes = plot.axes
        axes.plot(100 * curve["kept"], curve["reached"], color=MODEL)
        axes.axhline(float(curve["reached"].iloc[-1]), color=QUIET, linewidth=0.8, zorder=0)
        axes.set_xlim(0, 100)
        axes.set_xticks(np.arange(0, 101, 20), [f"{share} %" for share in range(0, 101, 20)])
        axes.set_xlabel("perturbations kept, most confident first")
        axes.set_ylabel("mean achieved pearson_delta")
    return plot.svg
