"""How large a comparison gets: what Argo and Linux bound, summed from the compiled pipeline.

Argo keeps a comparison in one object, compressed if need be, of at most 1 MiB, unless it may
offload the status of nodes to a database. KFP's driver puts all that a task takes, in JSON, into
one argument of its pod's command; Linux takes 128 KiB of one argument.

The sum follows KFP 2.17's compiler and driver and Argo 4.0's controller. Of a task in the loop
there are six nodes: driver, executor and pod, each under a node that retries it, since Argo's
defaults of a retry hold for every template. The driver's two have the component and the task as
inputs and the pod's patch as output, the other four have the patch as input. The patch holds the
argument, the component once more and its command. Nodes are keyed by a hash, so that what is alike
is far apart and is compressed anew.
"""

import base64
import json
import random
import re
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from components.check.check import grid, repeat_comparison
from components.shared.artifacts import artifact as folders

GRID, LOOP = "check-grid", "parameterIterator"
ROOT = "minio://mlpipeline/v2/artifacts"
STORE = (
    '{"Provider":"minio","Params":{"accessKeyKey":"accesskey","disableSSL":"true","endpoint":'
    '"seaweedfs.kubeflow.svc.cluster.local:9000","forcePathStyle":"true","fromEnv":"false",'
    '"maxRetries":"5","region":"minio","secretKeyKey":"secretkey","secretName":'
    '"mlpipeline-minio-artifact"}}'
)
"""How to reach an artifact, as KFP notes it at each; longest for the store that it brings along."""
LAUNCHER = (
    "--pod_name $(KFP_POD_NAME) --pod_uid $(KFP_POD_UID) --ml_pipeline_server_address "
    "ml-pipeline.kubeflow.svc.cluster.local --ml_pipeline_server_port 8887 --mlmd_server_address "
    "metadata-grpc-service.kubeflow.svc.cluster.local --mlmd_server_port 8080 --publish_logs true "
    "--ml_pipeline_tls_enabled=false --metadata_tls_enabled=false --ca_cert_path  "
    "--cache_disabled=false --log_level 1 --"
)
MEASURED = 1.1
"""Nodes on a cluster are this times their sum. Measured with KFP 2.17.0 and Argo 4.0.5 on 29
November 2026: 1,050,760 bytes in the 22nd run of a comparison, 105,000 of them beside the nodes,
where the sum for the same packages had 858,000 of nodes. Arguments were 3.5 kB a run for
publish-best and 7 kB for evaluate, in the sum 3.4 and 7.3."""
TEMPLATES = 30_000
"""Bytes of KFP's own templates and labels; with them the sum beside the nodes was the measured."""
FORMATS = {
    "cells": folders.CELLS,
    "splits": folders.SPLITS,
    "gene_prior": folders.GENE_PRIOR,
    "model": folders.MODEL,
    "predictions": folders.PREDICTIONS,
    "evaluation": folders.EVALUATION,
    "best_evaluation": folders.EVALUATION,
    "comparison": folders.COMPARISON,
    "published": folders.PUBLISHED,
}
TEXTS = {"test_line": "rpe1", "kind": "annotation", "device": "NVIDIA H100 80GB HBM3"}
TEXTS |= {"prior": "annotation", "conclusion": folders.LONGEST_SHOWN * "a"}
LOGGED = {"stats": ("best_val_pearson_delta", "cells_per_second", "wall_clock_seconds")}
"""Metrics that a task logs and another task takes."""


def sweep(
    spec: dict[str, Any],
    platform: dict[str, Any],
    given: Mapping[str, Any],
    priors: int,
    seeds: int,
    *,
    cached: int = 0,
) -> "Workflow":
    """Return a comparison of so many priors and seeds with the parameters that are given."""
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    parameters = {name: one.get("defaultValue", "") for name, one in inputs.items()}
    parameters |= dict(given)
    parameters["priors"] = [
        f"graph:gs://some-bucket/priors/interactions-{number}.tsv" for number in range(priors)
    ]
    parameters["seeds"] = list(range(seeds))
    return Workflow(spec, platform, parameters, grid(parameters, "", ""), cached)


