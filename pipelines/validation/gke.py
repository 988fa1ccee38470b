"""What Terraform makes on GKE is what pods and manifests ask for."""

import re
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from pipelines.validation.compiled import (
    ACCELERATOR,
    gpus,
    node_selector,
    requests,
    tasks,
    with_gpus,
)
from pipelines.validation.tree import NAMESPACE, OWN, Tree

WHERE = "manifests/gke/main.tf"
POOL = "google_container_node_pool"
APIS = "google_project_service.used"
ANNOTATION = "iam.gke.io/gcp-service-account"
MACHINES = {
    "a3-highgpu-1g": (26, 234),
    "a3-highgpu-8g": (208, 1872),
    "n2d-standard-16": (16, 64),
}
"""Processors and GB of memory of the machines we use."""
LEFT_FOR_PODS = 0.85
"""Share of a node that is left beside the kubelet, the system and daemons."""


def _block(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a nested block of Terraform's, of which there is at most one."""
    return (body.get(name) or [{}])[0]


def check_pools(tree: Tree) -> list[str]:
    """The pools have the label and the taint that tasks expect, and cost nothing when idle."""
    h100, cpu = tree.terraform[(POOL, "h100")], tree.terraform[(POOL, "cpu")]
    findings = []
    for name, pool in (("h100", h100), ("cpu", cpu)):
        node = _block(pool, "node_config")
        findings += [
            f"{WHERE}: {name}: {feature} is not on; expected enabled = true; add it"
            for feature in ("gvnic", "gcfs_config")
            if _block(node, feature).get("enabled") is not True
        ]
        if _block(node, "workload_metadata_config").get("mode") != "GKE_METADATA":
            findings.append(
                f"{WHERE}: {name}: pods would have the node's rights; expected "
                "workload_metadata_config with mode = GKE_METADATA; add it"
            )
    if _block(h100, "autoscaling").get("total_min_node_count") != 0:
        findings.append(f"{WHERE}: h100: idle nodes cost; expected total_min_node_count = 0")
    if _block(cpu, "node_config").get("taint"):
        findings.append(f"{WHERE}: cpu: KFP's driver pods tolerate no taint; drop it")
    return findings + _accelerator(tree, _block(h100, "node_config"))


def _accelerator(tree: Tree, node: dict[str, Any]) -> list[str]:
    findings = []
    found = _block(node, "guest_accelerator").get("type")
    selected = {v for t in tasks(tree) if gpus(tree, t) for v in node_selector(tree, t).values()}
    if selected - {found}:
        findings.append(
            f"{WHERE}: h100: accelerator {found}; tasks select {', '.join(sorted(selected))}; make "
            "them alike"
        )
    if not _block(node, "ephemeral_storage_local_ssd_config").get("local_ssd_count"):
        findings.append(f"{WHERE}: h100: no local SSD for /tmp; add local_ssd_count")
    taints = {(t.get("key"), t.get("value"), _effect(t)) for t in node.get("taint", [])}
    for flavor in tree.all_of("ResourceFlavor"):
        wanted = {
            (t.get("key"), t.get("value"), _effect(t)) for t in flavor.spec.get("nodeTaints", [])
        }
        if taints != wanted:
            findings.append(
                f"{WHERE}: h100: taints {sorted(taints)}; {flavor} has {sorted(wanted)}; make them "
                "alike"
            )
    return findings


def _effect(taint: dict[str, Any]) -> str:
    """Return the effect of a taint as both Terraform (NO_SCHEDULE) and Kubernetes say it."""
    return str(taint.get("effect")).replace("_", "").lower()


def check_identities(tree: Tree) -> list[str]:
    """Pods of runs act as the Google service account that may use the bucket."""
    findings = []
    member = str(tree.terraform[("google_service_account_iam_member", "runs")].get("member"))
    if not member.endswith(f"[{NAMESPACE}/{OWN}]"):
        findings.append(
            f"{WHERE}: runs: member {member}; expected …[{NAMESPACE}/{OWN}], the service account "
            "of runs; correct it"
        )
    account = tree.terraform[("google_service_account", "runs")].get("account_id")
    for o in tree.all_of("ServiceAccount", OWN):
        email = str(o.data["metadata"].get("annotations", {}).get(ANNOTATION))
        if any(name.startswith("gke") for name in o.overlays) and email.split("@")[0] != account:
            findings.append(
                f"{o}: annotation {ANNOTATION} {email}; {WHERE} makes {account}@…; make them alike"
            )
    return findings + _nodes(tree)


def _nodes(tree: Tree) -> list[str]:
    """Nodes of every pool, and those that the ComputeClass makes, act as the same account."""
    account = tree.terraform[("google_service_account", "nodes")].get("account_id")
    findings = []
    for o in tree.all_of("ComputeClass"):
        email = str(o.spec.get("nodePoolConfig", {}).get("serviceAccount"))
        if email.split("@")[0] != account:
            findings.append(
                f"{o}: nodePoolConfig.serviceAccount {email}; {WHERE} makes {account}@…; make them "
                "alike"
            )
    for name in ("cpu", "h100"):
        found = str(_block(tree.terraform[(POOL, name)], "node_config").get("service_account"))
        if "google_service_account.nodes.email" not in found:
            findings.append(
                f"{WHERE}: {name}: service_account {found}; expected "
                "google_service_account.nodes.email, who may do what nodes need; set it"
            )
    return findings


def check_apis(tree: Tree) -> list[str]:
    """Nothing is made before the project's APIs are on."""
    names = {key: f"{key[0]}.{key[1]}" for key in tree.terraform if key[0].startswith("google_")}
    after = {APIS}
    for _ in names:  # each round finds what depends on what the round before found
        after |= {
            name
            for key, name in names.items()
            if any(re.search(rf"\b{re.escape(a)}\b", str(tree.terraform[key])) for a in after)
        }
    return [
        f"{WHERE}: {name}: does not depend on {APIS}, so an empty project refuses it; add "
        f"depends_on = [{APIS}]"
        for name in names.values()
        if name not in after
    ]


def check_requests(tree: Tree) -> list[str]:
    """Every task fits on each machine that it can be put on."""
    pools = tree.terraform[("locals", "")].get("h100_pools", {}).values()
    cpu = _block(tree.terraform[(POOL, "cpu")], "node_config")
    machines = {True: [p["machine_type"] for p in pools], False: [cpu.get("machine_type")]}
    findings = [
        f"{WHERE}: {machine}: its size is not known; add it to MACHINES in pipelines/validation"
        for machine in sorted({*machines[True], *machines[False]} - set(MACHINES))
    ]
    for task in tasks(tree):
        wanted = requests(tree, task)
        cpus, memory = float(wanted["cpu"]), float(wanted["memory"]) / 10**9
        for machine in machines[gpus(tree, task) > 0]:
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
    node = _block(tree.terraform[(POOL, "cpu")], "node_config")
    cpus, _ = _for_pods(str(node.get("machine_type")))
    disk = int(node.get("disk_size_gb", 0))
    room = 0.9 * disk - min(disk / 2, 6 + 0.35 * disk, 100)  # GKE keeps the rest
    here, findings = with_gpus(tree), []
    for task in tasks(tree):
        wanted = requests(tree, task)
        if task.package not in here or wanted[ACCELERATOR] or not wanted["cpu"]:
            continue
        pods = int(cpus / float(wanted["cpu"]))
        scratch = sum(
            float(parse_quantity(mount.get("sizeLimit", 0))) / 2**30
            for mount in task.config.get("emptyDirMounts", [])
            if mount.get("medium") != "Memory"
        )
        if pods * scratch > room:
            findings.append(
                f"{task}: {scratch:.0f} GiB of /tmp, and a node of {WHERE}: cpu takes {pods} such "
                f"pods; its disk of {disk} has room for {room:.0f}; raise disk_size_gb, or let the "
                "task request more processors"
            )
    return findings
