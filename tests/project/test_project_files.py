"""The files that tell people how to take part: what they name exists."""

import re
from pathlib import Path

import pytest
import yaml

from components import __version__

ROOT = Path(__file__).resolve().parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "README.md"])
def test_targets_of_make_that_are_named_exist(name):
    code = " ".join(re.findall(r"`([^`]+)`", (ROOT / name).read_text()))
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= TARGETS


def test_paths_in_the_recipes_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:components|pipelines|images|tests|manifests)/[\w./-]+)`", text)
    assert len(paths) > 10
    assert [
        path for path in paths if path != "images/images.lock" and not (ROOT / path).exists()
    ] == []


def test_the_citation_is_of_this_version():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_forms_are_whole(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        return
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["id"] and field["attributes"]["label"]
