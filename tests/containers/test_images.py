"""The images as they are: user, labels, content, and what they leave out."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from components import __version__
from pipelines import images
from pipelines.sources import modules_of
from tests.imports import packages_of

ROOT = Path(__file__).resolve().parents[2]
STAGES = images.stages()
BUILD_TOOLS = ("cc", "gcc", "g++", "make", "ld", "cmake", "cargo", "git")
ONLY_IN = {
    "torch": {"prior", "finetune", "predict"},
    "scgpt": {"prior", "finetune"},
    "cell-eval": {"evaluate"},
    "wandb": {"finetune"},
    "anndata": {"check", "ingest", "split", "prior", "finetune", "predict", "evaluate"},
    "google-cloud-storage": set(STAGES),  # of kfp's own needs
    "pytest": set(),
}
TORCH = ["prior", "finetune", "predict"]
"""Their first layer over the base is PyTorch and what else the three need."""
COMPILING = ["finetune", "predict"]
COMPILER = ["cc", "gcc", "ld"]
"""What torch.compile needs where it runs, so what those two may have of `BUILD_TOOLS`."""
MOST_OWN = {"prior": 400, "finetune": 700, "predict": 450}
"""Megabytes over the shared layer; a second PyTorch would add 750, one with CUDA thousands."""
BASE = "python:3.11-slim-bookworm"
LOOK = """
import importlib, importlib.metadata, json, os, pathlib, shutil, sys
modules, tools = sys.argv[1].split(), sys.argv[2].split()
for name in modules:
    importlib.import_module(name)
app = pathlib.Path("/app")
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "tools": [tool for tool in tools if shutil.which(tool)],
    "python": sys.executable,
    "pip": importlib.util.find_spec("pip") is not None,
    "packages": {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()},
    "files": sorted(str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()),
}))
"""


@pytest.fixture(scope="module", params=STAGES)
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(stage: str, client: str, built: dict[str, str]) -> dict:
    done = subprocess.run(
        [client, "image", "inspect", built[stage]], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)[0]["Config"]


@pytest.fixture(scope="module")
def inside(stage: str, client: str, built: dict[str, str]) -> dict:
    """What is seen in a container with a read-only root and no network, every module imported."""
    own = [
        ".".join(module.relative_to(ROOT).with_suffix("").parts)
        for module in sorted(modules_of(stage))
        if module.name != "__init__.py"
    ]
    scgpt = ["scgpt"] if "scgpt" in packages_of(stage) else []
    outside = sorted(packages_of(stage) - set(scgpt))
    options = ["--rm", "--read-only", "--network", "none", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
    arguments = [" ".join(own + outside), " ".join(BUILD_TOOLS)]
    done = subprocess.run(
        [client, "run", *options, built[stage], "python3", "-c", LOOK, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_image_runs_as_a_fixed_user(config: dict, inside: dict) -> None:
    assert config["User"] == "10001:10001"
    assert inside["user"] == [10001, 10001]


def test_that_user_may_change_nothing_of_the_image(stage: str, client: str, built: dict) -> None:
    look = ["find", "/app", "/opt", "/usr", "/etc", "-writable", "-not", "-type", "l"]
    done = subprocess.run(
        [client, "run", "--rm", "--network", "none", built[stage], *look],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_an_image_says_where_it_comes_from(stage: str, config: dict) -> None:
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in config["Labels"].items()
    }
    assert labels["title"] == f"scgpt-perturb {stage}"
    assert labels["licenses"] == "MIT"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert labels["source"] == "unknown" or labels["source"].startswith("https://")
    assert labels["version"] == __version__
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["SCGPT_PERTURB_REVISION"] == labels["revision"]
    assert environment["SCGPT_PERTURB_IMAGE"] == images.development_image(stage)


def test_an_image_holds_no_secret(stage: str, client: str, config: dict, built: dict) -> None:
    secret = re.compile("TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)
    names = [entry.split("=")[0] for entry in config["Env"]]
    assert not [name for name in names if secret.search(name)]
    history = subprocess.run(
        [client, "history", "--no-trunc", "--format", "{{.CreatedBy}}", built[stage]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not secret.search(history)


def test_an_image_holds_the_code_of_its_stage_and_nothing_else_of_the_project(
    stage: str, inside: dict
) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for path in images.content_of(stage)
        if path.is_relative_to(ROOT / "components")
    }
    assert set(inside["files"]) == wanted


def test_only_where_torch_compiles_is_a_compiler_and_nowhere_is_pip_in_the_environment(
    stage: str, inside: dict
) -> None:
    assert inside["tools"] == (COMPILER if stage in COMPILING else [])
    assert not inside["pip"]
    assert inside["python"] == "/opt/venv/bin/python3"


def test_an_image_leaves_no_package_cache_behind(
    stage: str, client: str, built: dict[str, str]
) -> None:
    look = "find / -xdev ( -path */.cache/pip/* -o -path /build/* ) -print -quit"
    done = subprocess.run(
        [client, "run", "--rm", "--user", "0", "--network", "none", built[stage], *look.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""


def test_every_version_in_an_image_is_the_locks(inside: dict) -> None:
    lines = images.PACKAGES_LOCK.read_text().split()
    lock = {_folded(name): version for name, version in (line.split("==") for line in lines)}
    for name, version in inside["packages"].items():
        # On a machine with CUDA, torch brings its own libraries, each of a version it names.
        if not name.startswith(("nvidia-", "triton", "cuda-")):
            assert lock.get(_folded(name)) == version.removesuffix("+cpu"), name


@pytest.mark.parametrize("package", ONLY_IN)
def test_an_image_carries_a_heavy_package_only_where_it_is_used(
    package: str, stage: str, inside: dict
) -> None:
    there = _folded(package) in {_folded(name) for name in inside["packages"]}
    assert there == (stage in ONLY_IN[package])


def test_images_with_torch_share_its_layer_to_the_byte(client: str, built: dict[str, str]) -> None:
    base = _layers(client, BASE)
    layers = {stage: _layers(client, image) for stage, image in built.items()}
    assert all(found[: len(base)] == base for found in layers.values())
    first = {stage: found[len(base)] for stage, found in layers.items()}
    assert len({first[stage] for stage in TORCH}) == 1
    assert sum(digest == first["prior"] for digest in first.values()) == len(TORCH)


@pytest.mark.parametrize("image", TORCH)
def test_what_an_image_has_beside_the_shared_layer_is_small(
    image: str, client: str, built: dict[str, str]
) -> None:
    own, shared, base = _sizes(client, built[image])
    assert own / 1e6 < MOST_OWN[image]
    # Else nothing would be shared: PyTorch alone is 750 MB, without CUDA.
    assert shared / 1e6 > 1000
    assert base == _size(client, BASE)


def test_the_shared_layer_is_the_same_whenever_it_is_built(
    client: str, built: dict[str, str]
) -> None:
    """No file has a time, and no compiled one knows the time of its source."""
    look = """
