"""Compiled pipelines: what they take, name and ask for exists, in manifests and node pools."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml
from google.protobuf import json_format
from kubernetes.utils.quantity import parse_quantity

from pipelines.compile import check_protos
from pipelines.inputs import is_comparison, is_prediction
from pipelines.validation.tree import COMPILED, Tree

ACCELERATOR = "nvidia.com/gpu"
OF_KFP = {"mlpipeline-minio-artifact": {"accesskey", "secretkey"}}
"""Secrets that KFP's installation makes: nobody makes them by our example."""
QUEUE = "kueue.x-k8s.io/queue-name"
GPU_COUNT = "gpu_count"
"""The output of the check tasks that is the parameter gpus as text."""
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
LIFETIME = (
    "activeDeadlineSeconds",
    "resourceTtlOnCompletion",
    "resourceTtlOnFailure",
    "resourceTtlOnSuccess",
)
CHANNEL = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


@dataclass(frozen=True)
class Task:
    """One task of a compiled pipeline."""

    package: str
    name: str
    executor: str
    component: str
    """Name of the component whose DAG the task is in, empty for the root."""
    spec: dict[str, Any]
    container: dict[str, Any]
    config: dict[str, Any]
    """What the platform spec says of it."""

    def __str__(self) -> str:
        return f"{self.package}: {self.name}"


def tasks(tree: Tree) -> Iterator[Task]:
    """Yield the tasks that run in a pod, of all compiled pipelines."""
    for package, spec, platform in tree.packages:
        executors = spec.get("deploymentSpec", {}).get("executors", {})
        configs = _at(platform, "platforms", "kubernetes", "deploymentSpec", "executors")
        for component, dag in _dags(spec):
            for name, task in dag.get("dag", {}).get("tasks", {}).items():
                label = _at(spec, "components", _component(task)).get("executorLabel")
                if label:
                    container = executors.get(label, {}).get("container", {})
                    yield Task(
                        package, name, label, component, task, container, configs.get(label, {})
                    )


