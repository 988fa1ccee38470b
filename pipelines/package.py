"""A compiled pipeline as a cluster takes it: its tasks, its images, a copy that caches nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.telling.errors import InputError


@dataclass(frozen=True)
class Package:
    """A compiled pipeline: the pipeline spec and, if there is one, the platform spec."""

    path: Path
    spec: dict[str, Any]
    platform: dict[str, Any]

    @property
    def tasks(self) -> frozenset[str]:
        """Names of the tasks that run in a pod of their own, in sub-pipelines too."""
        components = self.spec.get("components", {})
        return frozenset(
            name
            for name, task in self._all_tasks()
            if "executorLabel" in components[task["componentRef"]["name"]]
        )

    @property
    def looped(self) -> frozenset[str]:
        """Names of those that run once for each round of a loop."""
        components = self.spec.get("components", {})
        loops = [task for _, task in self._all_tasks() if "parameterIterator" in task]
        inside = [components[task["componentRef"]["name"]]["dag"]["tasks"] for task in loops]
        return frozenset(name for tasks in inside for name in tasks) & self.tasks

    @property
    def images(self) -> frozenset[str]:
        """Image references of the tasks."""
        executors = self.spec.get("deploymentSpec", {}).get("executors", {})
        return frozenset(
            executor["container"]["image"]
            for executor in executors.values()
            if "container" in executor
        )

    def without_caching(self, path: Path, only: str = "") -> "Package":
        """Write a copy to ``path`` in which no task, or not this one, may come from the cache."""
        copy = read_package(self.path)
        for name, task in copy._all_tasks():
            if "cachingOptions" in task and only in ("", name):
                task["cachingOptions"] = {}
        path.write_text(yaml.safe_dump_all([copy.spec, copy.platform]))
        return Package(path, copy.spec, copy.platform)

    def _all_tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        components = self.spec.get("components", {})
        for part in (self.spec["root"], *components.values()):
            yield from part.get("dag", {}).get("tasks", {}).items()


def read_package(path: Path) -> Package:
    """Read a compiled pipeline; a file that no KFP backend reads is refused."""
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path}: expected a compiled pipeline, a .yaml file")
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
        spec, platform = [*documents, {}][:2]
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        spec["root"]["dag"]["tasks"]
    except OSError:
        raise InputError(f"{path}: no such compiled pipeline; make compile writes it") from None
    except (yaml.YAMLError, json_format.ParseError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a compiled pipeline ({error}); make compile") from None
    return Package(path, spec, platform)
