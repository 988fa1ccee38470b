"""An engine, and the images built by it; where there is no engine every test here is skipped."""

import os
import subprocess
from pathlib import Path

import pytest

from components.shared.telling.errors import InputError
from pipelines import images

ROOT = Path(__file__).resolve().parents[2]
STARTER = "SCGPT_PERTURB_CONTAINER_HOST"


@pytest.fixture(scope="session")
def client() -> str:
    """A Docker client whose engine answers; one is started where there is a command for it."""
    try:
        return images.docker()
    except InputError:
        starter = Path(os.environ.get(STARTER, ROOT.parent / "shared" / "tools" / "container-host"))
        if starter.is_file():
            subprocess.run([str(starter)], check=False, stdin=subprocess.DEVNULL)
    try:
        return images.docker()
    except InputError as error:
        pytest.skip(f"no containers here: {error} (or set {STARTER} to a command that starts one)")


@pytest.fixture(scope="session")
def built(client: str) -> dict[str, str]:
    """The image of every stage, built by the command a user builds them with."""
    subprocess.run(["make", "images", "NETWORK=host"], cwd=ROOT, check=True)
    return images.development_images()
