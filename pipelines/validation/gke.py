"""What Terraform makes on GKE has room for the tasks, and is made in an order that works."""

import re

from kubernetes.utils.quantity import parse_quantity

from pipelines.validation.compiled import ACCELERATOR, tasks, with_gpus
from pipelines.validation.tree import TERRAFORM, Tree

APIS = "google_project_service.used"
MACHINES = {
    "a3-highgpu-1g": (26, 234),
    "a3-highgpu-8g": (208, 1872),
    "n2d-standard-16": (16, 64),
}
"""Processors and GB of memory of the machines we use."""
LEFT_FOR_PODS = 0.85
"""Share of a node that is left beside the kubelet, the system and daemons."""


def check_terraform(tree: Tree) -> list[str]:
    """What Terraform reads is there, and nothing is made before the project's APIs are on."""
    folder, text = (tree.root / TERRAFORM).parent, tree.text(TERRAFORM)
    findings = [
        f"{TERRAFORM}: reads {path}, which is not there; correct the path"
        for path in re.findall(r'file\("\$\{path\.module\}/([^"]+)"\)', text)
        if not (folder / path).is_file()
    ]
    bodies = {f"{o.kind}.{o.name}": str(o.data) for o in tree.terraform}
    after = {APIS}
    for _ in bodies:  # each round finds what depends on what the round before found
        after |= {
            name
            for name, body in bodies.items()
            if any(re.search(rf"\b{re.escape(a)}\b", body) for a in after)
        }
    return findings + [
        f"{TERRAFORM}: {name}: does not depend on {APIS}, so an empty project refuses it; add "
        f"depends_on = [{APIS}]"
        for name in bodies
        if name not in after
    ]


def check_requests(tree: Tree) -> list[str]:
    """Every task fits on each machine that it can be put on."""
    machines = {
        True: [str(pool["machine_type"]) for pool in tree.pools.values()],
        False: [str(tree.cpu_node.get("machine_type"))],
    }
    findings = [
        f"{TERRAFORM}: {machine}: its size is not known; add it to MACHINES in pipelines/validation"
        for machine in sorted({*machines[True], *machines[False]} - set(MACHINES))
    ]
    for task in tasks(tree):
        cpus, memory = float(task.requests["cpu"]), float(task.requests["memory"]) / 10**9
        for machine in machines[task.requests[ACCELERATOR] > 0]:
            most_cpus, most_memory = _for_pods(machine)
            if cpus > most_cpus or memory > most_memory:
                findings.append(
                    f"{task}: requests {cpus:g} processors and {memory:.0f} GB; {machine} has "
                    f"{most_cpus:.0f} and {most_memory:.0f} for pods; ask for less, or change the "
                    "pool in manifests/gke"
                )
    return findings


def _for_pods(machine: str) -> tuple[float, float]:
    """Return processors and GB of memory that pods may request on a machine."""
    cpus, memory = MACHINES.get(machine, (1e9, 1e9))
    return LEFT_FOR_PODS * cpus, LEFT_FOR_PODS * memory


def check_disk(tree: Tree) -> list[str]:
    """The disk of a CPU node has room for /tmp of as many pods as its processors take.

    A sizeLimit is no request, and KFP knows none of ephemeral storage: the scheduler does not look
    at the disk.
    """
    cpus, _ = _for_pods(str(tree.cpu_node.get("machine_type")))
    disk = int(tree.cpu_node.get("disk_size_gb", 0))
    room = 0.9 * disk - min(disk / 2, 6 + 0.35 * disk, 100)  # GKE keeps the rest
    here, findings = with_gpus(tree), []
    for task in tasks(tree):
        asked = task.requests
        if task.package not in here or asked[ACCELERATOR] or not asked["cpu"]:
            continue
        pods = int(cpus / float(asked["cpu"]))
        scratch = sum(
            float(parse_quantity(mount.get("sizeLimit", 0))) / 2**30
            for mount in task.config.get("emptyDirMounts", [])
            if mount.get("medium") != "Memory"
        )
        if pods * scratch > room:
            findings.append(
                f"{task}: {scratch:.0f} GiB of /tmp, and a node of {TERRAFORM}: cpu takes {pods} "
                f"such pods; its disk of {disk} has room for {room:.0f}; raise disk_size_gb, or "
                "let the task request more processors"
            )
    return findings
