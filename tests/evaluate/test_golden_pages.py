"""An evaluation's pages say what is stored: what changes their words shows in the diff."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import PREDICTIONS_FILE, TRUTH
from tests.evaluate.golden_pages import STORED, moved, words_of_pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    return words_of_pages(folder)


@pytest.mark.parametrize("name", ["summary.md", "report.txt", "metrics.json"])
def test_pages_say_what_is_stored(pages: dict[str, str], name: str) -> None:
    assert moved(pages[name], (STORED / name).read_text(encoding="utf-8")) == [], (
        "the pages changed; if they should: python -m tests.evaluate.golden_pages"
    )


def test_the_title_names_the_run_and_a_name_is_text(folder: Path, pages: dict[str, str]) -> None:
    page = (folder / "evaluation" / "report.html").read_text()
    title = re.search("<title>(.*?)</title>", page)
    assert title and title[1].startswith("rpe1 · prior none · seed 7 · &lt;b&gt;smoke · random://")
    assert "<dt>recipe</dt><dd>&lt;b&gt;smoke</dd>" in page


def test_the_table_of_effects_has_the_p_values_of_the_rank_test(
    folder: Path, pages: dict[str, str]
) -> None:
    written = pd.read_parquet(folder / "evaluation" / "effects.parquet")
    measured = anndata.read_h5ad(folder / "predictions" / PREDICTIONS_FILE)
    truth = measured.to_df(TRUTH)
    label = measured.obs["perturbation"]
    for name in ("G3", "G1+G2"):
        own, controls = truth[(label == name).to_numpy()], truth[(label == CONTROL).to_numpy()]
        p = mannwhitneyu(own, controls, axis=0).pvalue
        table = written[written["perturbation"] == name]
        assert table["gene"].tolist() == truth.columns.tolist()
        assert table["p_value"].to_numpy() == pytest.approx(p, rel=5e-3)
        assert table["fdr"].to_numpy() == pytest.approx(false_discovery_control(p), rel=5e-3)
        assert len(set(np.round(table["p_value"], 12))) > 5


@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [
        ("beats by +0.275", "beats by +0.2751", True),
        ("beats by +0.275", "beats by +0.285", False),
        ("beats by +0.275", "falls short by +0.275", False),
        ("worse by \N{MINUS SIGN}0.275", "worse by 0.275", False),
        ("12 of 1,200", "12 of 1,300", False),
        ("one\ntwo", "one", False),
        ("one", "one\ntwo", False),
    ],
)
def test_a_word_or_a_number_that_moved_is_noticed(before: str, after: str, alike: bool) -> None:
    assert (moved(after, before) == []) is alike
