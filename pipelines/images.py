"""The images of the stages: their names, and building and pushing them.

    python -m pipelines.images build
    python -m pipelines.images list
    python -m pipelines.images push REGISTRY

In development an image is named by the content that goes into it, so a name never means two things:
KFP's cache keys on the name. A release names images by digest, from `images/images.lock`. This
module needs nothing but the standard library and a Docker client that knows BuildKit.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from components import __version__
from components.shared.telling.errors import InputError, one_line_errors, say

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "images"
DOCKERFILE = IMAGES / "Dockerfile"
STAGES = IMAGES / "stages.toml"
PACKAGES_LOCK = IMAGES / "requirements.lock"
IMAGES_LOCK = IMAGES / "images.lock"
PLATFORM = "linux/amd64"
NOT_CONTENT = ("README.md", "*.pyc", "*.nbi", "*.nbc", "*.partial", "*.swp", ".*")
"""Names that `.dockerignore` keeps out of a build, numba's cache among them."""


def stages() -> list[str]:
    """Return the stages that have an image."""
    return sorted(tomllib.loads(STAGES.read_text()))


def differences(stage: str) -> dict[str, str]:
    """Return the arguments of the Dockerfile in which the image of ``stage`` is its own."""
    said = tomllib.loads(STAGES.read_text())[stage]
    return {"STAGE": stage, "BASE": said["base"], "ABOUT": said["about"]}


def content_of(stage: str) -> Iterator[Path]:
    """Yield every file that goes into the image of ``stage``, in a fixed order."""
    yield from (DOCKERFILE, PACKAGES_LOCK, *sorted((IMAGES / stage).glob("*.in")))
    if differences(stage)["BASE"] != "plain":
        yield from sorted((IMAGES / "torch").glob("*.in"))
    yield ROOT / "components" / "__init__.py"
    for folder in ("shared", stage):
        for path in sorted((ROOT / "components" / folder).rglob("*")):
            if path.is_file() and not any(fnmatch(path.name, name) for name in NOT_CONTENT):
                yield path


def development_image(stage: str) -> str:
    """Return the name of an image, its tag made of the content that goes into it."""
    digest = hashlib.sha256(json.dumps(differences(stage)).encode())
    for path in content_of(stage):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return f"scgpt-perturb/{stage}:{digest.hexdigest()[:16]}"


def development_images() -> dict[str, str]:
    """Return the image of every stage as `make images` names it."""
    return {stage: development_image(stage) for stage in stages()}


def released_images(lock: Path = IMAGES_LOCK) -> dict[str, str]:
    """Return the image of every stage as `make push` pinned it, if it is of what is here now.

    Raises:
        InputError: no lock, a stage is missing from it, an image is not named by digest, or its
            content is not what is here now.
    """
    try:
        pinned = json.loads(lock.read_text())
        found = {stage: (pinned[stage]["image"], pinned[stage]["built_from"]) for stage in stages()}
    except OSError:
        raise InputError(f"{lock}: no such file; make push REGISTRY=… writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{lock}: is not a lock of every stage's image ({type(error).__name__}: {error}); "
            "make push REGISTRY=… writes it"
        ) from None
    for stage, (image, built_from) in found.items():
        if not re.fullmatch(rf"[^@:\s]+(:\d+)?[^@:\s]*/{stage}@sha256:[0-9a-f]{{64}}", str(image)):
            raise InputError(
                f"{lock}: {stage} is '{image}'; expected <registry>/{stage}@sha256:<64 digits>, "
                "since a tag can move and KFP's cache would not notice; run make push REGISTRY=…"
            )
        if built_from != development_image(stage):
            raise InputError(
                f"{lock}: {stage} was built from {built_from}, the code here makes "
                f"{development_image(stage)}; run make images and make push REGISTRY=…"
            )
    return {stage: image for stage, (image, _) in found.items()}


def docker() -> str:
    """Return a Docker client that knows BuildKit, `DOCKER` in the environment first.

    Raises:
        InputError: there is none, or no engine answers it.
    """
    wanted = os.environ.get("DOCKER") or "docker"
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = [path for folder in folders if (path := shutil.which(wanted, path=folder))]
    for client in found:
        # Clients from version 23 on need the buildx plugin for BuildKit; older ones have it inside.
        said = _output(client, "version", "--format", "{{.Client.Version}} {{.Server.Version}}")
        if not said:
            continue
        if int(said.split(".")[0]) < 23 or _output(client, "buildx", "version"):
            return client
    raise InputError(
        f"no '{wanted}' with BuildKit reaches an engine; install Docker with the buildx plugin and "
        "start it, or set DOCKER"
    )


