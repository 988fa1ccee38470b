"""Loss and validation curves as one HTML page: the KFP v2 UI draws none of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from components.shared.telling.page import page_css
from components.shared.telling.svg import MODEL, OTHER, QUIET, plot

PANELS = (
    ("Single cells", "mean squared error", {"train_loss": "training", "val_loss": "validation"}),
    ("Mean change of sets", "weighted squared error", {"train_delta_loss": "training"}),
    (
        "Validation, pearson_delta",
        "mean over sets",
        {
            "val_pearson_delta": "all",
            "val_pearson_delta_seen": "seen in another line",
            "val_pearson_delta_unseen": "unseen",
        },
    ),
    (
        "Validation, discrimination",
        "mean; 0.5 = chance",
        {
            "val_discrimination": "all",
            "val_discrimination_seen": "seen in another line",
            "val_discrimination_unseen": "unseen",
        },
    ),
)
"""Title, axis and curves of each panel."""
LINES = (
    {"color": MODEL, "linestyle": "-", "marker": "o", "markersize": 6, "linewidth": 3.2},
    {"color": OTHER, "linestyle": "--", "marker": "D", "markersize": 3.5},
    {"color": QUIET, "linestyle": ":", "marker": "^", "markersize": 3.5},
)
"""Of a panel's curves: where two are the same, the later one lies on the earlier and both show."""
LEAST_SPAN = 0.05
"""Smallest range of a vertical axis: changes of a score that are smaller are mostly luck."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def curves_page(
    title: str, history: Sequence[Mapping[str, Any]], best_epoch: int, facts: Mapping[str, str]
) -> str:
    """Return a self-contained page with the curves of a fine-tune, one mapping an epoch.

    ``best_epoch`` was kept, 0 = what was known before training; ``facts`` identify the run.
    """
    last = history[-1]
    kept = (
        f"epoch {best_epoch} (dotted) kept, by pearson_delta in validation"
        if best_epoch
        else "none kept: no epoch was significantly better than known effects alone (dotted)"
    )
    words = (
        f"{last['epoch']} {'epoch' if last['epoch'] == 1 else 'epochs'}; {kept}; last "
        f"training loss {last['train_loss']:.4f}; {last['cells_per_second']:.0f} cells/s."
    )
    named = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    tab = " · ".join([title, *(str(value) for value in facts.values())])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(tab)}</title><style>{page_css()}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><dl class="facts">{named}</dl><p class="lead">{words}</p>'
        f'<section><div class="grid">{_figures(history, best_epoch)}</div></section>'
        "</main></body></html>"
    )


def _figures(history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    drawn = []
    for title, axis, curves in PANELS:
        shown = {name: what for name, what in curves.items() if _values(history, name)}
        if shown:
            svg = _panel(history, best_epoch, axis, shown)
            drawn.append(
                f'<figure role="img" aria-label="{title}, by epoch"><h3>{title}</h3>{svg}</figure>'
            )
    return "".join(drawn)


def _panel(
    history: Sequence[Mapping[str, Any]], best_epoch: int, axis: str, curves: Mapping[str, str]
) -> str:
    epochs = [row["epoch"] for row in history]
    with plot(2.7) as panel:
        for (name, what), line in zip(curves.items(), LINES, strict=False):
            panel.axes.plot(epochs, _values(history, name), label=what, **line)  # type: ignore[arg-type]
        panel.axes.axvline(best_epoch, color=QUIET, linestyle=":")
        panel.axes.set(xlabel="epoch", ylabel=axis)
        panel.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            panel.axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
        _keep_in_proportion(panel.axes)
    return panel.svg


def _keep_in_proportion(axes: Axes) -> None:
    """Widen an axis that would show luck in the third digit as if it were a curve."""
    low, high = axes.get_ylim()
    lacking = LEAST_SPAN - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _values(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return a curve with NaN where it has no value; empty where it never has one."""
    values = [float("nan") if row[name] is None else row[name] for row in history]
    return values if any(value == value for value in values) else []