def metadata_of(output: str, draw: random.Random) -> dict[str, Any]:
    """Return metadata of an artifact, with numbers as long as those of large screens."""
    if output in LOGGED:
        return {name: draw.random() * 1e4 for name in LOGGED[output]}
    if output not in FORMATS:
        return {}
    kind = FORMATS[output]
    facts: dict[str, Any] = {}
    for name in folders.SHOWN[kind]:
        number = round(draw.random(), 6) if "delta" in name else draw.randrange(10**5, 10**6)
        facts[name] = TEXTS.get(name, number)
    return {"format": kind, "sha256": f"{draw.getrandbits(256):064x}"} | facts


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass
class Workflow:
    """A comparison as Argo has it at its end, with all of its tasks done."""

    spec: dict[str, Any]
    platform: dict[str, Any]
    parameters: dict[str, Any]
    runs: Sequence[Mapping[str, Any]]
    """The grid, as check-grid makes it."""
    cached: int = 0
    """How many runs, the first ones, come from the cache: KFP plans no pod for their tasks."""
    arguments: dict[str, int] = field(default_factory=dict)
    """Bytes of the argument with what each task takes, the longest if there are several."""
    nodes: dict[str, Any] = field(default_factory=dict)
    results: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(0)
        self.pipeline = self.spec["pipelineInfo"]["name"]
        self.planned = True
        self.name, self.run = f"{self.pipeline}-x7k2p", self._uuid()
        self.outputs = {
            (GRID, "Output"): [dict(run) for run in self.runs],
            (GRID, "runs"): [{"prior": run["prior"], "seed": run["seed"]} for run in self.runs],
            (GRID, "repeat"): repeat_comparison(self.parameters, ""),
        }
        self._dag("", f"{self.name}(0).root", self.parameters, {})

    @cached_property
    def beside_nodes(self) -> int:
        """Bytes that are in the object whether or not the status of nodes is offloaded."""
        parts: list[Any] = [TEMPLATES * "-", self.parameters, self.results]
        for name, component in self._components.items():
            parts.append(component)
            parts += [_json(task) for task in component.get("dag", {}).get("tasks", {}).values()]
            if "executorLabel" in component:
                parts += [_json(part) for part in self._executor(name)]
        return len(_json([_json(self.spec["root"]), parts]))

    @cached_property
    def bytes(self) -> int:
        """Bytes of the object with the status of its nodes, compressed as Argo does it."""
        nodes = _json(dict(sorted(self.nodes.items()))).encode()
        return self.beside_nodes + int(MEASURED * len(base64.b64encode(zlib.compress(nodes, 6))))

    @property
    def _components(self) -> dict[str, Any]:
        return self.spec["components"]

    def _executor(self, component: str) -> tuple[dict[str, Any], dict[str, Any]]:
        label = self._components[component]["executorLabel"]
        configs = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        return self.spec["deploymentSpec"]["executors"][label]["container"], configs.get(label, {})

    def _dag(
        self, component: str, path: str, given: Mapping[str, Any], artifacts: Mapping[str, list]
    ) -> dict[str, dict[str, Any]]:
        """Do the tasks of a DAG in their order; return the artifacts that each makes."""
        dag = (self._components[component] if component else self.spec["root"])["dag"]
        made: dict[str, dict[str, Any]] = {}
        for name, task in _in_order(dag["tasks"]):
            inputs = task.get("inputs", {})
            values = {n: self._value(one, given) for n, one in inputs.get("parameters", {}).items()}
            taken = {
                n: artifacts[one["componentInputArtifact"]]
                if "componentInputArtifact" in one
                else _produced(made, one["taskOutputArtifact"])
                for n, one in inputs.get("artifacts", {}).items()
            }
            inner = task["componentRef"]["name"]
            here = f"{path}(0).{name}"
            if "executorLabel" in self._components[inner]:
                made[name] = self._task(here, name, task, values, taken)
            elif LOOP in task:
                made[name] = self._loop(here, task, values, taken)
            else:
                self._drive(here, task)
                made[name] = self._dag(inner, here, values, taken)
        return made

    def _value(self, source: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return self.outputs.get((output["producerTask"], output["outputParameterKey"]), 0)
        if "componentInputParameter" not in source:
            return source.get("runtimeValue", {}).get("constant", "")
        value = given[source["componentInputParameter"]]
        key = re.search(r'\["(\w+)"\]', source.get("parameterExpressionSelector", ""))
        return value[key[1]] if key else value

    def _loop(
        self, path: str, task: dict[str, Any], given: Mapping[str, Any], taken: Mapping[str, list]
    ) -> dict[str, list[Any]]:
        component, item = task["componentRef"]["name"], task[LOOP]["itemInput"]
        self._drive(f"{path}(0).iteration", task)
        collected: dict[str, list[Any]] = {}
        for number, run in enumerate(self.runs):
            self.planned = number >= self.cached
            one = f"{path}(0).iteration-iterations({number}:{number})"
            self._node(one, "DAG", f"{component}-iteration", {"iteration-index": str(number)})
            self._drive(f"{one}(0).iteration-item", task)
            made = self._dag(component, f"{one}(0).iteration-item", {**given, item: run}, taken)
            outputs = self._components[component]["dag"]["outputs"]["artifacts"]
            for name, output in outputs.items():
                [source] = output["artifactSelectors"]
                artifact = made[source["producerSubtask"]][source["outputArtifactKey"]]
                collected.setdefault(name, []).append(artifact)
        self.planned = True
        return collected

    def _drive(self, path: str, task: dict[str, Any]) -> None:
        component = task["componentRef"]["name"]
        inputs = {
            "component": _json(self._components[component]),
            "task": _json(task),
            "task-name": path.rpartition(".")[2],
            "parent-dag-id": str(self.draw.randrange(10_000)),
            "iteration-index": "-1",
            "runtime-config": "",
            "driver-type": "DAG",
        }
        outputs = {"execution-id": "1234", "iteration-count": "0", "condition": "true"}
        self._node(f"{path}-driver", "Pod", "system-dag-driver", inputs, outputs)
        self._node(path, "DAG", component, {"parent-dag-id": "1234", "condition": "true"})

    def _task(
        self,
        path: str,
        name: str,
        task: dict[str, Any],
        values: Mapping[str, Any],
        taken: Mapping[str, list],
    ) -> dict[str, Any]:
        component = task["componentRef"]["name"]
        container, config = self._executor(component)
        place = f"{ROOT}/{self.pipeline}/{self.run}/{name}/{self._uuid()}"
        argument = _json(self._argument(component, place, values, taken))
        self.arguments[name] = max(self.arguments.get(name, 0), len(argument))
        patch = _json(self._patch(component, argument)) if self.planned else ""
        driven = {
            "component": _json(self._components[component]),
            "task": _json(task),
            "container": _json(container),
            "kubernetes-config": _json(config),
            "task-name": name,
            "parent-dag-id": str(self.draw.randrange(10_000)),
            "iteration-index": "-1",
        }
        planned = {"pod-spec-patch": patch, "cached-decision": "false", "condition": "true"}
        self._node(f"{path}-driver", "Pod", "system-container-driver", driven, planned)
        retry = {f"retry-{name}": str(v) for name, v in task.get("retryPolicy", {}).items()}
        inputs = {"pod-spec-patch": patch, **_metadata_parameters(config), **retry}
        self._node(path, "DAG", "system-container-executor", {"cached-decision": "false", **inputs})
        self._node(f"{path}(0).executor", "Pod", "system-container-impl", inputs, {})
        outputs = self._components[component].get("outputDefinitions", {}).get("artifacts", {})
        return {output: self._artifact(place, output) for output in outputs}

    def _argument(
        self, component: str, place: str, values: Mapping[str, Any], taken: Mapping[str, list]
    ) -> dict[str, Any]:
        made = self._components[component].get("outputDefinitions", {})
        logs = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact"}}}
        return {
            "inputs": {
                "parameterValues": values,
                "artifacts": {name: {"artifacts": list(found)} for name, found in taken.items()},
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": f"/tmp/kfp/outputs/{name}"}
                    for name in made.get("parameters", {})
                },
                "artifacts": {
                    name: {
                        "artifacts": [
                            {"name": name, "type": one["artifactType"], "uri": f"{place}/{name}"}
                        ]
                    }
                    for name, one in (made.get("artifacts", {}) | logs).items()
                },
                "outputFile": f"{place.replace('://', '/')}/output_metadata.json",
            },
        }

    def _artifact(self, place: str, output: str) -> dict[str, Any]:
        return {
            "name": str(self.draw.randrange(100_000)),
            "type": {"instanceSchema": ""},
            "uri": f"{place}/{output}",
            "metadata": {
                "display_name": output,
                "store_session_info": STORE,
                **metadata_of(output, self.draw),
            },
        }

    def _patch(self, component: str, argument: str) -> dict[str, Any]:
        container, config = self._executor(component)
        launch = ["/kfp-launcher/launch", "--executor_type", "container", "--pipeline_name"]
        launch += [self.pipeline, "--run_id", self.run, "--execution_id", "1234"]
        launch += ["--executor_input", argument, "--component_spec"]
        launch += [_json(self._components[component]), *LAUNCHER.split(" ")]
        main = {"name": "main", "image": container["image"], "command": launch}
        main["args"] = [*container["command"], *container.get("args", [])]
        return {"containers": [main], **config, "resources": container.get("resources", {})}

    def _node(
        self,
        name: str,
        kind: str,
        template: str,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        """Add a node, and the node that would retry it."""
        for own, of_kind in ((name, "Retry"), (f"{name}(0)", kind)):
            node = self._status(own, of_kind, template, inputs)
            if outputs is not None:
                node["outputs"] = self._results(node["id"], template, outputs)
            if of_kind == "Pod":
                self.results[node["id"]] = True
            self.nodes[node["id"]] = node

    def _status(
        self, name: str, kind: str, template: str, inputs: Mapping[str, str]
    ) -> dict[str, Any]:
        hours, rest = self.draw.randrange(10, 24), self.draw.randrange(10, 60)
        return {
            "id": self._id(),
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "templateScope": f"local/{self.name}",
            "phase": "Succeeded",
            "boundaryID": self._id(),
            "startedAt": f"2026-11-29T{hours}:{rest}:07Z",
            "finishedAt": f"2026-11-29T{hours}:{rest}:{self.draw.randrange(10, 60)}Z",
            "progress": "1/1",
            "resourcesDuration": {"cpu": rest, "memory": 17 * rest},
            "hostNodeName": "gke-scgpt-perturb-cpu-1a2b3c4d-x7k2",
            "inputs": {"parameters": [{"name": n, "value": v} for n, v in inputs.items()]},
            "children": [self._id()],
            "outboundNodes": [self._id()],
        }

    def _results(self, node: str, template: str, outputs: Mapping[str, str]) -> dict[str, Any]:
        pod = f"{self.name}-{template}-{node.rpartition('-')[2]}"
        key = f"private-artifacts/kubeflow/{self.name}/2026/11/29/{pod}/main.log"
        return {
            "parameters": [
                {"name": n, "value": v, "valueFrom": {"path": f"/tmp/outputs/{n}", "default": ""}}
                for n, v in outputs.items()
            ],
            "artifacts": [{"name": "main-logs", "s3": {"key": key}}],
            "exitCode": "0",
        }

    def _id(self) -> str:
        return f"{self.name}-{self.draw.randrange(10**8, 2**32)}"

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.draw.getrandbits(128), version=4))


def _in_order(tasks: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    left = dict(tasks)
    while left:
        name = next(
            n for n, task in left.items() if not left.keys() & task.get("dependentTasks", [])
        )
        yield name, left.pop(name)


def _produced(made: Mapping[str, dict[str, Any]], source: Mapping[str, str]) -> list[Any]:
    found = made[source["producerTask"]][source["outputArtifactKey"]]
    return found if isinstance(found, list) else [found]


def _metadata_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, pairs in config.get("podMetadata", {}).items():
        for key, value in pairs.items():
            found |= {f"pod-metadata-{kind[:-1]}-key": key, f"pod-metadata-{kind[:-1]}-val": value}
    return found
