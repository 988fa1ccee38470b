"""The GitHub workflows: what GitHub would refuse, what would run stale, and what could leak."""

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import RELEASES
from pipelines.images import IMAGES_LOCK

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
BIN = Path(sys.executable).parent
MAY_WRITE = {("release", "images"): {"packages"}, ("release", "publish"): {"contents"}}
"""What a job may change; all others read."""
MAKE = re.compile(r"\bmake ([a-z-]+)")

Document = dict[str, Any]


def read(path: Path) -> Document:
    return yaml.safe_load(path.read_text())


def steps_of(document: Document) -> Iterator[Document]:
    """Yield the steps of a workflow or of a composite action."""
    jobs = document.get("jobs", {"action": document.get("runs", {})})
    for job in jobs.values():
        yield from job["steps"]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, flags=re.MULTILINE))


def problems(name: str, document: Document) -> Iterator[str]:
    """Yield what is wrong with a workflow or an action that its schema lets pass."""
    for step in steps_of(document):
        script, uses = step.get("run", ""), step.get("uses", "")
        for target in MAKE.findall(script):
            if target not in make_targets():
                yield f"make {target}: the Makefile has no such target"
        if "${{" in script:
            yield f"an expression in a script is code from outside: {script}"
        if uses.startswith("./"):
            if not (ROOT / uses / "action.yml").is_file():
                yield f"{uses}: there is no such action"
        elif uses and not re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", uses):
            yield f"{uses}: is not pinned to a commit"
        if (
            uses.startswith("actions/checkout@")
            and step["with"]["persist-credentials"] is not False
        ):
            yield "checkout leaves the token in the checkout"
    if "jobs" not in document:
        return
    if document.get("permissions") != {}:
        yield "permissions are not taken away at the top"
    if "concurrency" not in document:
        yield "no concurrency group"
    for job_name, job in document["jobs"].items():
        if "timeout-minutes" not in job:
            yield f"{job_name}: no timeout"
        writes = {what for what, how in job["permissions"].items() if how != "read"}
        if writes - MAY_WRITE.get((name, job_name), set()):
            yield f"{job_name}: may write {writes}"


@pytest.mark.parametrize(
    ("schema", "paths"),
    [("vendor.github-workflows", [*WORKFLOWS.values()]), ("vendor.github-actions", ACTIONS)],
)
def test_the_schema_of_github_is_met(schema, paths):
    assert paths
    command = [BIN / "check-jsonschema", "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*WORKFLOWS.values(), *ACTIONS], ids=lambda path: str(path.name))
def test_nothing_is_wrong_that_the_schema_lets_pass(path):
    assert list(problems(path.stem, read(path))) == []


def first_step(document: Document, key: str) -> Document:
    return next(step for step in steps_of(document) if key in step)


SEEDED: dict[str, tuple[Callable[[Document], Any], str]] = {
    "a target that was renamed": (
        lambda ci: first_step(ci, "run").update(run="make tests"),
        "no such target",
    ),
    "a tag, which can move": (
        lambda ci: first_step(ci, "uses").update(uses="actions/checkout@v7"),
        "not pinned",
    ),
    "an action that is gone": (
        lambda ci: first_step(ci, "uses").update(uses="./.github/actions/none"),
        "no such action",
    ),
    "a title that is run as code": (
        lambda ci: first_step(ci, "run").update(run="echo ${{ github.event.head_commit.message }}"),
        "code from outside",
    ),
    "a token left behind": (
        lambda ci: first_step(ci, "uses")["with"].update({"persist-credentials": True}),
        "leaves the token",
    ),
    "all permissions": (lambda ci: ci.update(permissions="write-all"), "not taken away"),
    "one permission too many": (
        lambda ci: ci["jobs"]["test"]["permissions"].update(contents="write"),
        "may write",
    ),
    "no timeout": (lambda ci: ci["jobs"]["test"].pop("timeout-minutes"), "no timeout"),
    "no concurrency group": (lambda ci: ci.pop("concurrency"), "no concurrency"),
}


@pytest.mark.parametrize("mistake", SEEDED)
def test_a_seeded_mistake_is_found(mistake):
    seed, says = SEEDED[mistake]
    document = copy.deepcopy(read(WORKFLOWS["ci"]))
    seed(document)
    assert any(says in problem for problem in problems("ci", document))


@pytest.mark.parametrize("path", [*WORKFLOWS.values(), *ACTIONS], ids=lambda path: str(path.name))
def test_scripts_pass_shellcheck(path):
    for step in steps_of(read(path)):
        command = [BIN / "shellcheck", "--shell=bash", "-"]
        done = subprocess.run(command, input=step.get("run", ""), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_ci_runs_every_check_and_knows_no_secret():
    text = WORKFLOWS["ci"].read_text()
    for target in ("test", "validate", "test-containers"):
        assert f"- run: make {target}\n" in text
    for path in WORKFLOWS.values():
        assert "secrets." not in path.read_text()


def test_a_release_pushes_what_it_tested_and_attaches_what_it_compiled():
    document = read(WORKFLOWS["release"])
    steps = document["jobs"]["images"]["steps"]
    made = [found[1] for step in steps if (found := MAKE.match(step.get("run", "")))]
    assert made == ["env", "test", "images", "test-containers", "push", "compile", "validate"]
    upload = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    compiled, lock = (str(path.relative_to(ROOT)) for path in (RELEASES / "*.yaml", IMAGES_LOCK))
    assert upload["with"]["path"].split() == [compiled, lock]
    attach = document["jobs"]["publish"]["steps"][-1]["run"]
    assert f"release/{compiled} release/{lock}" in attach


def kind_commands(text: str) -> list[str]:
    """Return the commands in a text that make a cluster, each in one line."""
    lines = " ".join(text.replace("\\\n", " ").split(" ")).splitlines()
    whole = [" ".join(line.split()) for line in lines]
    made = ("kind create", "kubectl apply", "kubectl wait", "kubectl patch", "kubectl set")
    return [line for line in whole if line.startswith((*made, "kubectl rollout"))]


def test_the_live_suite_runs_on_a_cluster_made_by_the_words_of_the_readme():
    readme = (ROOT / "manifests/README.md").read_text()
    section = next(part for part in readme.split("\n## ") if part.startswith("kind\n"))
    steps = [step.get("run", "") for step in steps_of(read(WORKFLOWS["live"]))]
    wanted = kind_commands(section)
    assert len(wanted) > 5
    assert [line for step in steps for line in kind_commands(step)] == wanted
    assert "make test-live HOST=" in "\n".join(steps)
