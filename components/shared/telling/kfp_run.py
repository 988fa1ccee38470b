"""A run as KFP's API tells it: its tasks, the pods of each, and what a task said in its log.

Of each node of the workflow the API gives display name, state, times and the ids of the nodes after
it, but neither the node's own id nor its pod, and the tasks of a loop bear the same name. Argo
makes an id of the workflow's name and the 32-bit FNV-1a hash of the node's name, a node's name of
the names above it, and a pod's name of the template and that hash. So ids are computed, and those
that the API mentions are there. Names and nesting are those of KFP 2.17 and Argo 4.0.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FNV_OFFSET, FNV_PRIME = 0x811C9DC5, 0x01000193
"""Of the 32-bit FNV-1a hash."""
NOT_A_TASK = re.compile(r"-driver$|^executor|\(\d+(:\d+)?\)$")
"""Display names of a task's planner, its pods, the tries of a node and the rounds of a loop."""
DAGS = re.compile(r"root|exit-handler-\d+|for-loop-\d+|iteration|iteration-item|.*\.onExit")
ROUNDS = "iteration-iterations"
LINES_OF_KFP = re.compile(
    r"\s*$|\s*[]{}\"[]|[IWEF]\d{4} |time=|\[KFP |\d{4}/\d\d/\d\d |(Error: )?exit status \d"
)
"""How the lines begin that KFP and Argo write into a task's log, JSON among them."""

Fetch = Callable[[str, Mapping[str, str]], str | None]
"""Gets a page of KFP's UI server by path and query; None where it has none."""


def fnv(text: str, start: int = FNV_OFFSET) -> int:
    """Return the 32-bit FNV-1a hash of ``text``, or of what ``start`` is the hash of and text."""
    for byte in text.encode():
        start = (start ^ byte) * FNV_PRIME & 0xFFFFFFFF
    return start


@dataclass(frozen=True)
class Task:
    """A task that runs in a pod of its own."""

    name: str
    round: int | None
    """Its round of the loop that it stands in, from 0."""
    detail: Mapping[str, Any]
    """Its state by the API."""
    tries: tuple[int, ...]
    """Endings of the names of its pods, the oldest first."""

    @property
    def state(self) -> str:
        """KFP's word: PENDING, RUNNING, SUCCEEDED, FAILED."""
        return str(self.detail.get("state") or "")


