"""Images: every task has that of its stage, which can be built and knows the pod's user."""

import json
import re
import tomllib
from typing import Any

from components.shared.errors import InputError
from pipelines.lean import stage_of
from pipelines.validation.compiled import tasks
from pipelines.validation.tree import RELEASE, Tree

LOCK = "images/images.lock"
STAGES = "images/stages.toml"
DOCKERFILE = "images/Dockerfile"
BUILT = re.compile(r"scgpt-perturb/([a-z]+):[0-9a-f]{16}")
"""A development image: its tag is made of the content that goes into it."""
PINNED = re.compile(r"\S+/([a-z]+)@sha256:[0-9a-f]{64}")


def check_images(tree: Tree) -> list[str]:
    """Every image is that of the task's stage, by content or by digest, and can be built."""
    lock, findings = _lock(tree), []
    for stage, entry in lock.items():
        for key, form in (("image", PINNED), ("built_from", BUILT)):
            found = form.fullmatch(str(entry.get(key)))
            if not found or found[1] != stage:
                findings.append(
                    f"{LOCK}: {stage}: {key} is {entry.get(key)}; expected "
                    f"{f'…/{stage}@sha256:…' if form is PINNED else f'scgpt-perturb/{stage}:…'}; "
                    "make push REGISTRY=… writes it"
                )
    for task in tasks(tree):
        stage, image = stage_of(task.executor), str(task.container.get("image"))
        if task.package.startswith(RELEASE):
            pinned = lock.get(stage, {}).get("image", "no image of it")
            if image != pinned:
                findings.append(
                    f"{task}: image {image}; {LOCK} has {pinned}; run make compile RELEASE=1, "
                    f"or remove {RELEASE}"
                )
        elif (found := BUILT.fullmatch(image)) is None or found[1] != stage:
            findings.append(
                f"{task}: image {image}; expected scgpt-perturb/{stage}:<16 digits of its "
                "content>; run make compile"
            )
        if stage not in tomllib.loads(tree.text(STAGES)):
            findings.append(f"{task}: image {image}: no {stage} in {STAGES}; add it")
    return findings


def _lock(tree: Tree) -> dict[str, dict[str, Any]]:
    try:
        lock = json.loads(tree.text(LOCK) or "{}")
    except ValueError as error:
        raise InputError(f"{LOCK}: not JSON ({error}); make push REGISTRY=… writes it") from None
    if not isinstance(lock, dict) or not all(isinstance(entry, dict) for entry in lock.values()):
        raise InputError(
            f"{LOCK}: expected image and built_from of each stage; make push REGISTRY=… writes it"
        )
    return lock


def check_users(tree: Tree) -> list[str]:
    """Pods may not run as root, and run as the user whom the image has."""
    findings = []
    for task in tasks(tree):
        context = task.config.get("securityContext", {})
        user = f"{context.get('runAsUser')}:{context.get('runAsGroup')}"
        if not context.get("runAsNonRoot") or "None" in user:
            findings.append(
                f"{task}: securityContext {json.dumps(context)}; expected runAsUser, runAsGroup "
                "and runAsNonRoot; kubernetes.set_security_context sets them"
            )
            continue
        users = re.findall(r"^USER\s+(\S+)", tree.text(DOCKERFILE), re.MULTILINE) or ["none"]
        if users[-1] != user:
            findings.append(
                f"{DOCKERFILE}: USER {users[-1]}; {task} runs as {user}, who is to own its files; "
                "make them alike"
            )
    return findings
