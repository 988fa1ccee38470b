"""The report in a real browser: it loads nothing and can be read on a phone and at night."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.evaluate_screen import Screen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path (Debian: apt-get install chromium)"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
LIGHT, DARK = ((f"--blink-settings=preferredColorScheme={scheme}",) for scheme in (1, 0))
PHONE, DESK = 390, 1100
READABLE = 4.5
"""Contrast of text that WCAG requires."""

MEASURE = """
const view = document.querySelector("iframe").contentDocument;
const page = view.documentElement;
const colour = (element, what) => view.defaultView.getComputedStyle(element)[what];
const all = (which) => [...view.querySelectorAll(which)];
const boxes = all(".scroll");
const found = {
  width: page.clientWidth,
  scrolls: page.scrollWidth,
  wide: boxes.filter((box) => box.scrollWidth > box.clientWidth).length,
  spills: boxes.filter((box) => box.getBoundingClientRect().right > page.clientWidth).length,
  figures: all("figure svg").map((svg) => svg.getBoundingClientRect().width),
  page: colour(view.body, "backgroundColor"),
  card: colour(view.querySelector("section"), "backgroundColor"),
  texts: [
    ...all("figure svg text").map((text) => colour(text, "fill")),
    ...all("p, th, td, dd, figcaption, li, small, code").map((text) => colour(text, "color")),
  ],
};
document.title = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = Screen(tmp_path_factory.mktemp("screen"), genes=60, cells_each=10, controls_each=100)
    return small.evaluate(small.predictions(), prior=small.prior()) / "report.html"


def browse(file: Path, *flags: str, width: int = DESK) -> tuple[str, list[str]]:
    """Open a page and return what the browser made of it, and what it said on its console."""
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={file.parent / 'profile'}"]
    done = subprocess.run(
        [*command, f"--window-size={width},2000", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    shutil.rmtree(file.parent / "profile", ignore_errors=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured(report: Path, folder: Path, width: int, *flags: str) -> dict:
    """Lay the report out in a frame of a width and return what was measured in it."""
    frame = (
        f'<iframe style="width:{width}px;height:2000px" srcdoc="{html.escape(report.read_text())}">'
    )
    page = folder / "frame.html"
    page.write_text(
        f"<!doctype html><body>{frame}</iframe>"
        f"<script>window.onload = () => {{ {MEASURE} }}</script>",
        encoding="utf-8",
    )
    dom, said = browse(page, *flags)
    assert said == []
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title
    return json.loads(html.unescape(title[1]))


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast of two colours, `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_browser_has_nothing_to_complain_of(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shutil.copyfile(report, page)
    dom, said = browse(page)
    assert said == [] and "Headline metrics" in dom


def test_the_page_may_load_nothing_and_an_attempt_would_be_seen(
    report: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.read_text() + '<img src="http://127.0.0.1:9/pixel.png">')
    _, said = browse(page)
    assert said and "Content Security Policy" in said[0]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_its_width_and_its_text_can_be_read(
    report: Path, tmp_path: Path, width: int, scheme: tuple[str, ...]
) -> None:
    found = measured(report, tmp_path, width, *scheme)
    assert found["scrolls"] <= found["width"] <= width
    assert found["spills"] == 0
    if width == PHONE:
        assert found["wide"]  # tables scroll, each in its own box
    assert found["figures"] and all(200 < size <= found["width"] for size in found["figures"])
    assert contrast(found["page"], "rgb(0, 0, 0)" if scheme is LIGHT else "rgb(255, 255, 255)") > 12
    worst = min(set(found["texts"]), key=lambda colour: contrast(colour, found["card"]))
    assert contrast(worst, found["card"]) >= READABLE, worst
