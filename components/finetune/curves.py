"""Loss and validation curves as one HTML page: the KFP v2 UI draws none of its own."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
PANELS = (
    ("Single cells", "mean squared error", {"train_loss": "training", "val_loss": "validation"}),
    ("Mean change of sets", "weighted squared error", {"train_delta_loss": "training"}),
    (
        "Validation, pearson_delta",
        "nan-mean over sets",
        {
            "val_pearson_delta": "all",
            "val_pearson_delta_seen": "seen in another line",
            "val_pearson_delta_unseen": "unseen",
        },
    ),
    (
        "Validation, discrimination",
        "mean over sets; 0.5 = chance",
        {
            "val_discrimination": "all",
            "val_discrimination_seen": "seen in another line",
            "val_discrimination_unseen": "unseen",
        },
    ),
)
"""Title, axis and curves of each panel."""


def curves_page(title: str, history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    """Return a self-contained page with the curves of ``history`` (one mapping an epoch)."""
    last = history[-1]
    words = (
        f"{len(history)} epochs; best epoch {best_epoch} (dotted), chosen by pearson_delta; last "
        f"training loss {last['train_loss']:.4f}; {last['cells_per_second']:.0f} cells/s."
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}"
        f"</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>{words}</p>{_figure(history, best_epoch)}</body></html>"
    )


def _figure(history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    epochs = [row["epoch"] for row in history]
    panels = [
        (title, axis, shown)
        for title, axis, curves in PANELS
        if (shown := {name: what for name, what in curves.items() if _values(history, name)})
    ]
    columns = 2
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(10, 3.4 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, axis, curves) in zip(grid.flat, panels, strict=False):
        for name, what in curves.items():
            axes.plot(epochs, _values(history, name), marker="o", markersize=4, label=what)
        axes.axvline(best_epoch, color="grey", linestyle=":")
        axes.set(xlabel="epoch", ylabel=axis, title=title)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _values(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return a curve with NaN where it has no value; empty where it never has one."""
    values = [float("nan") if row[name] is None else row[name] for row in history]
    return values if any(value == value for value in values) else []
