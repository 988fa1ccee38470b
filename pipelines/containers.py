"""KFP's Docker runner, set up so that a task in its image sees what it needs and nothing more."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from components.finetune.places import OWN_PLACE
from components.shared.storage.buckets import SCHEMES
from components.shared.storage.files import SHA256, at_home, local_path
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, refusing
from pipelines.images import docker as docker_client
from pipelines.images import engine_address
from pipelines.inputs import input_uris
from pipelines.scheduling import USER

REMOTE = (*SCHEMES, "hf", "http", "https")
ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "HF_ENDPOINT",
    "MINIO_SERVICE_SERVICE_HOST",
    "MINIO_SERVICE_SERVICE_PORT",
    "STORAGE_EMULATOR_HOST",
    "WANDB_BASE_URL",
)
"""Addresses of services, which may be of this machine."""
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
GCLOUD_CREDENTIALS = at_home(Path("~/.config/gcloud/application_default_credentials.json"))
"""Credentials that `gcloud auth application-default login` leaves."""
ENVIRONMENT = (
    *ENDPOINTS,
    CREDENTIALS,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "HF_TOKEN",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
    "WANDB_API_KEY",
    "WANDB_ENTITY",
    "WANDB_MODE",
    "WANDB_PROJECT",
)
"""Variables that a task's environment may have from here."""


def here(uri: str) -> Path | None:
    """Return the path a URI of this machine names, None for any other."""
    bare = uri.partition(SHA256)[0]
    return local_path(bare) if bare and scheme_of(bare) in ("", "file") else None


def docker_runner(
    params: Mapping[str, Any], root: Path, images: Mapping[str, str], state: Path
) -> local.DockerRunner:
    """Return a runner whose containers have a read-only root file system and no capabilities.

    They see ``root``, the folder of the run, and the other runs beside it, and, to read only, the
    local files that parameters name; they have a network only if a parameter or a key needs one.
    What is made in ``root`` belongs to whoever runs this, or to the images' user if that is root.
    In ``state`` training keeps checkpoints for the same command to resume from.

    Raises:
        InputError: no engine answers, an image is not built, or a folder cannot be written to.
    """
    from docker.types import Mount

    _check_built(images)
    environment = {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    if CREDENTIALS not in environment and GCLOUD_CREDENTIALS.is_file():
        environment[CREDENTIALS] = str(GCLOUD_CREDENTIALS)
    user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{USER}:{USER}"
    # On the disk and not in memory, and kept: a download that was cut off resumes in the next run.
    scratch = root.parent / f".tmp-{user.partition(':')[0]}"
    published = {path.parent for path in _paths([params.get("publish_to")])}
    write = {root, scratch, state, *published, *_paths([params.get("checkpoints")])}
    for folder in write:
        _give(folder, new=folder == root)
    # Cached tasks left their outputs in runs beside this one.
    read = {root.parent, *_paths([*_inputs(params), environment.get(CREDENTIALS)])}
    mounts = [
        Mount(str(path), str(path.resolve()), type="bind", read_only=path not in write)
        for path in sorted((read | write) - {root})
        if path.exists()
    ]
    uris = [*_inputs(params), params.get("publish_to"), params.get("checkpoints")]
    return local.DockerRunner(
        user=user,
        read_only=True,
        tmpfs={"/tmp": "size=8g,mode=1777"},  # noqa: S108
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode=_network(uris, environment),
        environment=environment | {"TMPDIR": str(scratch), OWN_PLACE: str(state)},
        working_dir=str(Path.cwd()),
        mounts=mounts,
    )


def _check_built(images: Mapping[str, str]) -> None:
    import docker

    if not os.environ.get("DOCKER_HOST"):
        # Docker's Python client does not know the contexts of its command line.
        os.environ["DOCKER_HOST"] = engine_address(docker_client())
    with refusing(docker.errors.DockerException, "no Docker engine answers", "; start it"):
        client = docker.from_env()
        known = {tag for image in client.images.list() for tag in image.tags}
        client.close()
    missing = sorted(set(images.values()) - known)
    if missing:
        raise InputError(f"image {missing[0]} is not built; run make images")


def _give(folder: Path, *, new: bool = False) -> None:
    """Make a folder that tasks write to; root's tasks are another user, who is given a new one."""
    new = new or not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid():
        return
    if new or not any(folder.iterdir()):
        os.chown(folder, USER, USER)
    facts = folder.stat()
    if facts.st_uid != USER and not facts.st_mode & stat.S_IWOTH:
        raise InputError(
            f"{folder}: belongs to user {facts.st_uid}, and tasks in containers run as {USER} when "
            "root starts them; give a folder that is empty or that user's"
        )


def _inputs(params: Mapping[str, Any]) -> list[str]:
    """Return the URIs and paths that parameters name to be read."""
    return [uri for uris in input_uris(params).values() for uri in uris]


def _paths(uris: Iterable[str | None]) -> set[Path]:
    """Return those of ``uris`` that are on this machine, as a task will name them."""
    return {path.absolute() for path in (here(uri or "") for uri in uris) if path}


def _network(uris: Iterable[str | None], environment: Mapping[str, str]) -> str:
    """Return the network of the run: KFP's runner has one for all tasks."""
    remote = any(scheme_of(uri or "") in REMOTE for uri in uris)
    if not remote and "WANDB_API_KEY" not in environment:
        return "none"
    return "host" if any(name in environment for name in ENDPOINTS) else "bridge"
