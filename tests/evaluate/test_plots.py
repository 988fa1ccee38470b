"""The report's plots: each point can be asked for its name."""

import re
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from components.evaluate.pages import plots

HOSTILE = "</title><script>alert(1)</script>&\"'"


def named(svg: str) -> dict[str, tuple[float, float]]:
    """Return where the plot has the point of each name, y upwards."""
    ElementTree.fromstring(svg)  # noqa: S314 - our own, to see whether it is well-formed
    groups = re.findall(r"<title>(.*?)</title>.*?<use[^>]* x=\"(.*?)\" y=\"(.*?)\"", svg, re.DOTALL)
    return {unescape(name): (float(x), -float(y)) for name, x, y in groups}


def test_each_perturbation_s_point_carries_its_name_at_its_place() -> None:
    rng = np.random.default_rng(0)
    labels = [f"P{n}" for n in range(30)]
    x, y = (pd.Series(rng.normal(size=30), labels) for _ in range(2))
    seen = pd.Series(np.arange(30) % 3 > 0, labels)  # drawn as two groups, so not in this order
    where = named(plots.model_against(y, x, seen, ("baseline", "model")))
    assert set(where) == set(labels)
    placed = np.array([where[label] for label in labels])
    for got, wanted in zip(placed.T, (x, y), strict=True):
        assert np.corrcoef(got, wanted)[0, 1] > 0.999999


def test_every_plot_of_perturbations_names_them_and_a_name_is_text() -> None:
    labels = [HOSTILE, "B", "C"]
    values, seen = pd.Series([0.1, 0.5, np.nan], labels), pd.Series([True, False, True], labels)
    drawn = {
        "against": plots.model_against(values, values, seen, ("a", "b")),
        "size": plots.by_size(pd.Series([3, 50, 1], labels), values, seen, ("a", "b")),
        "distribution": plots.distributions({"model": values}, "pearson_delta"),
    }
    for what, svg in drawn.items():
        assert set(named(svg)) == {HOSTILE, "B"}, what
        assert "<script" not in svg and "point:" not in svg and "<a " not in svg


def test_each_gene_s_point_carries_its_name() -> None:
    measured, genes = np.array([0.0, 1.0, -2.0]), ["G0", "G1", "G2"]
    where = named(plots.effect(0.5 * measured, measured, [1], "MYC", genes))
    assert set(where) == set(genes) and where["G2"] < where["G0"] < where["G1"]


def test_of_points_drawn_as_pixels_those_farthest_out_are_named() -> None:
    size = plots.MANY_POINTS + 500
    measured = np.random.default_rng(0).normal(0, 0.1, size)
    predicted = np.zeros(size)
    measured[7], predicted[11] = 3.0, -2.0
    genes = [f"G{n}" for n in range(size)]
    svg = plots.effect(predicted, measured, [], "MYC", genes)
    where = named(svg)
    assert "<image" in svg and len(where) == plots.NAMED and {"G7", "G11"} <= set(where)
    assert max(where, key=lambda name: where[name][0]) == "G7"
    assert min(where, key=lambda name: where[name][1]) == "G11"


def test_without_names_nothing_is_named() -> None:
    assert named(plots.effect(np.ones(3), np.arange(3.0), [0], "MYC")) == {}
