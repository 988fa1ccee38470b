"""What a task in a container of this machine may see."""

import os
from pathlib import Path

import pytest

docker = pytest.importorskip("docker")

from components.finetune.places import OWN_PLACE  # noqa: E402
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
    monkeypatch.setattr(containers, "GCLOUD_CREDENTIALS", tmp_path / "adc.json")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    for name in containers.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    root, state = tmp_path / "runs" / "run", tmp_path / "runs" / "state"
    root.mkdir(parents=True)

    def runner(**params: str) -> dict:
        given = {"dataset": "sim://screen", "pretrained": "random://tiny"} | params
        made = containers.docker_runner(given, root, {"split": "scgpt-perturb/split:1"}, state)
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
    scratch = str(runs / f".tmp-{os.getuid() or containers.USER}")
    state = str(runs / "state")
    assert seen == {str(runs): True, scratch: False, state: False}
    assert arguments["environment"] == {"TMPDIR": scratch, OWN_PLACE: state}


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
    )["mounts"]
    read = {Path(mount["Target"]).name for mount in mounts if mount["ReadOnly"]}
    assert read == {"runs", "cells.h5ad", "prior.npz", "vocab.json"}


def test_folders_to_publish_and_keep_checkpoints_in_are_made_and_given(
    runner_for, tmp_path: Path
) -> None:
    published, kept = tmp_path / "new" / "mine", tmp_path / "kept"
    mounts = runner_for(publish_to=str(published), checkpoints=str(kept))["mounts"]
    write = {mount["Target"] for mount in mounts if not mount["ReadOnly"]}
    assert {str(published.parent), str(kept)} <= write
    for folder in (published.parent, kept):
        assert folder.stat().st_uid == (os.getuid() or containers.USER)
    assert not published.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="others' tasks are themselves")
def test_root_is_told_at_once_that_tasks_may_not_write_to_its_folder(
    runner_for, tmp_path: Path
) -> None:
    with pytest.raises(containers.InputError, match="tasks in containers run as 10001"):
        runner_for(publish_to=str(tmp_path / "mine"))


def test_the_login_of_gcloud_is_passed_on(runner_for, tmp_path: Path) -> None:
    login = tmp_path / "adc.json"
    login.write_text("{}")
    arguments = runner_for(dataset="gs://bucket/x")
    assert arguments["environment"]["GOOGLE_APPLICATION_CREDENTIALS"] == str(login)
    assert {m["Target"]: m["ReadOnly"] for m in arguments["mounts"]}[str(login)]


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
        ({}, {"WANDB_MODE": "offline", "WANDB_ENTITY": "lab"}, "none"),
        ({"dataset": "s3://bucket/x"}, {"AWS_ACCESS_KEY_ID": "a"}, "bridge"),
        ({"publish_to": "s3://b"}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "host"),
        ({"dataset": "minio://b/x"}, {"MINIO_SERVICE_SERVICE_HOST": "127.0.0.1"}, "host"),
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
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    params = {"dataset": "sim://screen", "pretrained": "random://tiny"}
    with pytest.raises(
        containers.InputError, match=r"scgpt-perturb/prior:2 is not built; run make"
    ):
        containers.docker_runner(params, tmp_path, {"prior": "scgpt-perturb/prior:2"}, tmp_path)
