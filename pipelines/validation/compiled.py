"""Compiled pipelines: what they take, name and ask for exists, in images, manifests and quotas.

What they are by themselves is for `make check-compiled` and the tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from components.shared.telling.errors import InputError
from pipelines.run import read_params
from pipelines.validation.rules import at
from pipelines.validation.tree import COMPILED, SECRETS, Object, Tree

ACCELERATOR = "nvidia.com/gpu"
OF_KFP = {"mlpipeline-minio-artifact": {"accesskey", "secretkey"}}
"""Secrets that KFP's installation makes: nobody makes them by our example."""
QUEUE = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Task:
    """One task of a compiled pipeline."""

    package: str
    name: str
    container: dict[str, Any]
    config: dict[str, Any]
    """Its entry in the platform spec."""
    default_gpus: int
    """Default of the pipeline's parameter gpus."""

    @property
    def requests(self) -> dict[str, Decimal]:
        """Resources that its container requests by default: processors, bytes of memory, GPUs."""
        asked = self.container.get("resources", {})
        count = str(asked.get("accelerator", {}).get("resourceCount", 0))
        return {
            "cpu": parse_quantity(asked.get("resourceCpuRequest", 0)),
            "memory": parse_quantity(asked.get("resourceMemoryRequest", 0)),
            ACCELERATOR: Decimal(self.default_gpus if "{{" in count else count),
        }

    @property
    def queue(self) -> str:
        """The LocalQueue in which it waits, empty for none."""
        return str(self.config.get("podMetadata", {}).get("labels", {}).get(QUEUE, ""))

    def __str__(self) -> str:
        return f"{self.package}: {self.name}"


def tasks(tree: Tree) -> Iterator[Task]:
    """Yield what runs in a pod, of all compiled pipelines."""
    for package, spec, platform in tree.packages:
        configs = at(platform, "platforms.kubernetes.deploymentSpec.executors")
        executors = at(spec, "deploymentSpec.executors")
        gpus = int(parameters(spec)["gpus"]["defaultValue"])
        for label, executor in executors.items():
            name = label.removeprefix("exec-")
            yield Task(package, name, executor["container"], configs.get(label, {}), gpus)


def with_gpus(tree: Tree) -> set[str]:
    """Return the compiled pipelines that ask for GPUs by default: those for the cluster of gke/."""
    return {task.package for task in tasks(tree) if task.requests[ACCELERATOR]}


def parameters(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of a compiled pipeline by name."""
    found: dict[str, dict[str, Any]] = at(spec, "root.inputDefinitions.parameters")
    return found


def check_packages(tree: Tree) -> list[str]:
    """There are compiled pipelines."""
    return [] if tree.packages else [f"{COMPILED}: nothing compiled; run make compile"]


def check_params(tree: Tree) -> list[str]:
    """Parameter files give what their pipeline takes: no other name, and all without a default."""
    findings = []
    for path, _ in tree.files("pipelines/params/*.yaml"):
        try:
            read_params(tree.root / path, [])
        except InputError as error:
            findings.append(f"{path}: {str(error).removeprefix(f'{tree.root / path}: ')}")
    return findings


def check_secrets(tree: Tree) -> list[str]:
    """Secrets and keys that tasks read are those of the example, and all are read."""
    read = {
        (secret["secretName"], pair["secretKey"]): task
        for task in tasks(tree)
        for secret in task.config.get("secretAsEnv", [])
        for pair in secret["keyToEnv"]
    }
    there = {(name, key) for name, keys in tree.secrets.items() for key in keys}
    of_kfp = {(name, key) for name, keys in OF_KFP.items() for key in keys}
    return [
        f"{task}: secret {name} key {key}; {SECRETS} has "
        f"{', '.join(' '.join(pair) for pair in sorted(there))}; make the two alike"
        for (name, key), task in read.items()
        if (name, key) not in there | of_kfp
    ] + [
        f"{SECRETS}: Secret/{name}: no task reads its key {key}; drop it, or name it in "
        "pipelines/scheduling.py"
        for name, key in sorted(there - set(read))
    ]


def check_room(tree: Tree) -> list[str]:
    """The pod of the largest task fits under the quota, and under Kueue's if it waits there."""
    every = list(tasks(tree))
    findings: list[str] = []
    for quota in tree.all_of("ResourceQuota"):
        hard = {n.removeprefix("requests."): v for n, v in quota.spec.get("hard", {}).items()}
        findings += _too_small(tree, quota, hard, every)
    into = {o.name: o.spec.get("clusterQueue") for o in tree.all_of("LocalQueue")}
    for line in tree.all_of("ClusterQueue"):
        waiting = [task for task in every if into.get(task.queue) == line.name]
        for group in line.spec.get("resourceGroups", []):
            for flavor in group.get("flavors", []):
                nominal = {r["name"]: r.get("nominalQuota") for r in flavor.get("resources", [])}
                findings += _too_small(tree, line, nominal, waiting)
    return findings


def _too_small(tree: Tree, o: Object, given: dict[str, Any], of: list[Task]) -> Iterator[str]:
    """Yield what a pod needs more than there is; Argo's helper in it takes the default request."""
    limits = [item for o in tree.all_of("LimitRange") for item in o.spec.get("limits", [])]
    helper = {n: v for item in limits for n, v in (item.get("defaultRequest") or {}).items()}
    for name in ("cpu", "memory", ACCELERATOR):
        if given.get(name) is None or not of:
            continue
        task = max(of, key=lambda task: task.requests[name])
        needed = task.requests[name] + parse_quantity(helper.get(name, 0))
        if parse_quantity(given[name]) < needed:
            yield (
                f"{o}: {name} {given[name]}; the pod of {task} requests {needed}, so it would "
                "wait forever; raise the quota, or ask for less in pipelines/scheduling.py"
            )
