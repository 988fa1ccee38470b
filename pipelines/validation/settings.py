"""What KFP and Argo read from ConfigMaps: where artifacts go, defaults of every workflow."""

import re
from typing import Any

import yaml

from pipelines.validation.custom import LABELS, TEXT, WHOLE, fields, schema_findings
from pipelines.validation.tree import Object, Tree

LOST = (
    "Pod was terminated in response to imminent node shutdown.",
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 40Mi.",
    "Preempted in order to admit critical pod",
    "pod failed: neither main nor wait container completed successfully",
    "main: Error (exit code 143)",
)
"""What Argo says of a pod that is lost; the default retry must match these."""
FAILED = (
    "main: Error (exit code 1)",
    "main: OOMKilled (exit code 137)",
    "Pod was active on the node longer than the specified deadline",
)
"""What Argo says of a task that failed; the default retry must not match these."""
WORKFLOW_DEFAULTS = fields(
    "spec",
    spec=fields(
        "podPriorityClassName ttlStrategy templateDefaults",
        podPriorityClassName=TEXT,
        podMetadata=fields(annotations=LABELS, labels=LABELS),
        ttlStrategy=fields(
            secondsAfterCompletion=WHOLE, secondsAfterSuccess=WHOLE, secondsAfterFailure=WHOLE
        ),
        templateDefaults=fields(
            "retryStrategy",
            retryStrategy=fields(
                "limit retryPolicy expression",
                limit={"type": "string", "pattern": "^[1-9][0-9]*$"},
                retryPolicy={"const": "Always"},
                expression=TEXT,
            ),
        ),
    ),
)
PROVIDERS = fields(
    "gs",
    gs=fields(
        "default",
        default=fields("credentials", credentials=fields("fromEnv", fromEnv={"const": True})),
    ),
)
RESTART = fields("enabled", enabled={"const": True}, maxRestarts=WHOLE)


def check_launcher(tree: Tree) -> list[str]:
    """Artifacts go to a place that KFP knows, on GKE to a bucket with the pod's own credentials."""
    findings = []
    for o in tree.all_of("ConfigMap", "kfp-launcher"):
        data, gke = o.data.get("data", {}), any(name.startswith("gke") for name in o.overlays)
        schemes = ("gs://",) if gke else ("gs://", "s3://", "minio://")
        if not (root := str(data.get("defaultPipelineRoot"))).startswith(schemes):
            findings.append(f"{o}: defaultPipelineRoot {root}; expected {' or '.join(schemes)}…")
        findings += _parsed(o, "providers", PROVIDERS)[1] if "providers" in data or gke else []
    return findings


def check_workflow_defaults(tree: Tree) -> list[str]:
    """Argo's defaults are readable, retry lost pods and only those, and name what exists."""
    patches = tree.all_of("ConfigMap", "workflow-controller-configmap")
    if not patches:
        return ["manifests/kfp: no patch of workflow-controller-configmap; lost pods need it"]
    findings = []
    for o in patches:
        findings += _parsed(o, "failedPodRestart", RESTART)[1]
        value, broken = _parsed(o, "workflowDefaults", WORKFLOW_DEFAULTS)
        findings += broken or _defaults(tree, o, value["spec"])
    return findings


def _parsed(o: Object, key: str, schema: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the YAML in a key of a ConfigMap, and what is wrong with it."""
    try:
        value = yaml.safe_load(o.data.get("data", {}).get(key, ""))
    except yaml.YAMLError as error:
        return None, [f"{o}: {key}: not YAML ({' '.join(str(error).split())}); correct it"]
    return value, schema_findings(f"{o}: {key}", value, schema)


def _defaults(tree: Tree, o: Object, spec: dict[str, Any]) -> list[str]:
    findings = []
    if not tree.all_of("PriorityClass", name := spec["podPriorityClassName"]):
        findings.append(f"{o}: podPriorityClassName {name}: no such PriorityClass; correct it")
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    if spec.get("podMetadata", {}).get("annotations", {}).get(annotation) != "false":
        findings.append(f"{o}: no {annotation}: 'false'; a long task would be moved; add it")
    expression = spec["templateDefaults"]["retryStrategy"]["expression"]
    patterns = re.findall(r"matches\s+'([^']*)'", expression)
    try:
        wrong = [m for m in LOST if not any(re.search(p, m) for p in patterns)]
        wrong += [m for m in FAILED if any(re.search(p, m) for p in patterns)]
    except re.error as error:
        return [*findings, f"{o}: retryStrategy.expression: bad pattern ({error}); correct it"]
    findings += [
        f"{o}: retryStrategy.expression: '{message}' is "
        f"{'retried' if message in FAILED else 'not retried'}; expected the opposite; mend it"
        for message in wrong
    ]
    return findings
