"""The explorer in a real browser: looked up, sorted, linked to, handed over, in every setting."""

import csv
import html
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.explorer import generated
from components.evaluate.pages.explorer import Explored, visible, write_explorer
from tests.browser import CHROMIUM, MISSING, Browser, Page
from tests.evaluate.pages import HOSTILE, NOWHERE, READABLE, contrast, fragment, labelled

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
EXPLORED = generated(150, 320, 3)
DRAWN = "document.documentElement.dataset.drawn"
TITLE = "document.querySelector('#view h2')?.textContent"
SHOWN = "[...document.querySelectorAll('#table tr.shown')].map((row) => row.cells[0].textContent)"
COUNTED = "document.getElementById('counted').textContent"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(EXPLORED, tmp_path_factory.mktemp("explorer"))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    browser.events.clear()
    opened = browser.page()
    yield opened
    assert opened.complaints == []
    opened.call("Page.close")


def written(explored: Explored, folder: Path) -> Path:
    write_explorer(explored, NOWHERE, folder / "explorer.html")
    return folder / "explorer.html"


def opened(page: Page, file: Path, view: str = "") -> Page:
    page.open(file, view)
    page.wait(DRAWN)
    return page


def names(page: Page, panel: int) -> list[str]:
    found = f"document.querySelectorAll('.panels > div')[{panel}].querySelectorAll('.name')"
    return page.value(f"[...{found}].map((name) => name.textContent)")


def focus(page: Page, selector: str) -> None:
    page.value(f"document.querySelector({json.dumps(selector)}).focus()")


def click(page: Page, selector: str) -> None:
    page.value(f"document.querySelector({json.dumps(selector)}).click()")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def strongest(change: np.ndarray, labels: list[str], *, down: bool) -> list[str]:
    order = np.argsort(change if down else -change, kind="stable")[:15]
    return [labels[n] for n in order]


def test_it_opens_by_itself_and_loads_nothing_else(page: Page, file: Path) -> None:
    opened(page, file, "#GENE7&gene=GENE9")
    assert [address for address in page.requested if address.startswith("http")] == []
    assert page.value("document.querySelectorAll('#table tr.shown').length") == 100
    assert page.value(COUNTED) == "150 perturbations, 100 shown."


def test_a_gene_is_looked_up_by_keyboard_and_what_its_knock_down_does_is_shown(
    page: Page, file: Path
) -> None:
    opened(page, file)
    page.press("Tab")
    assert page.value("document.activeElement.id") == "search"
    page.type("gene3")
    listed = page.wait("[...document.querySelectorAll('#found li')].map((li) => li.textContent)")
    assert listed[0] == "GENE3what its knock-down does" and "GENE3what moves it" in listed
    page.press("ArrowDown")
    current = "document.querySelector('#found [aria-selected=true]').id"
    assert page.value("document.activeElement.getAttribute('aria-activedescendant')") == (
        page.value(current)
    )
    page.press("ArrowUp")
    page.press("Enter")
    assert page.wait(TITLE) == "Knock-down of GENE3"
    assert page.value("location.hash") == "#GENE3"
    assert page.value("document.activeElement.tagName") == "H2"
    assert names(page, 0) == strongest(EXPLORED.change[3], EXPLORED.genes, down=True)
    assert names(page, 1) == strongest(EXPLORED.change[3], EXPLORED.genes, down=False)
    said = page.value("document.querySelector('#view').innerText")
    expected = EXPLORED.perturbations.loc[3]
    assert f"{expected['expected_pearson_delta']:.2f}" in said
    assert f"Achieved: {expected['pearson_delta']:.2f}".replace("-", "\u2212") in said
    assert f"line0 ({EXPLORED.training.cells[0, 3]} cells)" in said
    alike = page.value("document.querySelectorAll('.alike a').length")
    assert alike == 10


def test_bars_and_marks_stand_where_their_values_are(page: Page, file: Path) -> None:
    opened(page, file, "#GENE5")
    found = page.value("""
      [...document.querySelectorAll('.panels > div')[1].querySelectorAll('li')].map((row) => ({
        name: row.querySelector('.name').textContent,
        left: row.querySelector('.bar').getBoundingClientRect().left,
        right: row.querySelector('.bar').getBoundingClientRect().right,
        zero: row.querySelector('.zero').getBoundingClientRect().left,
        marks: [...row.querySelectorAll('.mark')].map((mark) => {
          const box = mark.getBoundingClientRect();
          return [mark.className, (box.left + box.right) / 2];
        }),
      }))""")
    drawn, true = [], []
    layers = [*EXPLORED.training.change[:, 5], EXPLORED.measured[5]]
    for row in found:
        gene = EXPLORED.genes.index(row["name"])
        assert row["left"] == pytest.approx(row["zero"], abs=1)
        drawn.append(row["right"] - row["zero"])
        true.append(EXPLORED.change[5, gene])
        assert [name for name, _ in row["marks"]] == [
            *(f"mark m{n}" for n in range(3)),
            "mark test",
        ]
        for (_, centre), layer in zip(row["marks"], layers, strict=True):
            drawn.append(centre - row["zero"])
            true.append(layer[gene])
    scale = np.dot(drawn, true) / np.dot(true, true)
    assert scale > 0 and np.abs(np.array(drawn) - scale * np.array(true)).max() < 1.5  # pixels


