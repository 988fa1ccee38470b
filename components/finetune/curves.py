"""Loss and validation curves as one HTML page: the KFP v2 UI draws none of its own."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"


def curves_page(title: str, history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    """Return a self-contained page with the curves of ``history`` (one mapping an epoch)."""
    last = history[-1]
    words = (
        f"{len(history)} epochs; best epoch {best_epoch}; last training loss "
        f"{last['train_loss']:.4f}; {last['cells_per_second']:.0f} cells/s."
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}"
        f"</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>{words}</p>{_figure(history, best_epoch)}</body></html>"
    )


def _figure(history: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    epochs = [row["epoch"] for row in history]

    def values(name: str) -> list[float]:
        return [float("nan") if row[name] is None else row[name] for row in history]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(epochs, values("train_loss"), marker="o", label="training")
    left.plot(epochs, values("val_loss"), marker="o", label="validation")
    left.set(xlabel="epoch", ylabel="mean squared error", title="Loss")
    left.legend(frameon=False)
    right.plot(epochs, values("val_pearson_delta"), marker="o", color="tab:green")
    right.axvline(best_epoch, color="grey", linestyle=":", label=f"best epoch {best_epoch}")
    right.set(xlabel="epoch", ylabel="pearson_delta", title="Validation, nan-mean over sets")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
