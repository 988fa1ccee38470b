"""The tutorial runs from its first cell to its last, in a folder of its own."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put this checkout's command on the path, as in its activated environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, of in (("scgpt-perturb", "-m pipelines.command "), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {of}"$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def said(cell):
    parts = (output.get("text", "") for output in cell.get("outputs", []))
    return "".join(parts) + "".join(
        output["data"].get("text/plain", "")
        for output in cell.get("outputs", [])
        if "data" in output
    )


def test_the_tutorial_leads_from_a_file_to_a_gene_and_its_picture(tmp_path, commands):
    book = nbformat.read(TUTORIAL, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)  # as it is committed
    NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    text = "\n".join(said(cell) for cell in book.cells)
    assert "nothing wrong was found" in text
    assert re.search(r"model ahead of copying in \d+ of \d\d", text)
    assert "error:" not in text
    assert "NaN" not in text and "nan" not in text.split("model ahead")[-1]
    published = tmp_path / "runs" / "latest" / "published"
    assert (published / "eval" / "report.html").exists()
    assert (tmp_path / "prediction.png").read_bytes().startswith(b"\x89PNG")
