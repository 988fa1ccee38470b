"""Quotas: they count the pods of runs alone, and the largest of these fits under them."""

from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from pipelines.validation.compiled import Task, queue, requests, tasks
from pipelines.validation.tree import OWN, Object, Tree

SCOPED = {"pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu"} | {
    "limits.memory",
    "requests.nvidia.com/gpu",
}
"""What the API server takes in a quota that is scoped to a priority class."""


def check_quota(tree: Tree) -> list[str]:
    """The quota counts the pods of runs alone, by what the API server takes in it."""
    findings = []
    for quota in tree.all_of("ResourceQuota"):
        classes = [
            value
            for expression in quota.spec.get("scopeSelector", {}).get("matchExpressions", [])
            if expression.get("scopeName") == "PriorityClass"
            for value in expression.get("values", [])
        ]
        if not classes:
            findings.append(
                f"{quota}: counts KFP's own pods too; expected a scopeSelector on PriorityClass "
                f"{OWN}; add it"
            )
        findings += [
            f"{quota}: scoped to PriorityClass/{name}, which is not in manifests; correct the name"
            for name in classes
            if not tree.all_of("PriorityClass", name)
        ]
        findings += [
            f"{quota}: hard.{resource}: the API server refuses it under a PriorityClass scope; "
            "expected pods, requests.cpu, requests.memory, requests.nvidia.com/gpu; drop it "
            "(Kueue's ClusterQueue bounds ephemeral-storage)"
            for resource in quota.spec.get("hard", {})
            if resource not in SCOPED
        ]
    return findings


def check_limit_range(tree: Tree) -> list[str]:
    """Containers that request nothing fit under the quota, and none gets a limit."""
    findings = []
    for limits in tree.all_of("LimitRange"):
        for item in limits.spec.get("limits", []):
            given = set(item.get("defaultRequest") or {})
            if missing := sorted({"cpu", "memory"} - given):
                findings.append(
                    f"{limits}: no defaultRequest of {', '.join(missing)}; the quota refuses "
                    "Argo's helper containers without; add it"
                )
            findings += [
                f"{limits}: '{field}' would put limits on KFP's own pods; expected defaultRequest "
                "alone; drop it"
                for field in ("max", "default")
                if item.get(field)
            ]
    return findings


def check_room(tree: Tree) -> list[str]:
    """The pod of the largest task fits under the quota, and under Kueue's if it waits there."""
    helper = _helper(tree)
    every = list(tasks(tree))
    findings = []
    for quota in tree.all_of("ResourceQuota"):
        hard = {
            name.removeprefix("requests."): value
            for name, value in quota.spec.get("hard", {}).items()
        }
        findings += _too_small(tree, quota, hard, every, helper)
    for line in tree.all_of("ClusterQueue"):
        into = {o.name: o.spec.get("clusterQueue") for o in tree.all_of("LocalQueue")}
        waiting = [task for task in every if into.get(queue(task)) == line.name]
        for group in line.spec.get("resourceGroups", []):
            for flavor in group.get("flavors", []):
                nominal = {
                    r.get("name"): r.get("nominalQuota") for r in flavor.get("resources", [])
                }
                findings += _too_small(tree, line, nominal, waiting, helper)
    return findings


def _helper(tree: Tree) -> dict[str, Decimal]:
    """Return what Argo's helper beside each task requests: the default of a container."""
    return {
        resource: parse_quantity(value)
        for limits in tree.all_of("LimitRange")
        for item in limits.spec.get("limits", [])
        for resource, value in (item.get("defaultRequest") or {}).items()
    }


def _too_small(
    tree: Tree, o: Object, given: dict[str, Any], of: list[Task], helper: dict[str, Decimal]
) -> list[str]:
    findings = []
    for resource in ("cpu", "memory", "nvidia.com/gpu"):
        if given.get(resource) is None or not of:
            continue
        request, task = max(
            ((requests(tree, t)[resource], t) for t in of), key=lambda pair: pair[0]
        )
        needed = request + helper.get(resource, 0)
        if parse_quantity(given[resource]) < needed:
            findings.append(
                f"{o}: {resource} {given[resource]}; the pod of {task} requests {needed}, so it "
                "would wait forever; raise the quota, or ask for less in pipelines/scheduling.py"
            )
    return findings
