"""Which pods of a run wait, and why: an image that cannot be pulled, no room on any node."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from components.shared.telling.kfp_run import Fetch, Run, Task

PATIENCE = 120.0
"""Seconds that a pod may wait before it is reported; a GPU node takes a few minutes to start."""
AGAIN = 600.0
"""Seconds after which it is reported again."""
POD = re.compile(r"(?:(?P<planned>.+)-driver|executor)(\(\d+\))?")
"""Display names of the nodes that are pods."""

Label = Callable[[str, int | None], str]


class Waiting:
    """Tells once, and now and then again, what waits for longer than a while."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._next: dict[str, float] = {}
        """When each pod that waits is to be reported next."""
        self._known: set[str] = set()
        """Tasks whose pod the UI's server knows."""
        self._started: set[str] = set()

    def told(self, run: Run, tasks: list[Task], page: Fetch, label: Label) -> Iterator[str]:
        """Yield a line for each pod that waits.

        The UI's server, which ``page`` asks, knows pods and their events.
        """
        running = [task for task in tasks if task.state == "RUNNING"]
        for task in running:
            key = str(task.detail.get("task_id"))
            if key in self._started or not self._due(key):
                continue
            found = self._pod(run, task, page)
            if found is None:
                continue
            self._known.add(key)
            name, pod = found
            if (pod.get("status") or {}).get("phase") != "Pending":
                self._started.add(key)
                continue
            yield (
                f"{label(task.name, task.round)}: its pod waits: {self._why(name, pod, page)}; "
                f"kubectl describe pod -n {self._namespace} {name}"
            )
        rest = [task for task in running if str(task.detail.get("task_id")) not in self._known]
        yield from self._unnamed(run, rest, label)

    def _unnamed(self, run: Run, tasks: list[Task], label: Label) -> Iterator[str]:
        """Yield a line for each pod that is known to wait, but not to the UI's server."""
        look = f"kubectl get pods -n {self._namespace} -l pipeline/runid={run.run.get('run_id')}"
        running = [label(task.name, task.round) for task in tasks]
        for detail in run.details:
            pod = POD.fullmatch(detail.get("display_name") or "")
            if not pod or detail.get("state") != "PENDING":
                continue
            planned = pod["planned"]
            if not (planned or running) or not self._due(str(detail.get("task_id"))):
                continue
            whose = f"the pod that plans {planned}" if planned else f"a pod of {', '.join(running)}"
            yield f"{whose} waits; {look} tells which, kubectl describe pod why"

    def _due(self, key: str) -> bool:
        """Tell whether this one waits for long enough to be told, and was not told just now."""
        now = time.monotonic()
        if now < self._next.setdefault(key, now + PATIENCE):
            return False
        self._next[key] = now + AGAIN
        return True

    def _pod(self, run: Run, task: Task, page: Fetch) -> tuple[str, dict[str, Any]] | None:
        for name in run.pods(task):
            pod = self._asked(page, "/k8s/pod", name)
            if pod is not None:
                return name, pod
        return None

    def _why(self, name: str, pod: Mapping[str, Any], page: Fetch) -> str:
        status = pod.get("status") or {}
        kinds = ("initContainerStatuses", "containerStatuses")
        containers = [one for kind in kinds for one in status.get(kind) or []]
        waits = [(one.get("state") or {}).get("waiting") or {} for one in containers]
        conditions = status.get("conditions") or []
        waits += [one for one in conditions if one.get("type") == "PodScheduled"]
        for told in waits:
            if told.get("message"):
                return one_line(f"{told.get('reason', '')} {told['message']}")
        events = (self._asked(page, "/k8s/pod/events", name) or {}).get("items") or []
        return one_line(str(events[-1].get("message"))) if events else "Kubernetes does not say why"

    def _asked(self, page: Fetch, path: str, pod: str) -> dict[str, Any] | None:
        """Return what the UI's server says of a pod, None where that is nothing."""
        with suppress(ValueError):
            found = json.loads(page(path, {"podname": pod, "podnamespace": self._namespace}) or "")
            return found if isinstance(found, dict) else None
        return None


def one_line(text: str) -> str:
    """Return ``text`` without line breaks."""
    return " ".join(text.split())
