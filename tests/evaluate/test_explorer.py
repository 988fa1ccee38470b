"""The explorer's page: what it keeps is what was predicted, and labels are only ever text."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.explorer import generated
from components.evaluate.pages import compact
from components.evaluate.pages.explorer import Explored, alike, visible, write_explorer
from components.shared.artifacts.training_effects import TrainingEffects
from tests.evaluate.pages import HOSTILE, NOWHERE, labelled


class Reader(HTMLParser):
    """What a browser makes of the page: its scripts, its elements and the cells of its table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.script: dict | None = None
        self.inside = False
        self.scripts: dict[str, tuple[dict, str]] = {}
        self.cells: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.script = dict(attrs) if tag == "script" else None
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.script = None
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.script is not None:
            self.scripts[self.script.get("id", "")] = self.script, data
        elif self.inside:
            self.cells[-1][-1] += data

    @property
    def facts(self) -> dict:
        return json.loads(self.scripts["facts"][1])

    def array(self, name: str, *shape: int) -> np.ndarray:
        attrs, data = self.scripts[f"data-{name}"]
        raw = zlib.decompress(base64.b64decode(data))
        return np.frombuffer(raw, attrs["data-type"]).reshape(shape)


def written(explored: Explored, folder: Path) -> tuple[Reader, dict]:
    kept = write_explorer(explored, NOWHERE, folder / "explorer.html")
    return Reader((folder / "explorer.html").read_text(encoding="utf-8")), kept


def test_the_strongest_changes_are_as_predicted_and_the_others_within_the_stated_error(
    tmp_path: Path,
) -> None:
    explored = generated(70, 400, 2)
    page, kept = written(explored, tmp_path)
    assert (kept["genes_kept"], kept["perturbations_kept"]) == (100, 40)
    index = page.array("genes-index", 70, 100)
    change = page.array("genes-change", 70, 100)
    np.testing.assert_array_equal(np.take_along_axis(explored.change, index, 1), change)
    order = np.argsort(-explored.change, axis=1, kind="stable")
    np.testing.assert_array_equal(index[:, :50], order[:, :50])
    np.testing.assert_array_equal(np.sort(index[:, 50:]), np.sort(order[:, -50:]))
    down = page.array("perturbations-index", 400, 40)
    by_gene = page.array("perturbations-change", 400, 40)
    np.testing.assert_array_equal(np.take_along_axis(explored.change.T, down, 1), by_gene)

    exact = np.zeros(explored.change.shape, bool)
    np.put_along_axis(exact, index, True, 1)
    np.put_along_axis(exact.T, down, True, 1)
    assert kept["rounded"] == (~exact).sum() > 0
    steps = page.array("steps", 70, 1)
    unpacked = page.array("matrix", 70, 400) * steps
    wrong = np.abs(unpacked - explored.change)[~exact]
    assert 0 < wrong.max() <= kept["error"] * 1.0001
    assert kept["error"] < 0.02 * np.abs(explored.change).max()
    assert f"{kept['error']:.2g}" in (tmp_path / "explorer.html").read_text()


def test_measured_changes_stand_beside_what_is_kept_by_name_not_by_place(tmp_path: Path) -> None:
    explored = generated(30, 90, 2)
    old, rng = explored.training, np.random.default_rng(5)
    rows, columns = rng.permutation(30)[:25], rng.permutation(90)[:80]
    training = TrainingEffects(
        old.lines,
        [old.perturbations[n] for n in rows],
        [old.genes[n] for n in columns],
        old.change[:, rows][:, :, columns],
        old.cells[:, rows],
        old.control[:, columns],
    )
    training.change[1, 3] = np.nan  # the second line lacks that one
    page, kept = written(replace(explored, training=training), tmp_path)
    assert page.facts["lines"] == ["line0", "line1", "rpe1"]
    index = page.array("genes-index", 30, 90)
    beside = page.array("genes-beside", 30, 90, 3).astype(float)
    beside[beside == compact.MISSING] = np.nan
    expected = np.full((3, 30, 90), np.nan)
    expected[:2, rows[:, None], columns] = training.change
    expected[2] = explored.measured
    expected = np.stack([np.take_along_axis(one, index, 1) for one in expected], axis=-1)
    np.testing.assert_allclose(beside * compact.STEP, expected, atol=compact.STEP / 2 + 1e-9)
    assert kept["measured_left_out"] == 0
    cells = page.facts["trainingCells"]
    assert cells[rows[0]] == old.cells[:, rows[0]].tolist()
    assert cells[next(iter({*range(30)} - {*rows.tolist()}))] == [0, 0]


