"""KFP's Docker runner, set up so that a task in its image sees what it needs and nothing more."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from components.shared.errors import InputError
from components.shared.pretrained import parse_pretrained
from components.shared.storage import SHA256, local_path, scheme_of
from pipelines.scheduling import USER

REMOTE = ("gs", "hf", "http", "https")
ENDPOINTS = ("HF_ENDPOINT", "STORAGE_EMULATOR_HOST", "WANDB_BASE_URL")
"""Addresses of services, which may be of this machine."""
ENVIRONMENT = (
    *ENDPOINTS,
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "WANDB_PROJECT",
)
"""What a task's environment may have from here."""


def here(uri: str) -> Path | None:
    """Return the path a URI of this machine names, None for any other."""
    bare = uri.partition(SHA256)[0]
    return local_path(bare) if bare and scheme_of(bare) in ("", "file") else None


def docker_runner(
    params: Mapping[str, Any], root: Path, images: Mapping[str, str]
) -> local.DockerRunner:
    """Return a runner whose containers have a read-only root file system and no capabilities.

    They see ``root`` and the other runs beside it, and, to read only, the local files that
    parameters name; they have a network only if a parameter or a key asks for one.

    Args:
        params: the pipeline's parameters; relative paths are as seen from the working folder.
        root: folder of the run; what is made in it belongs to whoever runs this, or to the images'
            user if that is root.
        images: image by stage.

    Raises:
        InputError: no engine answers, or an image is not built.
    """
    import docker
    from docker.types import Mount

    try:
        client = docker.from_env()
        known = {tag for image in client.images.list() for tag in image.tags}
        client.close()
    except docker.errors.DockerException as error:
        raise InputError(f"no Docker engine answers ({error}); start it") from None
    missing = sorted(set(images.values()) - known)
    if missing:
        raise InputError(f"image {missing[0]} is not built; run make images")
    environment = {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    inputs, outputs = _inputs(params), _outputs(params)
    credentials = environment.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    # Cached tasks left their outputs in runs beside this one.
    read = {root.parent, *_paths([*inputs, credentials])}
    # On the disk and not in memory, and kept: a download that was cut goes on in the next run.
    scratch = root.parent / ".tmp"
    scratch.mkdir(exist_ok=True)
    write = {scratch, *(path.parent for path in _paths(outputs))}
    mounts = [
        Mount(str(path), str(path.resolve()), type="bind", read_only=path not in write)
        for path in sorted(read | write)
        if path.exists()
    ]
    return local.DockerRunner(
        user=_owner_of(root, scratch),
        read_only=True,
        tmpfs={"/tmp": "size=8g,mode=1777"},  # noqa: S108
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode=_network([*inputs, *outputs], environment),
        environment=environment | {"TMPDIR": str(scratch)},
        working_dir=str(Path.cwd()),
        mounts=mounts,
    )


def _owner_of(*folders: Path) -> str:
    """Return the user tasks run as, having given ``folders`` to them."""
    if os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    for folder in folders:
        os.chown(folder, USER, USER)
    return f"{USER}:{USER}"


def _inputs(params: Mapping[str, Any]) -> list[str]:
    """Return the URIs and paths that parameters name to be read."""
    return [
        str(params["dataset"]),
        str(params.get("prior") or ""),
        parse_pretrained(str(params["pretrained"])).vocabulary_uri,
        str((params.get("split_options") or {}).get("split_file") or ""),
    ]


def _outputs(params: Mapping[str, Any]) -> list[str]:
    """Return the URIs and paths that parameters name to be written."""
    return [str(params.get("publish_to") or ""), str(params.get("checkpoints") or "")]


def _paths(uris: Iterable[str]) -> set[Path]:
    """Return those of ``uris`` that are on this machine, as a task will name them."""
    return {path.absolute() for path in map(here, uris) if path}


def _network(uris: Iterable[str], environment: Mapping[str, str]) -> str:
    remote = any(scheme_of(uri) in REMOTE for uri in uris)
    if not remote and "WANDB_API_KEY" not in environment:
        return "none"
    return "host" if any(name in environment for name in ENDPOINTS) else "bridge"