def engine_address(client: str) -> str:
    """Return where the engine of a client listens, as DOCKER_HOST says it."""
    return _output(client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")


def build(network: str) -> None:
    """Build the images that are not there yet, of code that does not change meanwhile.

    Raises:
        InputError: no engine, a build failed, or the code changed while it was built.
    """
    client = docker()
    images = development_images()
    source = source_address()
    for number, (stage, image) in enumerate(images.items(), start=1):
        where = f"[{number}/{len(images)}] {image}"
        if _output(client, "image", "inspect", "--format", "{{.Id}}", image):
            say(f"{where}: there already")
            continue
        say(f"{where}: building")
        started = time.perf_counter()
        arguments = differences(stage) | {
            "IMAGE": image,
            "REVISION": _revision(stage),
            "SOURCE": source or "unknown",
            "VERSION": __version__,
        }
        done = subprocess.run(
            [
                *(client, "build", "--platform", PLATFORM, "--network", network),
                *(f"--build-arg={name}={value}" for name, value in arguments.items()),
                *("--file", "images/Dockerfile", "--tag", image, "."),
            ],
            cwd=ROOT,
            env=os.environ | {"DOCKER_BUILDKIT": "1"},
            check=False,
        )
        if done.returncode:
            raise InputError(f"{image}: the build failed; its log is above")
        if development_image(stage) != image:
            _output(client, "image", "rm", image)
            raise InputError(f"{image}: the code changed while it was built; run it again")
        size = int(_output(client, "image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        say(f"{where}: {size:.0f} MB, {time.perf_counter() - started:.0f} s")


def push(registry: str, lock: Path = IMAGES_LOCK) -> None:
    """Push the images and write their digests to ``lock``; if a push fails it stays as it was.

    Raises:
        InputError: an image is not built, or a push failed; the lock is as it was then.
    """
    client = docker()
    pinned = {}
    for stage, image in development_images().items():
        if not _output(client, "image", "inspect", "--format", "{{.Id}}", image):
            raise InputError(f"{image}: is not built; run make images first")
        remote = f"{registry.rstrip('/')}/{stage}"
        tagged = f"{remote}:{image.rpartition(':')[2]}"
        say(f"pushing {tagged}")
        for command in (("tag", image, tagged), ("push", tagged)):
            done = subprocess.run([client, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"{tagged}: {done.stderr.strip() or done.stdout.strip()}")
        digest = re.search(r"digest: (sha256:[0-9a-f]{64})", done.stdout)
        if digest is None:
            raise InputError(f"{tagged}: was pushed, but docker did not say its digest")
        pinned[stage] = {"image": f"{remote}@{digest[1]}", "built_from": image}
    draft = lock.with_name(lock.name + ".partial")
    draft.write_text(json.dumps(pinned, indent=2) + "\n")
    draft.replace(lock)
    say(f"wrote {lock}: {len(pinned)} images")


def source_address() -> str:
    """Return the address of the source for people: the origin's, if it is a public kind."""
    origin = os.environ.get("SOURCE") or _git("remote", "get-url", "origin")
    if found := re.fullmatch(r"git@([^:]+):(.+?)(\.git)?", origin):
        return f"https://{found[1]}/{found[2]}"
    found = re.fullmatch(r"https://(?:[^@/]*@)?(.+?)(\.git)?", origin)
    return f"https://{found[1]}" if found else ""


def _revision(stage: str) -> str:
    """Return the commit, and whether what goes into the image differs from it."""
    paths = [str(path) for path in (STAGES, *content_of(stage))]
    changed = _git("status", "--porcelain", "--", *paths)
    return (_git("rev-parse", "HEAD") or "unknown") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return _output("git", "-C", str(ROOT), *arguments) if shutil.which("git") else ""


def _output(*command: str) -> str:
    """Return what a command prints, an empty string if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> None:
    """Build, list or push."""
    parser = argparse.ArgumentParser(description="The images of the stages.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build what is not there yet")
    building.add_argument("--network", default="default", help="as of docker build")
    commands.add_parser("list", help="print the name of each")
    pushing = commands.add_parser("push", help="push, and write images/images.lock")
    pushing.add_argument("registry", help="for example REGION-docker.pkg.dev/PROJECT/REPO")
    arguments = parser.parse_args()
    with one_line_errors("images"):
        if arguments.command == "build":
            build(arguments.network)
        elif arguments.command == "list":
            print(*development_images().values(), sep="\n")
        elif not arguments.registry:
            raise InputError("REGISTRY is empty; give make push REGISTRY=<host>/<path>")
        else:
            push(arguments.registry)


if __name__ == "__main__":
    main()
