"""The GPU benchmark: whole on the CPU at a small size, and what befalls a section stays there."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks import generated, gpu, gpu_speed, measure
from benchmarks.gpu import Section
from components.shared.parameters.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
BARE = ("anndata", "h5py", "kfp", "matplotlib", "pandas", "safetensors", "scanpy", "scgpt", "scipy")
BARE += ("sklearn", "tqdm", "yaml")
"""What a machine with torch and numpy may lack."""
BLOCK = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {BARE} else find(name, path, target)

PathFinder.find_spec = find_spec
"""
"""Put where every Python process of a run finds it first."""


def test_everything_runs_on_a_bare_machine(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--threads", "1"]
    command += ["--device", "cpu", "--out", str(tmp_path / "out")]
    command += ["--patience", "10"]  # other tests run meanwhile
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    sections = found["sections"]
    assert list(sections) == list(gpu.SECTIONS)
    assert not any("failed" in one for one in sections.values())
    assert [row["precision"] for row in sections["matmul"]["rows"]] == ["bf16", "fp32"]
    checked = {one["what"] for one in sections["outputs"]["checks"]}
    assert {"outputs, fp32", "gradients, bf16", "outputs, bf16, flash"} <= checked
    assert "ours, flash" in [row["side"] for row in sections["training"]["rows"]]
    assert any("scgpt" in note for note in sections["training"]["notes"])
    assert len(sections["prediction"]["rows"]) == 2
    assert [row["batch"] for row in sections["batches"]["rows"]] == [1, 2, 4]
    assert len(sections["profile"]["rows"]) == gpu_speed.TOP
    assert sections["resume"]["outcome"] == "equal to the last bit"
    assert "SIGKILL came in epoch 2" in sections["resume"]["notes"][0]
    assert sections["several"]["outcome"].startswith("left out: it takes two GPUs")
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert page.startswith("# CPU\n") and "| Kill and resume | equal to the last bit" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gpu.json", "gpu.md"]


def whole(options):
    yield {"rows": [{"side": "ours", "error": float("nan"), "cells_per_second": 1234.5}]}
    yield {"checks": [{"what": "a", "value": 2.0, "most": 1.0, "passed": False}]}
    yield {"checks": [{"what": "b", "value": 0.5, "most": 1.0, "passed": True}]}


def raising(options):
    yield {"outcome": "half"}
    raise RuntimeError("no kernel\nand more")


def hanging(options):
    yield {"notes": ["before"]}
    time.sleep(60)


def crashing(options):
    yield {"notes": ["before"]}
    os._exit(3)


@pytest.fixture
def forked(monkeypatch):
    """Sections of this module, which only a fork of this process has."""
    sections = {
        function.__name__: Section(function.__name__, seconds, function, {})
        for function, seconds in ((whole, 20), (raising, 20), (hanging, 0.7), (crashing, 20))
    }
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    monkeypatch.setattr(gpu, "process_context", lambda device: multiprocessing.get_context("fork"))
    return list(sections)


def run(tmp_path, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path), *arguments])
    code = gpu.main()
    return code, json.loads((tmp_path / "gpu.json").read_text())["sections"]


def test_what_befalls_a_section_is_a_sentence_there(tmp_path, monkeypatch, forked):
    code, found = run(tmp_path, monkeypatch)
    assert code == 1 and list(found) == forked
    assert "failed" not in found["whole"] and found["whole"]["rows"][0]["error"] is None
    assert found["raising"]["failed"] == "RuntimeError: no kernel"
    assert found["raising"]["outcome"] == "half"
    assert found["hanging"]["failed"].startswith("stopped after 1 s")
    assert found["hanging"]["notes"] == found["crashing"]["notes"] == ["before"]
    assert found["crashing"]["failed"] == "its process ended with exit code 3"
    page = (tmp_path / "gpu.md").read_text()
    assert "| whole | 1 of 2 checks passed; failed: a |" in page
    assert "| ours | - | 1,234 |" in page and "| side | error | cells per second |" in page


def test_no_section_begins_after_the_time_for_all(tmp_path, monkeypatch, forked):
    code, found = run(tmp_path, monkeypatch, "--seconds", "0", "--only", "whole")
    assert code == 1
    assert found["whole"]["failed"] == "not begun: the 0 s for all sections were over"


def test_bounds_leave_all_sections_below_eight_minutes():
    assert gpu.TOTAL < 8 * 60 - 15
    assert all(section.seconds < gpu.TOTAL / 3 for section in gpu.SECTIONS.values())


def test_a_gpu_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch, "--device", "cuda")
    assert "sees no GPU" in capsys.readouterr().err


def test_generated_fine_tunes_follow_the_default_recipe():
    assert asdict(load_recipe("default", {})) == generated.SETTINGS


def test_generated_cells_hold_a_perturbation_out_of_each_line():
    data = generated.cells(16, torch.device("cpu"))
    lines = data.line_of_row[data.train_rows]
    kept = set(zip(lines.tolist(), data.train_codes.tolist(), strict=True))
    for held_out in data.validation:
        code = data.perturbations.index(held_out.perturbation)
        assert (held_out.line, code) not in kept and len(held_out.rows) == generated.CELLS
    assert len(data.seen()) == len(generated.LINES)


def test_a_side_that_does_not_fit_is_tried_at_half_the_batch(monkeypatch):
    def side(name, precision, options, cells, exact):
        failed = "out of memory" if options.batch > 50 else ""
        return measure.Side(name, precision, options.batch, 1.0, lambda: None, failed=failed)

    monkeypatch.setattr(gpu_speed.finetune, "side", side)
    options = Namespace(batch=192)
    assert gpu_speed.fitting("scgpt", "fp16", options, (None, None)).cells == 48
    row = side("ours", "bf16", options, None, None).figures(None, {})
    assert row["failed"] == "out of memory"
