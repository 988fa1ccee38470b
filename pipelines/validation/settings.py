"""What KFP and Argo read from ConfigMaps: where artifacts go, defaults of every workflow."""

import re
from typing import Any

import yaml

from pipelines.validation.custom import TEXT, WHOLE, fields, schema_findings
from pipelines.validation.tree import Object, Tree

CONTROLLER = "workflow-controller-configmap"
OFFLOAD = "persistence"
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
KFPS_OWN = {"const": 3600}
"""Seconds after which KFP 2.17 drops a workflow: ours say it themselves, the others keep this."""
WORKFLOW_DEFAULTS = fields(
    "spec",
    spec=fields(
        "podPriorityClassName ttlStrategy templateDefaults",
        podPriorityClassName=TEXT,
        ttlStrategy=fields(
            "secondsAfterCompletion secondsAfterSuccess secondsAfterFailure",
            secondsAfterCompletion=KFPS_OWN,
            secondsAfterSuccess=KFPS_OWN,
            secondsAfterFailure=KFPS_OWN,
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
SECRET = {
    field: fields("name key", name={"const": "mysql-secret"}, key={"const": key})
    for field, key in (("userNameSecret", "username"), ("passwordSecret", "password"))
}
PERSISTENCE = fields(
    "nodeStatusOffLoad mysql",
    nodeStatusOffLoad={"const": True},
    archive={"const": False},
    connectionPool=fields(maxIdleConns=WHOLE, maxOpenConns=WHOLE, connMaxLifetime=TEXT),
    mysql=fields(
        "host database tableName userNameSecret passwordSecret",
        host={"const": "mysql"},
        port={"const": 3306},
        database=TEXT,
        tableName=TEXT,
        **SECRET,
    ),
)
"""From Argo 4.0's PersistConfig; host and secret are those of KFP's MySQL. An archive would keep
every team's workflows for ever."""
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
    patches = [
        o for o in tree.all_of("ConfigMap", CONTROLLER) if OFFLOAD not in o.data.get("data", {})
    ]
    if not patches:
        return ["manifests/kfp: no patch of workflow-controller-configmap; lost pods need it"]
    findings = []
    for o in patches:
        findings += _parsed(o, "failedPodRestart", RESTART)[1]
        value, broken = _parsed(o, "workflowDefaults", WORKFLOW_DEFAULTS)
        findings += broken or _defaults(tree, o, value["spec"])
    return findings


def check_offload(tree: Tree) -> list[str]:
    """Node status goes to KFP's own MySQL, into a database that the README makes."""
    findings = []
    for o in tree.all_of("ConfigMap", CONTROLLER):
        if OFFLOAD not in o.data.get("data", {}):
            continue
        value, broken = _parsed(o, OFFLOAD, PERSISTENCE)
        findings += broken
        made = re.findall(r"CREATE DATABASE IF NOT EXISTS (\w+)", tree.text("manifests/README.md"))
        if not broken and (name := value["mysql"]["database"]) not in made:
            findings.append(
                f"{o}: {OFFLOAD}: database {name}; manifests/README.md makes "
                f"{', '.join(made) or 'none'}; make the two alike"
            )
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
