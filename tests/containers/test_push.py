"""Pushing to a real registry on this machine, and what a release is compiled to."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.telling.errors import InputError
from pipelines import images

SMALL = ["conclude", "publish"]
"""The smallest images; pushing the others takes minutes and is the same."""


def forget(client: str, registry: str) -> None:
    """Take the names of pushed images away."""
    listed = [client, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    for stage in SMALL:
        found = subprocess.run([*listed, f"{registry}/{stage}"], capture_output=True, text=True)
        for name in found.stdout.split():
            subprocess.run([client, "image", "rm", name], capture_output=True)


@pytest.fixture
def registry(client: str, tmp_path: Path) -> Iterator[str]:
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("no registry here: install the package docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "config.yml").write_text(json.dumps(config))
    server = subprocess.Popen(
        [program, "serve", str(tmp_path / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                    break
            time.sleep(0.1)
        yield f"{address}/team"
    finally:
        server.terminate()
        server.wait()
        forget(client, f"{address}/team")


def test_what_is_pushed_is_pinned_by_the_digest_the_registry_has(
    built: dict[str, str], registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "stages", lambda: SMALL)
    lock = tmp_path / "images.lock"
    images.push(registry, lock)
    pinned = images.released_images(lock)
    assert set(pinned) == set(SMALL)
    for stage, image in pinned.items():
        name, _, digest = image.partition("@")
        assert name == f"{registry}/{stage}"
        host, _, path = name.partition("/")
        request = urllib.request.Request(
            f"http://{host}/v2/{path}/manifests/{digest}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.headers["Docker-Content-Digest"] == digest


def test_a_push_that_fails_leaves_the_lock_as_it_was(
    client: str, built: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "stages", lambda: SMALL)
    lock = tmp_path / "images.lock"
    lock.write_text("before")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1/team/conclude"):
        images.push("127.0.0.1:1/team", lock)
    assert lock.read_text() == "before"
    forget(client, "127.0.0.1:1/team")


def test_an_image_that_is_not_built_is_not_pushed(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "development_images", lambda: {"split": "scgpt-perturb/split:0"})
    with pytest.raises(InputError, match="is not built; run make images first"):
        images.push("127.0.0.1:1/team", tmp_path / "images.lock")
