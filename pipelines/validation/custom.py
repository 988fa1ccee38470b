"""Custom resources, which Kubernetes' schemas do not know: Kueue's, and GKE's ComputeClass."""

from typing import Any

import jsonschema

from pipelines.validation.tree import NAMESPACE, Object, Tree

ACCELERATOR = "nvidia.com/gpu"
COVERED = {"cpu", "memory", ACCELERATOR, "ephemeral-storage"}
CAPACITY = ["reservation", "on-demand", "flex-start", "spot"]
SMALL_A3 = ("a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g")
"""Machines that Compute Engine gives by flex-start and on spot only."""


def fields(required: str = "", **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXT, WHOLE, SWITCH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
LABELS = {"type": "object", "additionalProperties": TEXT}
EFFECT = {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]}
ON = fields("enabled", enabled=SWITCH)
QUANTITY = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?([KMGTP]i?|m|k)?$"}
SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResourceFlavor": (
        "kueue.x-k8s.io/v1beta2",
        fields(
            "nodeLabels nodeTaints",
            nodeLabels=LABELS,
            nodeTaints=_list(fields("key effect", key=TEXT, value=TEXT, effect=EFFECT)),
        ),
    ),
    "ClusterQueue": (
        "kueue.x-k8s.io/v1beta2",
        fields(
            "namespaceSelector resourceGroups",
            namespaceSelector=fields(matchLabels=LABELS),
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            resourceGroups=_list(
                fields(
                    "coveredResources flavors",
                    coveredResources=_list(TEXT),
                    flavors=_list(
                        fields(
                            "name resources",
                            name=TEXT,
                            resources=_list(
                                fields("name nominalQuota", name=TEXT, nominalQuota=QUANTITY)
                            ),
                        )
                    ),
                )
            ),
        ),
    ),
    "LocalQueue": ("kueue.x-k8s.io/v1beta2", fields("clusterQueue", clusterQueue=TEXT)),
    "ComputeClass": (
        "cloud.google.com/v1",
        fields(
            "priorities whenUnsatisfiable",
            description=TEXT,
            nodePoolAutoCreation=ON,
            nodePoolConfig=fields(
                imageType={"enum": ["cos_containerd", "ubuntu_containerd"]},
                imageStreaming=ON,
                gvnic=ON,
                serviceAccount=TEXT,
            ),
            activeMigration=fields("optimizeRulePriority", optimizeRulePriority=SWITCH),
            autoscalingPolicy=fields(
                consolidationDelayMinutes={"type": "integer", "minimum": 1, "maximum": 1440}
            ),
            priorities=_list(
                fields(
                    "machineType gpu",
                    machineType=TEXT,
                    gpu=fields(
                        "type count",
                        type=TEXT,
                        count=WHOLE,
                        driverVersion={"enum": ["default", "latest"]},
                    ),
                    storage=fields(localSSDCount=WHOLE, bootDiskSize=WHOLE, bootDiskType=TEXT),
                    reservations=fields(
                        "affinity",
                        affinity={"enum": ["Specific", "AnyBestEffort", "None", "AnyThenFail"]},
                        specific=_list(fields("name", name=TEXT, project=TEXT)),
                    ),
                    flexStart=ON,
                    spot=SWITCH,
                )
            ),
            whenUnsatisfiable={"enum": ["DoNotScaleUp", "ScaleUpAnyway"]},
        ),
    ),
}
"""The fields that we use of each; from Kueue's and compute-class-api's type definitions."""


def schema_findings(where: str, value: Any, schema: dict[str, Any]) -> list[str]:
    """Return what of ``value`` its schema does not allow."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return [
        f"{where}: {'.'.join(str(part) for part in error.path) or '(top)'}: {error.message}; "
        "correct the name or value"
        for error in errors
    ]


def check_custom_schemas(tree: Tree) -> list[str]:
    """Custom resources have only fields that we know their APIs take."""
    findings = []
    for o in tree.objects:
        if o.kind in SCHEMAS:
            version, schema = SCHEMAS[o.kind]
            findings += schema_findings(f"{o}: spec", o.spec, schema)
            if o.data["apiVersion"] != version:
                findings.append(f"{o}: apiVersion {o.data['apiVersion']}; expected {version}")
    return findings


def check_queues(tree: Tree) -> list[str]:
    """Kueue's three objects refer to each other and cover what pods request."""
    findings = []
    for local in tree.all_of("LocalQueue"):
        if not tree.all_of("ClusterQueue", target := str(local.spec.get("clusterQueue"))):
            findings.append(f"{local}: no ClusterQueue/{target}; correct spec.clusterQueue")
    for queue in tree.all_of("ClusterQueue"):
        selected = queue.spec.get("namespaceSelector", {}).get("matchLabels", {})
        if selected != {"kubernetes.io/metadata.name": NAMESPACE}:
            findings.append(
                f"{queue}: namespaceSelector {selected}; expected kubernetes.io/metadata.name: "
                f"{NAMESPACE}; correct it"
            )
        findings += [
            f for group in queue.spec.get("resourceGroups", []) for f in _group(tree, queue, group)
        ]
    return findings


def _group(tree: Tree, queue: Object, group: dict[str, Any]) -> list[str]:
    covered = group.get("coveredResources", [])
    findings = [
        f"{queue}: does not cover {resource}, so a pod that requests it waits forever; expected "
        f"{', '.join(sorted(COVERED))}; add it"
        for resource in sorted(COVERED - set(covered))
    ]
    for flavor in group.get("flavors", []):
        if not tree.all_of("ResourceFlavor", flavor.get("name")):
            findings.append(f"{queue}: no ResourceFlavor/{flavor.get('name')}; correct the name")
        given = [resource.get("name") for resource in flavor.get("resources", [])]
        if given != covered:
            findings.append(
                f"{queue}: flavor {flavor.get('name')} has {given}; expected coveredResources in "
                f"their order, {covered}; make them alike"
            )
    return findings


def capacity(rule: dict[str, Any]) -> str:
    """Return the kind of capacity a ComputeClass rule asks for."""
    if rule.get("reservations", {}).get("affinity") in ("Specific", "AnyThenFail"):
        return "reservation"
    if rule.get("flexStart", {}).get("enabled"):
        return "flex-start"
    return "spot" if rule.get("spot") else "on-demand"


def check_compute_class(tree: Tree) -> list[str]:
    """The ComputeClass falls through the kinds of capacity in order, each with a machine it has."""
    findings = []
    for o in tree.all_of("ComputeClass"):
        rules = o.spec.get("priorities", [])
        if (found := [capacity(rule) for rule in rules]) != CAPACITY:
            findings.append(
                f"{o}: priorities are {', '.join(found)}; expected {', '.join(CAPACITY)}; reorder"
            )
        for number, rule in enumerate(rules):
            where, machine = f"{o}: priorities[{number}]", rule.get("machineType")
            if rule.get("reservations", {}).get("affinity") == "AnyBestEffort":
                findings.append(
                    f"{where}: AnyBestEffort goes on demand without trying the next rule; "
                    "expected AnyThenFail or Specific; change it"
                )
            if machine in SMALL_A3 and capacity(rule) not in ("flex-start", "spot"):
                findings.append(
                    f"{where}: {machine} {capacity(rule)}; it is sold by flex-start and on spot "
                    "only; take a3-highgpu-8g"
                )
    return findings
