"""What goes into the images, and how they are named."""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.shared.telling.errors import InputError
from pipelines import compile as compiling
from pipelines import images
from pipelines.scheduling import CPU, H100, USER
from tests.imports import packages_of

NOT_IMPORTED_BY_NAME = {
    "kfp": "runs the component",
    "pyarrow": "pandas' engine for parquet",
    "ipython": "scgpt's model imports it",
    "matplotlib": "scgpt's model imports it",
}


def folded(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def declared(stage: str) -> set[str]:
    return {folded(n) for n in (images.IMAGES / stage / "requirements.in").read_text().split()}


def imported(stage: str) -> set[str]:
    """Return the distributions that a stage imports, scgpt aside: it is installed by itself."""
    owners = importlib.metadata.packages_distributions()
    google = {
        "google.api_core": "google-api-core",
        "google.auth": "google-auth",
        "google.cloud": "google-cloud-storage",
    }
    names = (google.get(package) or owners[package][0] for package in packages_of(stage))
    return {folded(name) for name in names}


@pytest.mark.parametrize("stage", images.stages())
def test_a_stage_imports_only_what_its_image_declares(stage: str) -> None:
    assert imported(stage) - {"scgpt"} <= declared(stage)
    assert declared(stage) - imported(stage) <= set(NOT_IMPORTED_BY_NAME)


@pytest.mark.parametrize("stage", images.stages())
def test_every_declared_name_is_pinned_once_in_the_lock(stage: str) -> None:
    lines = images.PACKAGES_LOCK.read_text().split()
    pinned = [folded(line.split("==")[0]) for line in lines]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^=<>~*+]+", line) for line in lines)
    assert all(pinned.count(name) == 1 for name in declared(stage))


def test_every_stage_has_an_image_and_a_pod() -> None:
    stages = {path.parent.name for path in images.ROOT.glob("components/*/component.py")}
    assert set(images.stages()) == stages == set(H100.pods) == set(CPU.pods)


