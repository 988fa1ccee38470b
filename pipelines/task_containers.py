"""Tasks as containers of this machine, whose exit codes are asked of the engine.

KFP's local runner has the engine remove a container the moment it ends. When that comes before it
asks for the exit code, it takes the task for one that succeeded. Here a container is removed after
it was asked.

Ctrl-C stops a run as a cluster deletes a pod: what is being trained finishes its step and writes a
checkpoint, and what has not ended by then is killed. A second one kills at once.
"""

import codecs
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipelines.signals import started_by

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

GRACE = 30
"""Seconds between SIGTERM and SIGKILL, Kubernetes' own terminationGracePeriodSeconds."""

SIGTERM_TO_ALL = ["sh", "-c", "kill -TERM -1"]
"""As on a cluster, where KFP's launcher passes a signal on to all that it started.

The engine signals a container's first process alone: KFP's shell, which takes no notice.
"""


class TaskContainers:
    """The containers of the tasks of a run."""

    def __init__(self) -> None:
        self.stopped = False
        """Whether the run was asked to stop: no further task starts."""
        self._containers: list[Container] = []

    def start(
        self,
        client: "DockerClient",
        image: str,
        command: list[str],
        volumes: dict[str, Any],
        **arguments: Any,
    ) -> int:
        """Run a task to its end and return its exit code, as KFP's `run_docker_container` does.

        The image is there: `docker_runner` has looked.
        """
        if self.stopped:
            return 1
        container = client.containers.create(image, command, volumes=volumes, **arguments)
        self._containers.append(container)
        try:
            container.start()
            if self.stopped:  # since it was asked above
                self._end(container)
            text = codecs.getincrementaldecoder("utf-8")("replace")
            for part in container.logs(stream=True):
                print(text.decode(part), end="")
            return container.wait()["StatusCode"]
        finally:
            self._containers.remove(container)
            container.remove(force=True)

    def stop(self, again: bool) -> None:
        """Ask the tasks to end; the second time, end them."""
        self.stopped = True
        for container in list(self._containers):
            self._end(container, at_once=again)

    def _end(self, container: "Container", *, at_once: bool = False) -> None:
        """Stop a container from a thread of its own: the engine answers when it has ended."""
        from docker.errors import APIError

        def end() -> None:
            with suppress(APIError):  # it has ended by itself
                if not at_once:
                    container.exec_run(SIGTERM_TO_ALL)
                    time.sleep(GRACE)
                container.kill()

        threading.Thread(target=end, daemon=True).start()


@contextmanager
def tasks_in_containers() -> Iterator[TaskContainers]:
    """Let KFP's runner start tasks by way of `TaskContainers`, which signals to us stop."""
    from kfp.local import docker_task_handler

    tasks = TaskContainers()
    with started_by(tasks, docker_task_handler, "run_docker_container"):
        yield tasks
