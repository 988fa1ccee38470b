"""The pods of a run as Kubernetes tells them: whose they are, how they ran, what they wrote."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

NODE = "workflows.argoproj.io/node-name"
"""Argo's annotation: the names of the nodes above and of the pod's own, joined by dots."""
TRY = re.compile(r"\((\d+)\)$")
ROUND = re.compile(r"\.iteration-iterations\((\d+):")
DRIVER = "-driver"
EXECUTOR = "executor"


@dataclass(frozen=True)
class Pod:
    """A pod of a run: of a task, or of KFP's driver, which plans one."""

    told: Mapping[str, Any]
    """Kubernetes' JSON."""

    @property
    def name(self) -> str:
        """Its name in the namespace."""
        return str(self.told["metadata"]["name"])

    @property
    def node(self) -> str:
        """Argo's name of its node."""
        return str(self.told["metadata"].get("annotations", {}).get(NODE, ""))

    @property
    def runs_task(self) -> bool:
        """Whether the task itself runs in it."""
        return _parts(self.node)[-1] == EXECUTOR

    @property
    def task(self) -> str:
        """The task that it runs or plans; empty for one that is neither's."""
        parts = _parts(self.node)
        if parts[-1] == EXECUTOR and len(parts) > 1:
            return parts[-2]
        return parts[-1].removesuffix(DRIVER) if parts[-1].endswith(DRIVER) else ""

    @property
    def round(self) -> int | None:
        """Its round of a comparison's loop, from 0."""
        found = ROUND.search(self.node)
        return int(found[1]) if found else None

    @property
    def try_(self) -> int:
        """How many pods of the same task were started before."""
        found = TRY.search(self.node)
        return int(found[1]) if found else 0

    @property
    def phase(self) -> str:
        """Kubernetes' word: Pending, Running, Succeeded, Failed."""
        return str(self.told.get("status", {}).get("phase", ""))

    @property
    def running(self) -> bool:
        """Whether its task runs."""
        return "running" in _state(self.told)

    @property
    def main(self) -> Mapping[str, Any]:
        """The container of the task."""
        containers = {one["name"]: one for one in self.told["spec"]["containers"]}
        return containers["main"]

    @property
    def outputs(self) -> dict[str, str]:
        """The URI of each artifact that its task writes, by name."""
        artifacts = _executor_input(self.main).get("outputs", {}).get("artifacts", {})
        return {name: found["artifacts"][0]["uri"] for name, found in artifacts.items()}

    @property
    def created(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.told["metadata"]["creationTimestamp"])

    @property
    def ended(self) -> datetime | None:
        """When its task ended."""
        end = _state(self.told).get("terminated", {}).get("finishedAt")
        return datetime.fromisoformat(end) if end else None

    @property
    def seconds(self) -> float:
        """From its making to the end of its task; 0 while it runs."""
        return (self.ended - self.created).total_seconds() if self.ended else 0.0


def pods_in(text: str) -> list[Pod]:
    """Return the pods in what `kubectl get pods -o json` writes, the oldest first."""
    pods = [Pod(item) for item in json.loads(text)["items"]]
    return sorted((pod for pod in pods if pod.node), key=lambda pod: pod.created)


def of_tasks(pods: Iterable[Pod]) -> list[Pod]:
    """Return those that run a task."""
    return [pod for pod in pods if pod.runs_task]


def last_of(pods: Iterable[Pod], task: str, round: int | None = None) -> Pod:
    """Return the pod of the last try of a task.

    Raises:
        LookupError: it has none.
    """
    found = [pod for pod in of_tasks(pods) if pod.task == task and pod.round == round]
    if not found:
        raise LookupError(f"no pod of {task}" + ("" if round is None else f" in round {round}"))
    return max(found, key=lambda pod: pod.try_)


def ran(pods: Iterable[Pod]) -> set[str]:
    """Return the tasks that had a pod of their own."""
    return {pod.task for pod in of_tasks(pods)}


def cached(pods: Sequence[Pod], tasks: Collection[str]) -> set[str]:
    """Return which of a pipeline's tasks came from the cache: planned, but never started."""
    planned = {pod.task for pod in pods if not pod.runs_task and pod.phase == "Succeeded"}
    return (planned & set(tasks)) - ran(pods)


@dataclass(frozen=True)
class Wanted:
    """What a pod of a task has to be like."""

    user: int
    account: str
    priority_class: str
    read_only: bool = False
    """Whether the root file system is asked to be read-only."""


def wrong_with(pod: Pod, wanted: Wanted) -> list[str]:
    """Return a line for each thing that a pod is not, but should be."""
    spec = pod.told["spec"]
    users = {"asked for": asked_user(pod), "ran as": effective_user(pod)}
    found = [
        f"user {user} ({how}); expected {wanted.user}"
        for how, user in users.items()
        if user is not None and user != wanted.user
    ]
    if all(user is None for user in users.values()):
        found.append(f"no user; expected {wanted.user}")
    for name, value, expected in (
        ("service account", spec.get("serviceAccountName"), wanted.account),
        ("priority class", spec.get("priorityClassName"), wanted.priority_class),
    ):
        if value != expected:
            found.append(f"{name} {value}; expected {expected}")
    if wanted.read_only and not read_only(pod):
        found.append("root file system can be written to; expected read-only")
    return [f"{pod.task} ({pod.name}): {line}" for line in found]


def asked_user(pod: Pod) -> int | None:
    """Return the user that the container, or else the pod, is to run as."""
    for part in (pod.main, pod.told["spec"]):
        user = (part.get("securityContext") or {}).get("runAsUser")
        if user is not None:
            return int(user)
    return None


def effective_user(pod: Pod) -> int | None:
    """Return the user that the first process had, where Kubernetes (1.31 and later) tells."""
    for status in pod.told.get("status", {}).get("containerStatuses", []):
        if status["name"] == "main" and "linux" in status.get("user", {}):
            return int(status["user"]["linux"]["uid"])
    return None


def read_only(pod: Pod) -> bool:
    """Return whether the root file system of the task's container is read-only."""
    return bool((pod.main.get("securityContext") or {}).get("readOnlyRootFilesystem"))


def _parts(node: str) -> list[str]:
    return [TRY.sub("", part) for part in node.split(".")]


def _state(told: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = told.get("status", {}).get("containerStatuses", [])
    return next((one.get("state", {}) for one in statuses if one["name"] == "main"), {})


def _executor_input(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what KFP's launcher is given: in the command, before the task's own arguments."""
    words = [*container.get("command", []), *container.get("args", [])]
    for flag, value in pairwise(words):
        if flag == "--executor_input":
            try:
                return json.loads(value)
            except ValueError:  # the task's own, which the launcher fills in
                continue
    return {}
