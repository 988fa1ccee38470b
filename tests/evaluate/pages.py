"""What tests of pages use: hostile names, and how readable colours are."""

import re
from dataclasses import replace
from urllib.parse import quote

from components.evaluate.pages.explorer import Explored, visible
from components.evaluate.pages.report import Origin
from components.shared.artifacts.training_effects import TrainingEffects

READABLE = 4.5
"""Contrast of text that WCAG asks for."""


HOSTILE = (
    "</script><script>alert(1)</script>",
    '=HYPERLINK("http://example.org","x")',
    "\u202eCYM",
    "<img src=x onerror=alert(1)>",
    "A&B=C#D%41\"'",
)
NOWHERE = Origin("rpe1", [], 0, {}, {}, "")


def labelled(explored: Explored, labels: tuple[str, ...]) -> Explored:
    """Rename the first perturbations, genes and lines, and how effects are known."""
    table = explored.perturbations.copy()
    table["perturbation"] = [*labels, *table["perturbation"][len(labels) :]]
    table["known"] = labels[0]
    table["training_lines"] = labels[1]
    old = explored.training
    training = TrainingEffects(
        list(labels[: len(old.lines)]),
        table["perturbation"].tolist(),
        [*labels, *old.genes[len(labels) :]],
        *(old.change, old.cells, old.control),
    )
    return replace(
        explored,
        test_line=labels[0],
        genes=training.genes,
        perturbations=table,
        training=training,
    )


def fragment(label: str) -> str:
    """Return what follows the explorer's address to open it at a perturbation."""
    return "#" + quote(visible(label), safe="")


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast of two colours, `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)