import pathlib
paths = [path for path in pathlib.Path("/opt/torch").rglob("*")]
compiled = [path for path in paths if path.suffix == ".pyc"]
assert len(compiled) > 1000
for path in paths:
    assert path.lstat().st_mtime == 0, path
for path in compiled:
    with path.open("rb") as file:
        assert file.read(8)[4:] == bytes([1, 0, 0, 0]), path  # PEP 552: by a hash, not checked
"""
    run = [client, "run", "--rm", "--network", "none", built["predict"], "python3", "-c", look]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


C_FILE = """
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef launcher = {PyModuleDef_HEAD_INIT, "launcher", "", -1, methods};
PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&launcher); }
"""
COMPILE = """
import os, subprocess, sys, sysconfig
open("launcher.c", "w").write(sys.argv[1])
headers = sysconfig.get_path("include")
command = ["gcc", "launcher.c", "-O3", "-shared", "-fPIC", "-I", headers, "-o", "launcher.so"]
subprocess.run(command, check=True)
sys.path.insert(0, os.getcwd())
import launcher
print(launcher.answer(), launcher.__file__, os.getuid())
"""
"""As Triton builds what starts a kernel."""


@pytest.mark.parametrize("image", COMPILING)
def test_what_triton_compiles_can_be_loaded(image: str, client: str, built: dict[str, str]) -> None:
    # A tmpfs of Docker's may hold no program unless told; the /tmp of a pod may.
    options = ["--rm", "--read-only", "--network", "none", "--tmpfs", "/tmp:exec"]
    options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    done = subprocess.run(
        [client, "run", *options, built[image], "python3", "-c", COMPILE, C_FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("42 /tmp/launcher.so 10001\n", 0), done.stderr


def _layers(client: str, image: str) -> list[str]:
    inspect = [client, "image", "inspect", "--format", "{{json .RootFS.Layers}}", image]
    return json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)


def _size(client: str, image: str) -> int:
    inspect = [client, "image", "inspect", "--format", "{{.Size}}", image]
    return int(subprocess.run(inspect, capture_output=True, check=True).stdout)


def _sizes(client: str, image: str) -> tuple[int, int, int]:
    """Return the bytes over the shared layer, of that layer, and of the base."""
    history = [client, "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", image]
    done = subprocess.run(history, capture_output=True, text=True, check=True)
    rows = [line.partition(" ") for line in done.stdout.splitlines()]  # the latest first
    sizes = [int(size) for size, _, _ in rows]
    place = next(i for i, (_, _, made_by) in enumerate(rows) if "COPY /layer/ /" in made_by)
    return sum(sizes[:place]), sizes[place], sum(sizes[place + 1 :])


def _folded(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