def _dags(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", spec.get("root", {})
    yield from ((n, c) for n, c in spec.get("components", {}).items() if "dag" in c)


def _component(task: dict[str, Any]) -> str:
    return str(_at(task, "componentRef").get("name"))


def _at(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        tree = tree.get(key, {})
    return tree


def default_of(spec: dict[str, Any], component: str, name: str) -> Any:
    """Return the default of the pipeline parameter that reaches a DAG's input of this name."""
    if not component:
        return _at(spec, "root", "inputDefinitions", "parameters", name).get("defaultValue")
    for parent, dag in _dags(spec):
        for task in dag.get("dag", {}).get("tasks", {}).values():
            if _component(task) == component:
                return _default_given(spec, parent, dag, _at(task, "inputs", "parameters", name))
    return None


def _default_given(
    spec: dict[str, Any], component: str, dag: dict[str, Any], given: dict[str, Any]
) -> Any:
    """Return the default of what a task of a DAG is given; the check tasks hand `gpus` on."""
    if source := given.get("taskOutputParameter"):
        if source["outputParameterKey"] != GPU_COUNT:
            return None
        given = _at(dag, "dag", "tasks", source["producerTask"], "inputs", "parameters", "gpus")
    return default_of(spec, component, given.get("componentInputParameter", ""))


def _default(tree: Tree, task: Task, name: str) -> Any:
    spec = next(spec for package, spec, _ in tree.packages if package == task.package)
    return default_of(spec, task.component, name)


def gpus(tree: Tree, task: Task) -> int:
    """Return how many GPUs a task asks for by default."""
    count = str(_at(task.container, "resources", "accelerator").get("resourceCount", 0))
    found = CHANNEL.fullmatch(count)
    if not found:
        return int(count)
    spec = next(spec for package, spec, _ in tree.packages if package == task.package)
    dag = next(dag for component, dag in _dags(spec) if component == task.component)
    given = _at(task.spec, "inputs", "parameters", found[1])
    return int(float(_default_given(spec, task.component, dag, given) or 0))


def requests(tree: Tree, task: Task) -> dict[str, Decimal]:
    """Return what the container of a task requests: processors, bytes of memory, GPUs."""
    resources = _at(task.container, "resources")
    return {
        "cpu": parse_quantity(resources.get("resourceCpuRequest", 0)),
        "memory": parse_quantity(resources.get("resourceMemoryRequest", 0)),
        ACCELERATOR: Decimal(gpus(tree, task)),
    }


def with_gpus(tree: Tree) -> set[str]:
    """Return the compiled pipelines that ask for GPUs by default: those for the cluster of gke/."""
    return {task.package for task in tasks(tree) if gpus(tree, task)}


def queue(task: Task) -> str:
    """Return the LocalQueue in which a task waits, empty for none."""
    return _at(task.config, "podMetadata", "labels").get(QUEUE, "")


def parameters(tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the parameters of the compiled pipelines by name."""
    return {
        name: definition
        for _, spec, _ in tree.packages
        for name, definition in _at(spec, "root", "inputDefinitions", "parameters").items()
    }


def node_selector(tree: Tree, task: Task) -> dict[str, str]:
    """Return the node selector of a task by default."""
    selector = task.config.get("nodeSelector", {})
    if parameter := selector.get("nodeSelectorJson", {}).get("componentInputParameter"):
        return _default(tree, task, parameter) or {}
    return selector.get("labels", {})


def tolerations(tree: Tree, task: Task) -> list[dict[str, Any]]:
    """Return the tolerations of a task by default."""
    found: list[dict[str, Any]] = []
    for toleration in task.config.get("tolerations", []):
        if parameter := toleration.get("tolerationJson", {}).get("componentInputParameter"):
            value = _default(tree, task, parameter) or []
            found += value if isinstance(value, list) else [value]
        else:
            found.append(toleration)
    return found


def check_packages(tree: Tree) -> list[str]:
    """Compiled pipelines are what KFP's backend reads."""
    here = any(package.startswith(COMPILED) for package, *_ in tree.packages)
    findings = [] if here else [f"{COMPILED}: nothing compiled; run make compile"]
    for package, *_ in tree.packages:
        try:
            check_protos(tree.root / package)
        except (json_format.ParseError, ValueError) as error:
            told = " ".join(str(error).split())
            findings.append(f"{package}: {told}; KFP would refuse it; run make compile")
    return findings


def check_inputs(tree: Tree) -> list[str]:
    """Every parameter that a task or its platform settings take reaches the DAG it is in."""
    findings = []
    for package, spec, _ in tree.packages:
        for component, dag in _dags(spec):
            defined = _at(dag, "inputDefinitions", "parameters")
            for name, task in dag.get("dag", {}).get("tasks", {}).items():
                text = json.dumps(task.get("inputs", {}))
                findings += _missing(f"{package}: {name}", text, component, defined)
    for task in tasks(tree):
        spec = next(spec for package, spec, _ in tree.packages if package == task.package)
        dag = _at(spec, "components", task.component) if task.component else spec["root"]
        text, defined = json.dumps(task.config), _at(dag, "inputDefinitions", "parameters")
        findings += _missing(str(task), text, task.component, defined)
    return findings


def _missing(where: str, text: str, dag: str, defined: dict[str, Any]) -> list[str]:
    used = set(re.findall(r'"componentInputParameter": "([^"]+)"', text))
    return [
        f"{where}: takes {name}, which does not reach {dag or 'the pipeline'}; the driver could "
        "not resolve it; pass it to the component as an input"
        for name in sorted(used - set(defined))
    ]


def check_params(tree: Tree) -> list[str]:
    """Parameter files give what their pipeline takes: no other name, and all without a default."""
    findings = []
    for path, text in tree.files("pipelines/params/*.yaml"):
        try:
            given = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # check_style tells it
        if not isinstance(given, dict):
            findings.append(f"{path}: expected lines of 'parameter: value'")
            continue
        known = _parameters_for(tree, given)
        findings += [
            f"{path}: {name}: not a parameter of the pipeline; there are {', '.join(known)}; "
            "correct the name"
            for name in sorted(set(given) - set(known))
        ]
        findings += [
            f"{path}: no {name}, which has no default; add it"
            for name, p in sorted(known.items())
            if "defaultValue" not in p and not p.get("isOptional") and name not in given
        ]
    return findings


def _parameters_for(tree: Tree, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of the compiled pipelines that a parameter file is for."""
    return {
        name: definition
        for _, spec, _ in tree.packages
        for inputs in [_at(spec, "root", "inputDefinitions", "parameters")]
        if is_comparison(inputs) == is_comparison(given)
        and is_prediction(inputs) == is_prediction(given)
        for name, definition in inputs.items()
    }


def check_references(tree: Tree) -> list[str]:
    """Secrets, keys and config maps that tasks read are named in the manifests, and no others."""
    known, findings, read = OF_KFP | tree.secrets, [], set()
    for task in tasks(tree):
        for secret in task.config.get("secretAsEnv", []):
            name = secret.get("secretName")
            for key in (pair["secretKey"] for pair in secret.get("keyToEnv", [])):
                read.add((name, key))
                if key not in known.get(name, ()):
                    findings.append(
                        f"{task}: secret {name} key {key}; manifests/secrets.example.yaml has "
                        f"{_listed(known)}; make the two alike"
                    )
            if not secret.get("optional"):
                findings.append(
                    f"{task}: secret {name} is not optional, so a run without it never starts; "
                    "expected optional=True"
                )
        for field in ("configMapAsEnv", "configMapAsVolume"):
            for entry in task.config.get(field, []):
                if not tree.all_of("ConfigMap", name := entry.get("configMapName")):
                    findings.append(f"{task}: no ConfigMap/{name} in manifests; add it")
    return findings + [
        f"manifests/secrets.example.yaml: Secret/{name}: no task reads its key {key}; drop it, or "
        "name it in pipelines/scheduling.py"
        for name, keys in tree.secrets.items()
        for key in sorted(keys)
        if (name, key) not in read
    ]


def _listed(known: dict[str, set[str]]) -> str:
    return ", ".join(f"{name} ({', '.join(sorted(keys))})" for name, keys in known.items())


def check_placement(tree: Tree) -> list[str]:
    """Tasks with GPUs find nodes, may run there, and wait in a queue that exists."""
    findings = []
    for task in tasks(tree):
        selector, line = node_selector(tree, task), queue(task)
        if line and not tree.all_of("LocalQueue", line):
            names = ", ".join(o.name for o in tree.all_of("LocalQueue")) or "none"
            findings.append(f"{task}: label {QUEUE}: {line}; LocalQueues: {names}; make them alike")
        if not gpus(tree, task):
            if selector or line:
                findings.append(
                    f"{task}: no GPU, yet {QUEUE if line else 'a node selector'}; it would hold "
                    "or wait for an H100 node; drop it"
                )
            continue
        if not line:
            findings.append(f"{task}: no label {QUEUE}; with Kueue it would jump the queue; add it")
        for flavor in tree.all_of("ResourceFlavor"):
            if flavor.spec.get("nodeLabels") != selector:
                findings.append(
                    f"{task}: node selector {selector}; {flavor} has nodeLabels "
                    f"{flavor.spec.get('nodeLabels')}; make them alike"
                )
            findings += [
                f"{task}: does not tolerate {taint.get('key')}={taint.get('value')}:"
                f"{taint.get('effect')} of {flavor}; add the toleration"
                for taint in flavor.spec.get("nodeTaints", [])
                if not any(_tolerates(t, taint) for t in tolerations(tree, task))
            ]
    return findings


def _tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    same = toleration.get("key") == taint.get("key")
    value = toleration.get("operator") == "Exists" or toleration.get("value") == taint.get("value")
    return same and value and toleration.get("effect") in (None, "", taint.get("effect"))


def check_lifetime(tree: Tree) -> list[str]:
    """Runs end and leave by their own settings, and no autoscaler moves a task."""
    findings = []
    for package, _, platform in tree.packages:
        config = _at(platform, "platforms", "kubernetes", "pipelineConfig")
        findings += [
            f"{package}: no pipelineConfig.{name}; expected one, as KFP's default is for short "
            "runs; give dsl.pipeline pipeline_config=LIFETIME"
            for name in LIFETIME
            if not config.get(name)
        ]
    findings += [
        f"{task}: no annotation {SAFE_TO_EVICT}: 'false', so a long task may be moved; "
        "kubernetes.add_pod_annotation sets it"
        for task in tasks(tree)
        if _at(task.config, "podMetadata", "annotations").get(SAFE_TO_EVICT) != "false"
    ]
    return findings


def check_retries(tree: Tree) -> list[str]:
    """A task may be retried for as long as its attempts may take.

    Argo counts backoffMaxDuration from the start of the first attempt, and stops a later one when
    it is over.
    """
    findings = []
    for task in tasks(tree):
        policy, limit = task.spec.get("retryPolicy"), task.config.get("activeDeadlineSeconds")
        if not policy:
            continue
        if not limit:
            findings.append(f"{task}: retries without a timeout; expected one; set_timeout")
            continue
        window = int(float(policy.get("backoffMaxDuration", "0s").rstrip("s")))
        needed = int(limit) * (int(policy.get("maxRetryCount", 0)) + 1)
        if window < needed:
            findings.append(
                f"{task}: backoffMaxDuration {window} s; Argo counts it from the start of the "
                f"first attempt, so a task lost later than that is not retried; expected at least "
                f"{needed} s (timeout x attempts); give set_retry backoff_max_duration"
            )
    return findings