def test_fdrs_are_kept_to_two_per_cent_and_zero_stays_zero(tmp_path: Path) -> None:
    explored = generated(6, 20, 1)
    fdr = 10 ** np.random.default_rng(1).uniform(-40, 0, (6, 20))
    fdr[0, 0], fdr[5] = 0, np.nan
    page, _ = written(replace(explored, fdr=fdr), tmp_path)
    index = page.array("genes-index", 6, 20)
    units = page.array("genes-fdr", 6, 20).astype(float)
    expected = np.take_along_axis(fdr, index, 1)
    assert (units[5] == compact.MISSING).all()
    zero = expected == 0
    assert (units[zero] * compact.LOG_STEP == compact.LEAST_LOG).all() and zero.sum() == 1
    known = ~zero & np.isfinite(expected)
    np.testing.assert_allclose(10 ** (units[known] * compact.LOG_STEP), expected[known], rtol=0.02)


def test_what_is_left_out_is_counted_and_said(tmp_path: Path) -> None:
    explored = generated(60, 300, 2)
    page, kept = written(explored, tmp_path)
    exact = np.zeros((60, 300), bool)
    np.put_along_axis(exact, page.array("genes-index", 60, 100), True, 1)
    np.put_along_axis(exact.T, page.array("perturbations-index", 300, 40), True, 1)
    left = 2 * (~exact).sum() + (~exact)[np.isfinite(explored.measured).all(axis=1)].sum()
    assert kept["measured_left_out"] == left
    text = (tmp_path / "explorer.html").read_text()
    assert f"{left:,} measured changes are left out" in text
    assert kept["bytes"] == len(text.encode())


def test_a_small_screen_is_kept_whole(tmp_path: Path) -> None:
    page, kept = written(generated(4, 12, 3), tmp_path)
    assert kept["rounded"] == kept["error"] == kept["measured_left_out"] == 0
    text = (tmp_path / "explorer.html").read_text()
    assert "No predicted change is rounded" in text and "No measured change is left out" in text
    assert page.array("genes-index", 4, 12).shape == (4, 12)


