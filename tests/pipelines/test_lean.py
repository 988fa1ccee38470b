"""What is compiled says little, and every component still runs as it is compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.check.check import grid
from pipelines import compile as compiling

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {name: compiling.documents(compiling.FOLDER / name) for name in compiling.PROFILES}
COMMANDS = {
    f"{label} of {name}": executor["container"]
    for name, (spec, _) in DOCUMENTS.items()
    for label, executor in spec["deploymentSpec"]["executors"].items()
}
GRID = {
    "package": "pipelines/compiled/compare-priors.yaml",
    "checkpoints": "",
    "dataset": "sim://screen?cells=800",
    "train_lines": ["k562", "jurkat"],
    "test_line": "rpe1",
    "pretrained": "random://tiny",
    "priors": ["none", "random:8"],
    "recipe": "smoke",
    "seeds": [0, 1],
    "split_seed": 0,
    "perturbation_column": "gene",
    "cell_line_column": "cell_line",
    "control_label": "non-targeting",
    "ingest_options": {},
    "split_options": {},
    "overrides": {},
    "perturbations": [],
    "cells_per_perturbation": 0,
    "gpus": 0,
    "publish_to": "",
}


def in_a_pod(container, executor_input):
    """Run a container's command as KFP's launcher does, here."""
    arguments = [
        json.dumps(executor_input) if word == "{{$}}" else word for word in container["args"]
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*container["command"], *arguments],
        env={"PATH": path, "PYTHONPATH": str(ROOT), "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_component_runs_as_it_is_compiled(tmp_path):
    names = ("Output", "repeat", "runs", "gpu_count")
    outputs = {name: {"outputFile": str(tmp_path / "outputs" / name)} for name in names}
    done = in_a_pod(
        COMMANDS["exec-check-grid of compare-priors.yaml"],
        {
            "inputs": {"parameterValues": GRID},
            "outputs": {"parameters": outputs, "outputFile": str(tmp_path / "made.json")},
        },
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "made.json").read_text())
    parameters = {
        name: value
        for name, value in GRID.items()
        if name not in ("package", "checkpoints", "publish_to")
    }
    expected = grid(parameters, GRID["package"], "")
    assert made["parameterValues"]["Output"] == expected
    runs = json.loads((tmp_path / "outputs" / "runs").read_text())
    assert runs == [{"prior": run["prior"], "seed": run["seed"]} for run in expected]


def test_bad_input_is_still_one_line_of_the_component(tmp_path):
    done = in_a_pod(
        COMMANDS["exec-check-grid of compare-priors.yaml"],
        {
            "inputs": {"parameterValues": GRID | {"priors": ["efects"]}},
            "outputs": {"outputFile": str(tmp_path / "made.json")},
        },
    )
    assert done.returncode == 1
    assert "check: error:" in done.stderr
    assert "nearest: 'effects'" in done.stderr
    assert not (tmp_path / "made.json").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_source_of_every_component_is_in_its_image_and_not_in_its_command(command):
    """Loaded as KFP's executor loads it, it is the function that the arguments name."""
    container = COMMANDS[command]
    stage = container["image"].partition("/")[2].partition(":")[0]
    function = container["args"][-1]
    source = container["command"][-1]
    assert len(source) < 200
    code = f"{source}\nassert {function}.__doc__\nprint({function}.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "_KFP_RUNTIME": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"components.{stage}.component"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_what_a_person_fills_in_is_described(name):
    spec = DOCUMENTS[name][0]
    assert "description" not in json.dumps(spec["components"])
    assert all(
        one["description"] for one in spec["root"]["inputDefinitions"]["parameters"].values()
    )