def test_a_responding_gene_shows_which_knock_downs_move_it(page: Page, file: Path) -> None:
    opened(page, file, "#gene=GENE200")
    assert page.value(TITLE) == "What moves GENE200"
    change = EXPLORED.change[:, 200]
    assert names(page, 0) == strongest(change, EXPLORED.labels, down=True)
    assert names(page, 1) == strongest(change, EXPLORED.labels, down=False)
    assert "It is not perturbed itself" in page.value("document.querySelector('#view').innerText")
    click(page, ".effects .name")
    page.wait(f"{TITLE}.startsWith('Knock-down')")
    page.value("history.back()")
    page.wait(f"{TITLE} === 'What moves GENE200'")


def test_every_kind_of_link_opens_its_view(page: Page, file: Path) -> None:
    for view, title in {
        "#gene3": "Knock-down of GENE3",  # whatever case
        "#GENE300": "What moves GENE300",  # a gene that is not perturbed
        "#gene=GENE3": "What moves GENE3",
        "#NOBODY": "Not here: NOBODY",
        "#%": "Not here: %",
    }.items():
        assert opened(page, file, view).value(TITLE) == title
    opened(page, file, "#sort=strength&order=down&find=GENE14")
    strength = np.linalg.norm(EXPLORED.change.astype(float), axis=1)
    by_strength = [EXPLORED.labels[n] for n in np.argsort(-strength)]
    found = page.value(SHOWN)
    assert [name for name in by_strength if name in found] == found
    assert {f"GENE{n}" for n in [14, *range(140, 150)]} <= set(found)
    assert page.value("document.querySelector('[name=find]').value") == "GENE14"
    assert page.value("document.querySelector('#view').childElementCount") == 0


def test_one_gene_of_a_knock_down_is_looked_up_even_if_it_is_rounded(
    page: Page, file: Path
) -> None:
    order = np.argsort(np.abs(EXPLORED.change[8]))
    weak = next(g for g in order if abs(EXPLORED.change[:, g]).argsort().argsort()[8] < 75)
    opened(page, file, "#GENE8")
    focus(page, "#lookup")
    page.type(EXPLORED.genes[weak].lower())
    page.press("Enter")
    said = page.wait("document.querySelector('.answer')?.textContent")
    assert "(rounded)" in said and "not kept" in said
    value = float(said.split("predicted ")[1].split(" ")[0].replace("\u2212", "-"))
    assert value == pytest.approx(EXPLORED.change[8, weak], abs=0.005)
    assert page.value("location.hash") == f"#GENE8&gene={EXPLORED.genes[weak].lower()}"
    assert page.value("document.activeElement.id") == "lookup"
    opened(page, file, "#GENE8&gene=GENE8")
    said = page.value("document.querySelector('.answer').textContent")
    assert (
        "rounded" not in said
        and f"rpe1 {EXPLORED.measured[8, 8]:.3f}".replace("-", "\u2212") in said
    )


def test_the_table_sorts_both_ways_with_what_has_no_value_last(page: Page, file: Path) -> None:
    opened(page, file)
    button = "#table [data-column=pearson_delta] button"
    reached = EXPLORED.perturbations.set_index("perturbation")["pearson_delta"]
    known = reached.dropna().sort_values()
    for ascending in (False, True):
        focus(page, button)
        page.press("Enter")
        found = page.value(SHOWN)[: len(known)]
        assert found == known.sort_values(ascending=ascending).index.tolist()
        way = "ascending" if ascending else "descending"
        assert page.value("document.querySelector('[aria-sort]').ariaSort") == way
    assert page.value("location.hash") == "#sort=pearson_delta&order=up"


