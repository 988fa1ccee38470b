"""What a task in a container of this machine may see."""

import os
from pathlib import Path

import pytest

docker = pytest.importorskip("docker")

from pipelines import containers  # noqa: E402


class Engine:
    """Knows one image; stands for the engine's list of images alone."""

    class images:  # noqa: N801
        @staticmethod
        def list() -> list:
            return [type("Image", (), {"tags": ["scgpt-perturb/split:1"]})]

    def close(self) -> None:
        pass


@pytest.fixture
def runner_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(docker, "from_env", Engine)
    for name in containers.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "runs" / "run"
    root.mkdir(parents=True)

    def runner(**params: str) -> dict:
        given = {"dataset": "sim://screen", "pretrained": "random://tiny"} | params
        made = containers.docker_runner(given, root, {"split": "scgpt-perturb/split:1"})
        return made.container_run_args

    return runner


def test_a_task_has_no_rights_and_writes_only_where_it_should(runner_for, tmp_path: Path) -> None:
    arguments = runner_for()
    assert arguments["read_only"]
    assert arguments["cap_drop"] == ["ALL"]
    assert arguments["security_opt"] == ["no-new-privileges"]
    assert not arguments["user"].startswith("0:")
    runs = tmp_path / "runs"
    seen = {mount["Target"]: mount["ReadOnly"] for mount in arguments["mounts"]}
    assert seen == {str(runs): True, str(runs / ".tmp"): False}
    assert arguments["environment"] == {"TMPDIR": str(runs / ".tmp")}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_roots_run_belongs_to_the_user_of_the_images(runner_for, tmp_path: Path) -> None:
    runner_for()
    assert (tmp_path / "runs" / "run").stat().st_uid == containers.USER


def test_files_that_parameters_name_are_seen_but_not_written(runner_for, tmp_path: Path) -> None:
    for name in ("cells.h5ad", "vocab.json", "prior.npz"):
        (tmp_path / name).touch()
    mounts = runner_for(
        dataset=str(tmp_path / "cells.h5ad"),
        prior=(tmp_path / "prior.npz").as_uri(),
        pretrained=f"random://tiny?vocabulary={tmp_path / 'vocab.json'}",
        publish_to=str(tmp_path / "out" / "mine"),
    )["mounts"]
    seen = {Path(mount["Target"]).name: mount["ReadOnly"] for mount in mounts}
    assert {name for name, read_only in seen.items() if read_only} == {
        *("runs", "cells.h5ad", "prior.npz", "vocab.json")
    }
    (tmp_path / "out").mkdir()
    mounts = runner_for(publish_to=str(tmp_path / "out" / "mine"))["mounts"]
    assert {mount["Target"]: mount["ReadOnly"] for mount in mounts}[str(tmp_path / "out")] is False


def test_a_file_behind_a_link_is_seen_where_the_parameter_says(runner_for, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "cells.h5ad").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    mounts = runner_for(dataset=str(tmp_path / "link" / "cells.h5ad"))["mounts"]
    sources = {mount["Target"]: mount["Source"] for mount in mounts}
    assert sources[str(tmp_path / "link" / "cells.h5ad")] == str(tmp_path / "there" / "cells.h5ad")


@pytest.mark.parametrize(
    ("params", "environment", "network"),
    [
        ({}, {}, "none"),
        ({"dataset": "/data/cells.h5ad"}, {}, "none"),
        ({}, {"HF_TOKEN": "t", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}, "none"),
        ({"dataset": "gs://bucket/cells.h5ad"}, {}, "bridge"),
        ({"checkpoints": "gs://bucket/kept"}, {}, "bridge"),
        ({"pretrained": "hf://models/a/b"}, {}, "bridge"),
        ({}, {"WANDB_API_KEY": "k"}, "bridge"),
        ({"publish_to": "gs://b"}, {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}, "host"),
    ],
)
def test_there_is_a_network_only_where_something_is_reached_through_it(
    runner_for, monkeypatch: pytest.MonkeyPatch, params: dict, environment: dict, network: str
) -> None:
    runner_for()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = runner_for(**params)
    assert arguments["network_mode"] == network
    assert arguments["environment"].items() >= environment.items()


def test_an_image_that_is_not_built_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(docker, "from_env", Engine)
    params = {"dataset": "sim://screen", "pretrained": "random://tiny"}
    with pytest.raises(
        containers.InputError, match=r"scgpt-perturb/prior:2 is not built; run make"
    ):
        containers.docker_runner(params, tmp_path, {"prior": "scgpt-perturb/prior:2"})
