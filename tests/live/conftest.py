"""A cluster that already runs, and a run that several checks look at; see manifests/README.md."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import bare_host
from pipelines.package import Package, read_package
from pipelines.run import PARAMS, read_params
from pipelines.submit import COMPILED
from tests.live.cluster import ACCOUNT, Finished, Kubectl, Live, say

HOST = os.environ.get("LIVE_HOST", "")
CONTEXT = os.environ.get("LIVE_CONTEXT", "")
NAMESPACE = os.environ.get("LIVE_NAMESPACE", "") or "kubeflow"
PACKAGES = Path(os.environ.get("LIVE_PACKAGES", "") or COMPILED)
STAMP = int(time.time())
"""In every name and seed: nothing of this suite is in the cache yet."""
SCREEN = (
    "sim://screen?cells={cells}&genes={genes}&perturbations={perturbations}&lines=4&seed={seed}"
)


def screen(cells: int, genes: int, perturbations: int) -> str:
    """Return a generated screen that no run has seen."""
    return SCREEN.format(cells=cells, genes=genes, perturbations=perturbations, seed=STAMP)


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """The cluster; everything that was made there is taken away in the end."""
    if not HOST:
        pytest.skip("no cluster: make test-live HOST=<address of KFP's UI> [CONTEXT=<of kubectl>]")
    begun = time.monotonic()
    # Ask what the first run is not to find missing minutes later.
    Kubectl(CONTEXT, NAMESPACE)("get", "serviceaccount,priorityclass", ACCOUNT)
    cluster = Live.at(bare_host(HOST), CONTEXT, NAMESPACE, f"live-{STAMP}")
    yield cluster
    left = cluster.clean()
    say(f"{(time.monotonic() - begun) / 60:.0f} minutes in all; artifacts stay in their store")
    assert not left, "not taken away:\n" + "\n".join(left)


def package_of(pipeline: str) -> Package:
    """Return the compiled pipeline for clusters without GPUs."""
    return read_package(PACKAGES / f"{pipeline}-cpu.yaml")


@pytest.fixture(scope="session")
def package() -> Package:
    """The pipeline that trains."""
    return package_of("scgpt-perturb")


@pytest.fixture(scope="session")
def params() -> dict[str, Any]:
    """The demo's parameters, on a screen of this suite's own, and a seed that no prior had."""
    own = {"dataset": screen(6000, 400, 40), "seed": STAMP, "prior": "none"}
    return read_params(PARAMS / "demo.yaml", []) | own


@pytest.fixture(scope="session")
def demo(live: Live, package: Package, params: dict[str, Any]) -> Finished:
    """The demo, with nothing from the cache."""
    return live.finish(live.start(package, "demo", params), 20)