def test_an_image_runs_as_the_user_of_its_pod() -> None:
    [user] = re.findall("^USER (.*)$", images.DOCKERFILE.read_text(), re.MULTILINE)
    assert user == f"{USER}:{USER}"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one stage."""
    for name in ("IMAGES", "DOCKERFILE", "STAGES", "PACKAGES_LOCK"):
        place = tmp_path / getattr(images, name).relative_to(images.ROOT)
        monkeypatch.setattr(images, name, place)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    for name in (
        "images/requirements.lock",
        "images/Dockerfile",
        "images/split/requirements.in",
        "images/split/no-deps.in",
        "images/torch/requirements.in",
        "images/ingest/requirements.in",
        "components/__init__.py",
        "components/shared/artifacts/cells.py",
        "components/split/split.py",
        "components/split/README.md",
        "components/ingest/ingest.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "images/stages.toml").write_text(SPLIT)
    return tmp_path


SPLIT = "[split]\nbase = 'torch'\nabout = 'A role for every cell'\n"


@pytest.mark.parametrize(
    ("said", "renamed"),
    [
        (SPLIT, False),
        (f"{SPLIT}[ingest]\nbase = 'plain'\nabout = ''\n", False),
        (SPLIT.replace("torch", "compiler"), True),
        (SPLIT.replace("every", "each"), True),
    ],
)
def test_an_image_is_named_by_what_is_said_of_its_stage(
    tree: Path, said: str, renamed: bool
) -> None:
    before = images.development_image("split")
    images.STAGES.write_text(said)
    assert (images.development_image("split") != before) == renamed


def test_what_the_layer_with_torch_is_made_of_is_no_content_of_an_image_without(tree: Path) -> None:
    torch = images.IMAGES / "torch/requirements.in"
    assert torch in images.content_of("split")
    images.STAGES.write_text(SPLIT.replace("torch", "plain"))
    assert torch not in images.content_of("split")


@pytest.mark.parametrize(
    ("changed", "renamed"),
    [
        ("images/requirements.lock", True),
        ("images/Dockerfile", True),
        ("images/split/requirements.in", True),
        ("images/split/no-deps.in", True),
        ("images/torch/requirements.in", True),
        ("images/ingest/requirements.in", False),
        ("components/shared/artifacts/cells.py", True),
        ("components/split/split.py", True),
        ("components/split/new.py", True),
        ("components/split/README.md", False),
        ("components/split/draft.partial", False),
        ("components/split/.editor.swp", False),
        ("components/ingest/ingest.py", False),
    ],
)
def test_an_image_is_named_by_what_goes_into_it(tree: Path, changed: str, renamed: bool) -> None:
    before = images.development_image("split")
    assert images.development_image("split") == before
    (tree / changed).write_text("changed")
    assert (images.development_image("split") != before) == renamed


TORCH = ["prior", "finetune", "predict"]


@pytest.mark.parametrize("stage", images.stages())
def test_all_that_the_dockerfile_copies_from_the_project_is_content(stage: str) -> None:
    text = images.DOCKERFILE.read_text().replace("\\\n", " ").replace("$STAGE", stage)
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    sources = {source for copy in copies if not copy[0].startswith("--from") for source in copy}
    assert {f"images/{stage}/*.in", f"components/{stage}", "images/torch/requirements.in"} < sources
    if stage not in TORCH:
        sources.remove("images/torch/requirements.in")
    copied = {path for source in sources for path in images.ROOT.glob(source)}
    content = set(images.content_of(stage))
    for path in copied:
        assert path in content or any(path in other.parents for other in content), path
    for path in content - {images.DOCKERFILE}:
        assert path in copied or any(other in path.parents for other in copied), path


def test_the_layer_with_torch_holds_what_all_three_need() -> None:
    # kfp runs in every image, and one of its packages is built as it is installed.
    common = set.intersection(*map(declared, TORCH)) - {"kfp"}
    assert common == {
        folded(n) for n in (images.IMAGES / "torch/requirements.in").read_text().split()
    }


def test_layers_that_images_share_are_made_by_instructions_that_know_no_stage() -> None:
    text = images.DOCKERFILE.read_text()
    shared, packages, image = re.split(r"^FROM \$BASE.*$", text, flags=re.MULTILINE)
    bases = {stage: images.differences(stage)["BASE"] for stage in images.stages()}
    assert {stage for stage, base in bases.items() if base != "plain"} == set(TORCH)
    assert {stage for stage, base in bases.items() if base == "compiler"} == set(TORCH[1:])
    assert set(bases.values()) == set(re.findall(r" AS (plain|torch|compiler)$", shared, re.M))
    assert re.findall("^ARG .*", shared, re.MULTILINE) == ["ARG BASE"]
    # An argument reaches every RUN below it, and makes another layer of it.
    assert "ARG STAGE" in packages
    assert "RUN" in image and "RUN" not in image.partition("\nARG")[2]


def lock_of(**images_of: str) -> str:
    return json.dumps(
        {
            stage: {"image": image, "built_from": images.development_image(stage)}
            for stage, image in images_of.items()
        }
    )


def digest(stage: str) -> str:
    return f"registry.example/team/{stage}@sha256:{'0' * 64}"


def test_the_names_of_all_images_are_listed_for_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["images", "list"])
    images.main()
    assert capsys.readouterr().out.split() == list(images.development_images().values())


def test_a_release_names_every_image_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "images.lock"
    lock.write_text(lock_of(**{stage: digest(stage) for stage in images.stages()}))
    written = compiling.compile_to(tmp_path / "release", images.released_images(lock))
    found = {
        executor["container"]["image"]
        for path in written
        for executor in compiling.documents(path)[0]["deploymentSpec"]["executors"].values()
    }
    assert found == {digest(stage) for stage in images.stages()}


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("registry.example/team/split:1.0", "a tag can move"),
        ("registry.example/team/split:1.0@sha256:12", "a tag can move"),
        (f"registry.example/team/split:1.0@sha256:{'0' * 64}", "a tag can move"),
        (f"registry.example/team/ingest@sha256:{'0' * 64}", "a tag can move"),
        ("", "a tag can move"),
        (5, "a tag can move"),
    ],
)
def test_a_release_refuses_a_tag(tree: Path, tmp_path: Path, image: Any, says: str) -> None:
    lock = tmp_path / "images.lock"
    lock.write_text(lock_of(split=image))
    with pytest.raises(InputError, match=says):
        images.released_images(lock)


def test_a_release_refuses_images_of_other_code(tree: Path, tmp_path: Path) -> None:
    lock = tmp_path / "images.lock"
    lock.write_text(lock_of(split=digest("split")))
    assert images.released_images(lock) == {"split": digest("split")}
    local = f"localhost:5000/split@sha256:{'0' * 64}"
    lock.write_text(lock_of(split=local))
    assert images.released_images(lock) == {"split": local}
    (tree / "components" / "split" / "split.py").write_text("changed")
    with pytest.raises(InputError, match="the code here makes"):
        images.released_images(lock)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        *((text, "is not a lock") for text in ("{", "[]", "{}", '{"split": "x"}', '{"split": {}}')),
    ],
)
def test_a_lock_that_cannot_be_read_says_what_writes_it(
    tree: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "images.lock").write_text(text)
    with pytest.raises(InputError, match=f"{says}.*make push"):
        images.released_images(tmp_path / "images.lock")


def test_without_an_engine_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(InputError, match="install Docker with the buildx plugin"):
        images.docker()


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("git@github.com:team/scgpt-perturb.git", "https://github.com/team/scgpt-perturb"),
        ("https://user:secret@github.com/team/x.git", "https://github.com/team/x"),
        ("https://github.com/team/x", "https://github.com/team/x"),
        ("/home/somebody/x", ""),
    ],
)
def test_the_source_of_an_image_is_a_public_address(
    origin: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE", origin)
    assert images.source_address() == address


def test_what_is_no_content_is_kept_out_of_a_build_too() -> None:
    ignored = (images.ROOT / ".dockerignore").read_text().split()
    assert {f"**/{name}" for name in images.NOT_CONTENT} <= set(ignored)


def test_code_that_changes_while_it_is_built_does_not_get_the_old_codes_name(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is a script in whose build the code changes."""
    client = tmp_path / "docker"
    client.write_text(
        "#!/bin/sh\n"
        f"echo $@ >> {tmp_path / 'calls'}\n"
        f"case $1 in build) echo changed > {tree / 'components/split/split.py'};;\n"
        '"image") [ "$2" = rm ];; esac\n'
    )
    client.chmod(0o755)
    monkeypatch.setattr(images, "docker", lambda: str(client))
    image = images.development_image("split")
    with pytest.raises(InputError, match="the code changed while it was built"):
        images.build("default")
    assert f"image rm {image}" in (tmp_path / "calls").read_text()