def test_the_table_filters_by_name_line_and_measurement(page: Page, file: Path) -> None:
    opened(page, file)
    focus(page, "[name=find]")
    page.type("gene149")
    wanted = [
        label
        for label, change in zip(EXPLORED.labels, EXPLORED.change, strict=True)
        for order in [np.argsort(change)]
        if "GENE149" in [label, *(EXPLORED.genes[g] for g in [*order[:3], *order[-3:]])]
    ]
    assert page.value(SHOWN) == wanted
    change = "(name, to) => { const field = document.querySelector(`[name=${name}]`);"
    change += "field.value = to; field.dispatchEvent(new Event('input', {bubbles: true})); }"
    page.value(f"({change})('find', '')")
    page.value(f"({change})('measured', 'yes')")
    assert page.value(COUNTED) == "75 perturbations of 150."
    page.value(f"({change})('line', 'none')")
    assert page.value(COUNTED) == "0 perturbations of 150."
    page.value(f"({change})('line', 'line1')")
    assert page.value(COUNTED) == "75 perturbations of 150."
    assert page.value("location.hash") == "#line=line1&measured=yes"


def test_what_is_shown_is_downloaded_as_csv(page: Page, file: Path, tmp_path: Path) -> None:
    opened(page, file, "#GENE6")
    page.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    focus(page, "#view .buttons button[aria-label]")  # the one before it is the download
    page.value("document.activeElement.previousElementSibling.focus()")
    page.press("Enter")
    saved = tmp_path / "knock-down_GENE6.csv"
    for _ in range(200):
        page.value("new Promise((done) => setTimeout(done, 20))")
        if saved.exists():
            break
    rows = rows_of(saved.read_text())
    assert [row["gene"] for row in rows] == [*names(page, 1), *names(page, 0)[::-1]]
    for row in rows:
        gene = EXPLORED.genes.index(row["gene"])
        assert float(row["predicted_change"]) == pytest.approx(EXPLORED.change[6, gene], rel=1e-5)
        assert float(row["measured_change_line2"]) == pytest.approx(
            EXPLORED.training.change[2, 6, gene], abs=2e-4
        )
        assert float(row["fdr_rpe1"]) == pytest.approx(EXPLORED.fdr[6, gene], rel=0.06)


def copied(page: Page, label: str) -> list[dict[str, str]]:
    """Press the button of a label and return the csv that is then selected."""
    page.value(
        "[...document.querySelectorAll('.buttons button')]"
        f".find((b) => (b.ariaLabel ?? b.textContent) === {json.dumps(label)}).click()"
    )
    text = page.wait(
        "document.activeElement.tagName === 'TEXTAREA' && document.activeElement.value.slice("
        "document.activeElement.selectionStart, document.activeElement.selectionEnd)"
    )
    return rows_of(text)


def test_all_genes_are_handed_over_with_the_rounded_ones_marked(page: Page, file: Path) -> None:
    opened(page, file, "#GENE6")
    rows = copied(page, "Show all 320 genes as text")
    assert [row["gene"] for row in rows] == EXPLORED.genes
    values = np.array([float(row["predicted_change"]) for row in rows])
    rounded = np.array([row["rounded"] == "yes" for row in rows])
    np.testing.assert_allclose(values[~rounded], EXPLORED.change[6, ~rounded], rtol=1e-5)
    np.testing.assert_allclose(values[rounded], EXPLORED.change[6, rounded], atol=0.005)
    assert 100 < rounded.sum() <= 220
    opened(page, file, "#gene=GENE310")
    rows = copied(page, "Show all 150 perturbations as text")
    assert [row["perturbation"] for row in rows] == EXPLORED.labels
    values = np.array([float(row["predicted_change"]) for row in rows])
    np.testing.assert_allclose(values, EXPLORED.change[:, 310], atol=0.02)