def test_a_full_screen_fits_a_page(tmp_path: Path) -> None:
    most, genes = 160, 6546
    part, half = (
        written(generated(size, genes, 3), tmp_path)[1]["bytes"] for size in (most, most // 2)
    )
    each = (part - half) / (most - most // 2)  # what is kept of each gene does not grow
    assert part + (1400 - most) * each < 25e6


def test_the_table_can_be_read_without_scripts(tmp_path: Path) -> None:
    explored = generated(8, 30, 2)
    page, _ = written(explored, tmp_path)
    rows = [line for line in page.cells if line[0].startswith("GENE")]
    assert [line[0] for line in rows] == explored.labels
    table = explored.perturbations
    for n, line in enumerate(rows):
        reached = table["pearson_delta"][n]
        assert line[1].startswith(f"{table['expected_pearson_delta'][n]:.2f}")
        shown = "\N{EN DASH}" if np.isnan(reached) else f"{reached:.2f}".replace("-", "\u2212")
        assert line[2] == shown
        down = np.argsort(explored.change[n], kind="stable")[:3]
        assert line[4] == ", ".join(explored.genes[gene] for gene in down)
        assert line[7] == "line0, line1"


def test_the_script_is_given_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    page, _ = written(generated(5, 20, 2), tmp_path)
    script = files("components.evaluate.pages").joinpath("explorer.js").read_text("utf-8")
    assert set(page.facts) == set(re.findall(r"\bfacts\.(\w+)", script))


def test_nothing_measured_means_no_word_of_it(tmp_path: Path) -> None:
    explored = generated(5, 20, 2)
    table = explored.perturbations.drop(columns="pearson_delta").assign(measured_cells=0)
    nothing = np.full_like(explored.measured, np.nan)
    page, kept = written(
        replace(explored, perturbations=table, measured=nothing, fdr=nothing), tmp_path
    )
    assert page.facts["lines"] == ["line0", "line1"] and not page.facts["testMeasured"]
    text = (tmp_path / "explorer.html").read_text()
    assert "No perturbed cell of <bdi>rpe1</bdi> was measured." in text
    assert not any("reached" in cell for line in page.cells for cell in line)
    assert kept["measured_left_out"] == 0


def test_no_training_line_and_no_expectation_are_no_fault(tmp_path: Path) -> None:
    explored = generated(3, 10, 1)
    gone = TrainingEffects([], [], [], np.zeros((0, 0, 0)), np.zeros((0, 0), int), np.zeros((0, 0)))
    unsure = ["expected_pearson_delta", "expected_low", "expected_high", "agreement"]
    table = explored.perturbations.copy()
    table[unsure], table["training_lines"], table["flagged"] = np.nan, "", pd.NA
    page, _ = written(replace(explored, perturbations=table, training=gone), tmp_path)
    facts = page.facts
    assert facts["lines"] == ["rpe1"] and facts["trainingCells"] == [[], [], []]
    row = dict(zip(facts["columns"], facts["rows"][0], strict=True))
    assert row["agreement"] is None and row["flagged"] is None
    assert next(line for line in page.cells if line[0] == "GENE0")[1] == "\N{EN DASH}"


def test_hostile_labels_stay_text(tmp_path: Path) -> None:
    explored = labelled(generated(8, 20, 3), HOSTILE)
    page, _ = written(explored, tmp_path)
    harmless = {tag for tag, _ in Reader((tmp_path / "explorer.html").read_text()).tags}
    assert not harmless & {"img", "iframe", "a", "object", "link", "base"}
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"].count(None) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    first = [line[0] for line in page.cells]
    assert all(visible(label) in first for label in HOSTILE)
    assert page.facts["genes"][:5] == [visible(label) for label in HOSTILE]
    assert "\u202e" not in (tmp_path / "explorer.html").read_text()


def test_only_the_page_s_own_script_may_run(tmp_path: Path) -> None:
    page, _ = written(generated(3, 10, 1), tmp_path)
    script = page.scripts[""][1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert re.search(r"script-src ([^;]*);", policy)[1] == f"'sha256-{digest}'"


def test_alike_is_the_cosine_of_predicted_changes() -> None:
    change = np.random.default_rng(0).normal(size=(15, 40)).astype(np.float32)
    change[3], change[7] = 0, 2 * change[5]
    index, cosine, typical = alike(change)
    assert index.shape == (15, 10) and index[5][0] == 7 and cosine[5][0] == pytest.approx(1)
    assert all(n not in row for n, row in enumerate(index)) and not cosine[3].any()
    unit = change / np.maximum(np.linalg.norm(change, axis=1, keepdims=True), 1e-9)
    full = unit @ unit.T
    np.testing.assert_allclose(cosine, np.take_along_axis(full, index, 1), atol=1e-6)
    assert typical == pytest.approx(np.median(full[np.triu_indices(15, 1)]), abs=1e-6)
    lone, _, nothing = alike(change[:1])
    assert lone.shape == (1, 0) and np.isnan(nothing)