class Run:
    """The nodes of a run, as its `run_details` tell them."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        """Take a run as the API's JSON has it."""
        self.run = run
        self.details = list((run.get("run_details") or {}).get("task_details") or [])
        ids = [child for detail in self.details for child in _children(detail)]
        self.workflow = ids[0].rpartition("-")[0] if ids else ""
        self._known = _numbers(ids)
        self._by_name: dict[str, list[tuple[Mapping[str, Any], set[int]]]] = {}
        for detail in self.details:
            named = self._by_name.setdefault(detail.get("display_name") or "", [])
            named.append((detail, _numbers(_children(detail))))

    def tasks(self) -> list[Task]:
        """Return the tasks that have begun, each once, in the order of the API's answer."""
        names = [name for name in self._by_name if name and not NOT_A_TASK.search(name)]
        found = list(self._below(self._last_try(fnv(self.workflow)), names, None))
        order = {id(detail): place for place, detail in enumerate(self.details)}
        return sorted(found, key=lambda task: order[id(task.detail)])

    def failed_names(self) -> list[str]:
        """Return the names of tasks, and of their planners, that failed, wherever they stand."""
        names = (
            detail.get("display_name") or ""
            for detail in self.details
            if detail.get("state") == "FAILED"
        )
        return [
            name
            for name in dict.fromkeys(names)
            if (base := name.removesuffix("-driver"))
            and not NOT_A_TASK.search(base)
            and not DAGS.fullmatch(base)
            and base != self.workflow
            and f"{base}-driver" in self._by_name
        ]

    def pods(self, task: Task) -> list[str]:
        """Return what the pods of a task may be called, the last try first."""
        return [
            f"{self.workflow}-{template}-{end}"
            for end in reversed(task.tries)
            for template in templates_of(self.run.get("pipeline_spec") or {}, task.name)
        ]

    def said(self, task: Task, fetch: Fetch, namespace: str) -> str:
        """Return the log of the last try of a task; empty where none is to be had."""
        for pod in self.pods(task):
            query = {
                "podname": pod,
                "runid": str(self.run.get("run_id") or ""),
                "podnamespace": namespace,
                "createdat": str(self.run.get("created_at") or "")[:10],
            }
            if log := fetch("/k8s/pod/logs", query):
                return log
        return ""

    def _below(self, above: int, names: list[str], around: int | None) -> Iterator[Task]:
        for name in names:
            node = fnv(f".{name}", above)
            if node in self._known:
                yield from self._task_or_below(name, node, names, around)
        if (rounds := fnv(f".{ROUNDS}", above)) in self._known:
            number = 0
            while (one := fnv(f"({number}:{number})", rounds)) in self._known:
                yield from self._below(self._last_try(one), names, number)
                number += 1

    def _task_or_below(
        self, name: str, node: int, names: list[str], around: int | None
    ) -> Iterator[Task]:
        inner = self._last_try(node)
        executor = fnv(".executor", inner)
        if executor not in self._known:
            yield from self._below(inner, names, around)
            return
        after = {executor, *self._tries(node)}
        detail = next((one for one, ids in self._by_name[name] if ids & after), None)
        if detail is not None:
            yield Task(name, around, detail, tuple(self._tries(executor)) or (executor,))

    def _tries(self, node: int) -> list[int]:
        """Return the tries of a node that may be tried again, the oldest first."""
        found: list[int] = []
        while (one := fnv(f"({len(found)})", node)) in self._known:
            found.append(one)
        return found

    def _last_try(self, node: int) -> int:
        return [node, *self._tries(node)][-1]


def templates_of(spec: Mapping[str, Any], name: str) -> list[str]:
    """Return what Argo's template for the pod of a task may be called.

    ``spec`` is the pipeline as the API gives it back: alone, or with its platform's settings.
    """
    pipeline, platform = spec.get("pipeline_spec") or spec, spec.get("platform_spec") or {}
    for part in (pipeline.get("root", {}), *pipeline.get("components", {}).values()):
        task = part.get("dag", {}).get("tasks", {}).get(name)
        if task is None:
            continue
        label = pipeline["components"][task["componentRef"]["name"]].get("executorLabel", "")
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
        about = executors.get(label, {}).get("podMetadata")
        marks = f"metadata-{_count(about, 'annotations')}-{_count(about, 'labels')}-"
        again = "retry-" if task.get("retryPolicy") else ""
        return [f"{marks if about is not None else ''}{again}system-container-impl"]
    return ["system-container-impl", "retry-system-container-impl"]


def own_last_line(log: str, stage: str) -> str:
    """Return the line of a task's log that says why it failed; empty if it has none of its own.

    That is the last `<stage>: error: …`; else the last line that KFP did not write, which after a
    traceback names the exception.
    """
    lines = [line.strip() for line in log.splitlines() if not LINES_OF_KFP.match(line)]
    errors = [line for line in lines if re.match(r"[a-z]+: error: ", line)]
    own = [line for line in errors if line.startswith(f"{stage}: ")]
    return [*([""] if not lines else lines[-1:]), *errors[-1:], *own[-1:]][-1]


def _children(detail: Mapping[str, Any]) -> list[str]:
    return [child.get("pod_name") or "" for child in detail.get("child_tasks") or []]


def _numbers(ids: list[str]) -> set[int]:
    return {int(end) for one in ids if (end := one.rpartition("-")[2]).isdigit()}


def _count(about: Mapping[str, Any] | None, what: str) -> int:
    return len((about or {}).get(what) or {})