def test_in_kubeflow_s_frame_what_cannot_be_downloaded_is_text_to_copy(
    page: Page, file: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "kfp.html"
    outside.write_text(
        '<!doctype html><body style="margin:0"><iframe sandbox="allow-scripts" '
        f'style="width:900px;height:475px" srcdoc="{html.escape(file.read_text())}"></iframe>'
    )
    page.open(outside)
    page.into_frame()
    page.wait(DRAWN)
    assert page.value("window.origin") == "null" and page.value("innerHeight") == 475
    bottom = page.value("document.querySelector('#search').getBoundingClientRect().bottom")
    assert bottom < 475
    focus(page, "#search")
    page.type("GENE11")
    page.press("Enter")
    assert page.wait(TITLE) == "Knock-down of GENE11"
    assert page.value("document.querySelector('.title code').textContent") == "#GENE11"
    everything = page.value("document.body.innerText")
    assert "Download" not in everything and "Link to this view" not in everything
    rows = copied(page, "Show what is shown as csv to copy")
    assert rows[0]["gene"] == names(page, 1)[0]
    assert len(copied(page, "Show the table as csv to copy")) == 150
    click(page, ".alike a")  # a link in it must not lead the frame elsewhere
    page.wait(f"{TITLE} !== 'Knock-down of GENE11'")
    assert page.value(TITLE).startswith("Knock-down of ")
    click(page, ".effects .name")
    page.wait(f"{TITLE}.startsWith('What moves')")


def test_hostile_labels_are_text_in_page_link_and_csv(page: Page, tmp_path: Path) -> None:
    explored = labelled(generated(8, 24, 3), HOSTILE)
    file = written(explored, tmp_path)
    for n, label in enumerate(HOSTILE):
        opened(page, file, fragment(label))
        assert page.value(TITLE) == f"Knock-down of {visible(label)}"
        assert page.value("document.querySelectorAll('#view script, #view img').length") == 0
        rows = copied(page, "Show all 24 genes as text")
        cell = rows[0]["perturbation"]
        assert cell == ("'" if label[0] == "=" else "") + visible(label)
        assert rows[n]["gene"] == cell
        assert cell[0] not in "=+-@"
        assert not any(ord(c) in range(0x202A, 0x2070) for row in rows for c in str(row))
        click(page, "#table tr.shown a")
        assert page.wait(f"{TITLE} === 'Knock-down of ' + {json.dumps(visible(HOSTILE[0]))}")
    number = labelled(explored, ("-5", "@SUM(A1)", "+1+1"))
    opened(page, written(number, tmp_path))
    cells = [row["perturbation"] for row in copied(page, "Show the table as text")]
    assert cells[:3] == ["-5", "'@SUM(A1)", "'+1+1"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("view", ["", "#GENE7&gene=GENE8", "#gene=GENE7"])
def test_it_fits_phone_and_desk_and_can_be_read_in_both_themes(
    browser: Browser, file: Path, width: int, dark: bool, view: str
) -> None:
    page = browser.page(width=width, dark=dark)
    opened(page, file, view)
    page.value("document.querySelectorAll('#view details').forEach((part) => { part.open = true })")
    found = page.value("""(() => {
      const all = (which) => [...document.querySelectorAll(which)];
      const colour = (node, what) => getComputedStyle(node)[what];
      return {
        scrolls: document.documentElement.scrollWidth,
        page: colour(document.body, "backgroundColor"),
        card: colour(document.querySelector("section"), "backgroundColor"),
        texts: all("main *").filter((node) => [...node.childNodes].some((child) =>
          child.nodeType === 3 && child.textContent.trim()) && node.checkVisibility()
          && node.tagName !== "TEXTAREA").map((node) => colour(node, "color")),
        unnamed: all("button, input, select, textarea, a").filter((node) => node.checkVisibility()
          && !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).length,
        small: all("button, input, select").filter((node) => node.checkVisibility()
          && node.getBoundingClientRect().height < 14).length,
      };
    })()""")
    page.call("Page.close")
    assert found["scrolls"] <= width
    assert contrast(found["page"], "rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)") > 12
    worst = min(set(found["texts"]), key=lambda colour: contrast(colour, found["card"]))
    assert contrast(worst, found["card"]) >= READABLE, worst
    assert found["unnamed"] == 0 and found["small"] == 0


def test_without_scripts_it_is_a_plain_table(page: Page, file: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(file, "#GENE3")
    rows = "[...document.querySelectorAll('#table tbody tr')]"
    seen = f"{rows}.filter((row) => row.checkVisibility()).length"
    page.wait(f"{seen} === 150")
    text = page.value("document.body.innerText")
    assert (
        "JavaScript is off" in text and "Look up a gene" not in text and "Effect known" not in text
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 0), (3, 5, 7)])
def test_few_perturbations_genes_or_lines_are_no_fault(
    page: Page, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    explored = generated(*shape)
    explored.change[0] = 0  # nothing is predicted of the first
    if shape[2] == 0:
        explored.measured[:] = np.nan
    file = written(explored, tmp_path)
    opened(page, file, "#GENE0")
    assert names_or_none(page) == 0
    assert "None." in page.value("document.querySelector('#view').innerText")
    last = shape[0] - 1
    opened(page, file, f"#GENE{last}&gene=GENE0")
    assert names_or_none(page) == np.count_nonzero(explored.change[last])
    opened(page, file, "#gene=GENE0")
    assert names_or_none(page) == np.count_nonzero(explored.change[:, 0])


def names_or_none(page: Page) -> int:
    return page.value("document.querySelectorAll('#view .effects .name').length")


def test_a_browser_that_cannot_unpack_is_told_and_reads_the_table(page: Page, file: Path) -> None:
    page.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    page.open(file)
    told = page.wait("!document.querySelector('#broken').hidden && document.body.innerText")
    assert "too old" in told and "GENE149" in told
