"""Each mistake is planted in a copy of the repository; its line, and no other, must be told."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipelines import compile as compiling
from pipelines.images import development_images
from pipelines.validate import findings
from pipelines.validation import tree as reading
from pipelines.validation.tree import LOADER

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "Makefile",
    "manifests",
    "images/requirements.lock",
    "pipelines/compiled",
    "pipelines/params",
    ".github",
)
H100 = "pipelines/compiled/scgpt-perturb.yaml"
RIGHTS = "manifests/base/rbac.yaml"
QUOTA = "manifests/base/quota.yaml"
README = "manifests/README.md"
KUEUE = "manifests/components/kueue/cluster-queue.yaml"
LINE = "manifests/components/kueue/local-queue.yaml"
CLASS = "manifests/overlays/gke-h100/compute-class.yaml"
ARGO = "manifests/kfp/workflow-controller-configmap.yaml"
OFFLOAD = "manifests/kfp/offload-node-status.yaml"
TERRAFORM = "manifests/gke/main.tf"

pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl is not on PATH, which renders the manifests"
)


def copy_to(target: Path) -> Path:
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            place = target / source.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns(".terraform*"))
            else:
                shutil.copy(source, place)
    return target


def once(read: Callable[..., Any], of: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``read`` with what it returned kept, by what it is ``of``."""
    kept: dict[Any, Any] = {}

    def remembering(*given: Any, **options: Any) -> Any:
        key = of(*given)
        if key not in kept:
            kept[key] = read(*given, **options)
        return kept[key]

    return remembering


def kustomized(command: list[str]) -> list[tuple[str, bytes]]:
    """Return all that an overlay is made of: each file of its folder and those that it names."""
    found, folders = [], [Path(command[-1])]
    for folder in folders:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            found.append((f"{folder.name}/{path.name}", path.read_bytes()))
        names = re.findall(r"- (\.\./\S+)", (folder / "kustomization.yaml").read_text())
        folders += [(folder / name).resolve() for name in names]
    return found


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Read once what the copies have alike, which is all but a file each."""
    render = SimpleNamespace(run=once(subprocess.run, lambda command: tuple(kustomized(command))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "subprocess", render)
        patch.setattr(reading, "documents", once(reading.documents, lambda *texts: texts))
        patch.setattr(reading.hcl2, "loads", once(reading.hcl2.loads, lambda text: text))
        yield


@pytest.fixture(scope="session")
def before(tmp_path_factory) -> set[str]:
    return set(findings(copy_to(tmp_path_factory.mktemp("before"))))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> list[Path]:
    return compiling.compile_to(tmp_path_factory.mktemp("fresh"), development_images())


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, dict[Path, bytes]]:
    """A copy of the tree, and what each of its files holds."""
    root = copy_to(tmp_path_factory.mktemp("copied"))
    return root, {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def tree(copied) -> Iterator[Path]:
    """The copy, made whole again after what a test has done to it."""
    root, was = copied
    yield root
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path not in was:
            path.unlink()
        elif path.read_bytes() != was[path]:
            path.write_bytes(was[path])
    assert was.keys() == {path for path in root.rglob("*") if path.is_file()}


def swap(path: str, old: str, new: str) -> Callable[[Path], None]:
    def plant(tree: Path) -> None:
        text = (tree / path).read_text()
        assert old in text, f"{path} has no {old!r} to spoil"
        (tree / path).write_text(text.replace(old, new))

    return plant


def add(path: str, text: str) -> Callable[[Path], None]:
    def plant(tree: Path) -> None:
        with (tree / path).open("a") as file:
            file.write(text)

    return plant


def package(change: Callable[[dict, dict], None], path: str = H100) -> Callable[[Path], None]:
    def plant(tree: Path) -> None:
        documents = [d for d in yaml.load_all((tree / path).read_text(), Loader=LOADER) if d]
        change(*documents)
        (tree / path).write_text(yaml.safe_dump_all(documents))

    return plant


def executor(spec: dict, stage: str) -> dict:
    return spec["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]


def config(platform: dict, stage: str) -> dict:
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{stage}"]


def inputs(spec: dict) -> dict:
    return spec["root"]["inputDefinitions"]["parameters"]


def secret_of(name: str, field: str, value: str) -> Callable[[dict, dict], None]:
    def change(_: dict, platform: dict) -> None:
        [secret] = [
            s for s in config(platform, "finetune")["secretAsEnv"] if s["secretName"] == name
        ]
        if field == "secretKey":
            secret["keyToEnv"][0]["secretKey"] = value
        else:
            secret[field] = value

    return change


def task_of(spec: dict, stage: str) -> dict:
    for component in (spec["root"], *spec["components"].values()):
        found = component.get("dag", {}).get("tasks", {}).get(stage)
        if found:
            return found
    raise AssertionError(stage)


def retry_for(seconds: int) -> Callable[[dict, dict], None]:
    def change(spec: dict, _: dict) -> None:
        policy = task_of(spec, "predict")["retryPolicy"]
        policy.update({"backoffMaxDuration": f"{seconds}s", "maxRetryCount": 4})

    return change


def hash_launcher(tree: Path) -> None:
    swap("manifests/base/kustomization.yaml", "  - kfp-launcher.yaml\n", "")(tree)
    add(
        "manifests/base/kustomization.yaml",
        "configMapGenerator:\n  - name: kfp-launcher\n    namespace: kubeflow\n"
        "    literals:\n      - defaultPipelineRoot=minio://mlpipeline/v2/artifacts\n",
    )(tree)


def apply_the_patch(tree: Path) -> None:
    shutil.copy(tree / ARGO, tree / "manifests/overlays/kind/workflow-defaults.yaml")
    swap(
        "manifests/overlays/kind/kustomization.yaml",
        "  - object-store.yaml\n",
        "  - object-store.yaml\n  - workflow-defaults.yaml\n",
    )(tree)


def policy_without(lines: str) -> Callable[[Path], None]:
    return swap("manifests/base/network-policy.yaml", lines, "")


DRIFT: dict[str, Callable[[Path], object]] = {
    "a secret that must be there": package(secret_of("wandb", "optional", False)),
    "a queue that does not exist": package(
        lambda _, platform: config(platform, "predict")["podMetadata"]["labels"].update(
            {"kueue.x-k8s.io/queue-name": "h200"}
        )
    ),
    "no toleration of the GPU taint": package(
        lambda spec, _: inputs(spec)["tolerations"].update(defaultValue=[])
    ),
    "a node selector no pool has": package(
        lambda spec, _: inputs(spec)["node_selector"]["defaultValue"].update(
            {"cloud.google.com/gke-accelerator": "nvidia-h100"}
        )
    ),
    "an image of another stage": package(
        lambda spec, _: executor(spec, "predict").update(image="scgpt-perturb/split:1")
    ),
    "a moving tag": package(
        lambda spec, _: executor(spec, "split").update(image="scgpt-perturb/split:latest")
    ),
    "a digest among the pipelines of development": package(
        lambda spec, _: executor(spec, "split").update(image=f"a/split@sha256:{'0' * 64}")
    ),
    "a pod without security context": package(
        lambda _, platform: config(platform, "split").pop("securityContext")
    ),
    "a pod that may be root": package(
        lambda _, platform: config(platform, "split")["securityContext"].pop("runAsNonRoot")
    ),
    "a field KFP does not know": package(lambda spec, _: spec["root"].update(surprise=1)),
    "a platform field KFP does not know": package(
        lambda _, platform: config(platform, "split").update(nodeSelectors={})
    ),
    "a parameter that does not reach its task": package(
        lambda spec, _: spec["components"]["comp-exit-handler-1"]["inputDefinitions"][
            "parameters"
        ].pop("pipelinechannel--node_selector")
    ),
    "retries that end before the first attempt": package(retry_for(901)),
    "a run that stays for an hour": package(
        lambda _, platform: platform["platforms"]["kubernetes"]["pipelineConfig"].pop(
            "resourceTtlOnFailure"
        )
    ),
    "a run that waits for ever": package(
        lambda _, platform: platform["platforms"]["kubernetes"]["pipelineConfig"].pop(
            "activeDeadlineSeconds"
        )
    ),
    "a task that may be moved": package(
        lambda _, platform: config(platform, "finetune")["podMetadata"].pop("annotations")
    ),
}


MISTAKES: dict[str, tuple[Callable[[Path], object], str | tuple[str, ...]]] = {
    # the compiled pipelines against the manifests, the images and each other
    "a secret of another name": (
        package(secret_of("wandb", "secretName", "wandbai")),
        "scgpt-perturb.yaml: finetune: secret wandbai key api-key; manifests/secrets.example.yaml",
    ),
    "a key that the secret has not": (
        package(secret_of("huggingface", "secretKey", "hf-token")),
        "finetune: secret huggingface key hf-token; manifests/secrets.example.yaml has",
    ),
    "a key that KFP's own secret has not": (
        package(secret_of("mlpipeline-minio-artifact", "secretKey", "access-key")),
        "finetune: secret mlpipeline-minio-artifact key access-key; manifests/secrets.example",
    ),
    "an unknown parameter in a file": (
        add("pipelines/params/demo.yaml", "epochs: 3\n"),
        "pipelines/params/demo.yaml: parameter 'epochs' is not one of the pipeline's",
    ),
    "a parameter that a file forgets": (
        swap("pipelines/params/demo.yaml", "test_line: rpe1\n", ""),
        "pipelines/params/demo.yaml: parameter 'test_line' is missing and has no default",
    ),
    "a secret that no task reads": (
        add(
            "manifests/secrets.example.yaml",
            "---\napiVersion: v1\nkind: Secret\nmetadata: {name: comet, namespace: kubeflow}\n"
            "stringData: {api-key: ''}\n",
        ),
        "manifests/secrets.example.yaml: Secret/comet: no task reads its key api-key",
    ),
    "a key that no task reads": (
        add("manifests/secrets.example.yaml", '  user: ""\n'),
        "manifests/secrets.example.yaml: Secret/s3: no task reads its key user",
    ),
    "a request no node can meet": (
        package(
            lambda spec, _: executor(spec, "finetune")["resources"].update(
                resourceMemoryRequest="400Gi"
            )
        ),
        "finetune: requests 12 processors and 429 GB; a3-highgpu-1g has 22 and 199",
    ),
    # Kubernetes' own objects
    "an overlay that does not render": (
        swap("manifests/overlays/kind/kustomization.yaml", "object-store.yaml", "store.yaml"),
        "manifests/overlays/kind: kustomize: ",
    ),
    "a misspelt field": (
        swap("manifests/base/network-policy.yaml", "policyTypes", "policyType"),
        (
            "NetworkPolicy/scgpt-perturb: spec: Additional properties are not allowed",
            "manifests (kind): no NetworkPolicy bounds the Egress",
            "no NetworkPolicy bounds the Ingress",
        ),
    ),
    "a hash behind the name of kfp-launcher": (
        hash_launcher,
        (
            "ConfigMap/kfp-launcher: found kfp-launcher-",
            "nothing lets pods of runs get configmaps kfp-launcher; without",
            "pods of runs may get configmaps kfp-launcher-",
        ),
    ),
    "the patch of KFP's ConfigMap as an object": (
        apply_the_patch,
        "manifests (kind): ConfigMap/workflow-controller-configmap: is KFP's own",
    ),
    "a wildcard": (
        swap(RIGHTS, "verbs: [create, patch]", 'verbs: ["*"]'),
        (
            "pods of runs may * argoproj.io workflowtaskresults, which no task needs",
            "nothing lets pods of runs create argoproj.io workflowtaskresults; without",
            "nothing lets pods of runs patch argoproj.io workflowtaskresults; without",
        ),
    ),
    "every secret": (
        swap(
            "manifests/overlays/kind/object-store.yaml",
            "    resourceNames: [mlpipeline-minio-artifact]\n",
            "",
        ),
        (
            "manifests (kind): pods of runs may get secrets, which no task needs",
            "nothing lets pods of runs get secrets mlpipeline-minio-artifact; without",
        ),
    ),
    "rights for another service account": (
        swap(
            RIGHTS,
            "ServiceAccount\n    name: scgpt-perturb",
            "ServiceAccount\n    name: pipeline-runner",
        ),
        (
            "RoleBinding/scgpt-perturb: no ServiceAccount/pipeline-runner, which its",
            "nothing lets pods of runs create argoproj.io workflowtaskresults; without",
            "nothing lets pods of runs patch argoproj.io workflowtaskresults; without",
            "nothing lets pods of runs get configmaps kfp-launcher; without",
            "nothing lets pods of runs get pods; without",
        ),
    ),
    "tasks that cannot report": (
        swap(RIGHTS, "verbs: [create, patch]", "verbs: [create]"),
        "nothing lets pods of runs patch argoproj.io workflowtaskresults; without",
    ),
    "a misspelt resource": (
        swap(RIGHTS, "[workflowtaskresults]", "[workflowtaskresult]"),
        (
            "nothing lets pods of runs create argoproj.io workflowtaskresults; without",
            "pods of runs may create argoproj.io workflowtaskresult, which no task needs",
            "nothing lets pods of runs patch argoproj.io workflowtaskresults; without",
            "pods of runs may patch argoproj.io workflowtaskresult, which no task needs",
        ),
    ),
    "another config map than KFP's": (
        swap(RIGHTS, "[kfp-launcher]", "[kfp-launchers]"),
        (
            "nothing lets pods of runs get configmaps kfp-launcher; without",
            "pods of runs may get configmaps kfp-launchers, which no task needs",
        ),
    ),
    "tasks that do not know their pod": (
        swap(RIGHTS, "resources: [pods]", "resources: [pods/log]"),
        (
            "nothing lets pods of runs get pods; without",
            "pods of runs may get pods/log, which no task needs",
        ),
    ),
    "rights that are bound to nobody": (
        lambda tree: (tree / RIGHTS).write_text(
            (tree / RIGHTS).read_text().partition("subjects:")[0] + "subjects: []\n"
        ),
        (
            "nothing lets pods of runs create argoproj.io workflowtaskresults; without",
            "nothing lets pods of runs patch argoproj.io workflowtaskresults; without",
            "nothing lets pods of runs get configmaps kfp-launcher; without",
            "nothing lets pods of runs get pods; without",
        ),
    ),
    "no key of the object store": (
        swap("manifests/overlays/kind/object-store.yaml", "[mlpipeline-minio-artifact]", "[minio]"),
        (
            "(kind): nothing lets pods of runs get secrets mlpipeline-minio-artifact; without",
            "pods of runs may get secrets minio, which no task needs",
        ),
    ),
    "a quota below the memory of a task": (
        swap(QUOTA, "requests.memory: 2Ti", "requests.memory: 64Gi"),
        "ResourceQuota/scgpt-perturb: memory 64Gi; the pod of pipelines/compiled/compare-",
    ),
    "a quota below the processors of a task": (
        swap(QUOTA, 'requests.cpu: "256"', 'requests.cpu: "12"'),
        "ResourceQuota/scgpt-perturb: cpu 12; the pod of pipelines/compiled/compare-priors"
        ".yaml: finetune requests 12.05",
    ),
    "a quota without GPUs": (
        swap(QUOTA, 'nvidia.com/gpu: "8"', 'nvidia.com/gpu: "0"'),
        "ResourceQuota/scgpt-perturb: nvidia.com/gpu 0; the pod of",
    ),
    "a line too short for a task's processors": (
        swap(KUEUE, 'nominalQuota: "200"', 'nominalQuota: "8"'),
        "ClusterQueue/h100: cpu 8; the pod of pipelines/compiled/compare-priors.yaml: ",
    ),
    "a line too short for a task's memory": (
        swap(KUEUE, "nominalQuota: 1800Gi", "nominalQuota: 1800Mi"),
        "ClusterQueue/h100: memory 1800Mi; the pod of pipelines/compiled/compare-",
    ),
    "a line without GPUs": (
        swap(KUEUE, 'nominalQuota: "8"', 'nominalQuota: "0"'),
        "ClusterQueue/h100: nvidia.com/gpu 0; the pod of",
    ),
    "ephemeral storage in the scoped quota": (
        swap(
            QUOTA,
            "    requests.memory: 2Ti\n",
            "    requests.memory: 2Ti\n    requests.ephemeral-storage: 5Ti\n",
        ),
        "ResourceQuota/scgpt-perturb: spec.hard: 'requests.ephemeral-storage' is not one of",
    ),
    "a quota on a priority class that is not there": (
        swap(QUOTA, "values: [scgpt-perturb]", "values: [scgpt]"),
        "ResourceQuota/scgpt-perturb: no PriorityClass/scgpt, which its spec.scopeSelector",
    ),
    "limits for KFP's own pods": (
        swap(
            QUOTA,
            "      defaultRequest:",
            '      max:\n        nvidia.com/gpu: "8"\n      defaultRequest:',
        ),
        "LimitRange/scgpt-perturb: spec.limits.0: Additional properties are not allowed ('max'",
    ),
    "a policy for every pod": (
        swap(
            "manifests/base/network-policy.yaml",
            '    matchLabels:\n      pipelines.kubeflow.org/v2_component: "true"\n',
            "    matchLabels: {}\n",
        ),
        (
            "NetworkPolicy/scgpt-perturb: spec.podSelector.matchLabels: ",
            "nothing lets pods of runs reach ",
        ),
    ),
    "no way to the outside": (
        policy_without("        - {protocol: TCP, port: 443}\n"),
        "nothing lets pods of runs reach TCP 443 anywhere; without",
    ),
    "no names": (
        policy_without("        - {protocol: UDP, port: 53}\n"),
        "nothing lets pods of runs reach UDP 53 anywhere; without",
    ),
    "no way to KFP": (
        policy_without("        - {protocol: TCP, port: 8887}  # ml-pipeline\n"),
        "nothing lets pods of runs reach TCP 8887 of the namespace; without",
    ),
    "no way to the logs": (
        swap("manifests/base/network-policy.yaml", "port: 3000", "port: 80"),
        (
            "nothing lets pods of runs reach TCP 3000 of app ml-pipeline-ui; without",
            "pods of runs may reach TCP 80 of app ml-pipeline-ui, which no task needs",
        ),
    ),
    "runs that anybody may call": (
        swap("manifests/base/network-policy.yaml", "[Ingress, Egress]", "[Egress]"),
        "no NetworkPolicy bounds the Ingress of pods of runs;",
    ),
    "no metadata server": (
        swap("manifests/overlays/gke-h100/kustomization.yaml", "  - metadata-server.yaml\n", ""),
        (
            "nothing lets pods of runs reach TCP 80 of 169.254.169.254/32; without",
            "nothing lets pods of runs reach TCP 8080 of 169.254.169.254/32; without",
            "nothing lets pods of runs reach TCP 987 of 169.254.169.252/32; without",
            "nothing lets pods of runs reach TCP 988 of 169.254.169.252/32; without",
        ),
    ),
    "another metadata server": (
        swap(
            "manifests/overlays/gke-h100/metadata-server.yaml", "169.254.169.254", "169.254.169.253"
        ),
        (
            "nothing lets pods of runs reach TCP 80 of 169.254.169.254/32; without",
            "nothing lets pods of runs reach TCP 8080 of 169.254.169.254/32; without",
            "pods of runs may reach TCP 80 of 169.254.169.253/32, which no task needs",
            "pods of runs may reach TCP 8080 of 169.254.169.253/32, which no task needs",
        ),
    ),
    "no way to kind's API server": (
        swap("manifests/overlays/kind/api-server-port.yaml", "port: 6443", "port: 6433"),
        (
            "manifests (kind): nothing lets pods of runs reach TCP 6443 anywhere; without",
            "pods of runs may reach TCP 6433 anywhere, which no task needs",
        ),
    ),
    "a lower pod security level": (
        swap("manifests/base/namespace.yaml", "enforce: baseline", "enforce: privileged"),
        "Namespace/kubeflow: metadata.labels.pod-security.kubernetes.io/enforce: 'privileged'",
    ),
    "a misspelt field of Kueue's": (
        swap(KUEUE, "nominalQuota: 5Ti", "nominalQuotas: 5Ti"),
        (
            "spec.resourceGroups.0.flavors.0.resources.3: 'nominalQuota' is a required",
            "spec.resourceGroups.0.flavors.0.resources.3: Additional properties are not",
        ),
    ),
    "a line that covers no ephemeral storage": (
        swap(KUEUE, ", ephemeral-storage]", "]"),
        "manifests (gke-h100-kueue): ClusterQueue/h100: ",
    ),
    "a local queue without cluster queue": (
        swap(LINE, "clusterQueue: h100", "clusterQueue: gpus"),
        "LocalQueue/h100: no ClusterQueue/gpus",
    ),
    "spot before on demand": (
        swap(CLASS, "      reservations: {affinity: None}\n", "      spot: true\n"),
        "ComputeClass/h100: spec.priorities.1: 'reservations' is a required property",
    ),
    "a reservation that ends the fall-through": (
        swap(CLASS, "AnyThenFail}", "AnyBestEffort}"),
        "ComputeClass/h100: spec.priorities.0.reservations.affinity: 'AnyBestEffort' is not one of",
    ),
    "a small machine on demand": (
        swap(
            CLASS,
            "    - machineType: a3-highgpu-8g\n"
            "      gpu: {type: nvidia-h100-80gb, count: 8, driverVersion: latest}\n"
            "      storage: {localSSDCount: 16}\n      reservations: {affinity: None}",
            "    - machineType: a3-highgpu-1g\n"
            "      gpu: {type: nvidia-h100-80gb, count: 1, driverVersion: latest}\n"
            "      storage: {localSSDCount: 2}\n      reservations: {affinity: None}",
        ),
        "ComputeClass/h100: spec.priorities.1.machineType: 'a3-highgpu-8g' was expected",
    ),
    "no retry of lost pods": (
        lambda tree: (tree / ARGO).write_text(
            (tree / ARGO).read_text().partition("      templateDefaults:")[0]
        ),
        "workflowDefaults.spec: 'templateDefaults' is a required property",
    ),
    "a retry that misses spot nodes": (
        swap(ARGO, "'node shutdown|low on", "'low on"),
        "'Pod was terminated in response to imminent node shutdown.' is not retried",
    ),
    "a retry of tasks that failed": (
        swap(ARGO, "(137|143)", "(1|137|143)"),
        "retryStrategy.expression: 'main: Error (exit code 1)' is retried; expected the opposite",
    ),
    "a policy Argo does not know": (
        swap(ARGO, "retryPolicy: Always", "retryPolicy: Sometimes"),
        "workflowDefaults.spec.templateDefaults.retryStrategy.retryPolicy: 'Always' was expected",
    ),
    "KFP's own time to live dropped for all": (
        swap(ARGO, "        secondsAfterSuccess: 3600\n", ""),
        "workflowDefaults.spec.ttlStrategy: 'secondsAfterSuccess' is a required property",
    ),
    "another time to live for all": (
        swap(ARGO, "secondsAfterFailure: 3600", "secondsAfterFailure: 604800"),
        "workflowDefaults.spec.ttlStrategy.secondsAfterFailure: 3600 was expected",
    ),
    "an annotation for the pods of all": (
        swap(
            ARGO,
            "      ttlStrategy:\n",
            "      podMetadata:\n        annotations: {a: b}\n      ttlStrategy:\n",
        ),
        "workflowDefaults.spec: Additional properties are not allowed ('podMetadata'",
    ),
    "node status that is not offloaded": (
        swap(OFFLOAD, "nodeStatusOffLoad: true", "nodeStatusOffload: true"),
        (
            "persistence: 'nodeStatusOffLoad' is a required property",
            "persistence: Additional properties are not allowed ('nodeStatusOffload'",
        ),
    ),
    "a secret that KFP's MySQL has not": (
        swap(OFFLOAD, "name: mysql-secret\n        key: password", "name: argo\n        key: word"),
        "persistence.mysql.passwordSecret: {'name': 'mysql-secret', 'key': 'password'} was",
    ),
    "a database that nobody makes": (
        swap(OFFLOAD, "database: argo", "database: workflows"),
        "persistence.mysql.database: 'argo' was expected",
    ),
    "every team's workflows archived": (
        swap(OFFLOAD, "archive: false", "archive: true"),
        "persistence.archive: False was expected",
    ),
    "a priority class that is not there": (
        swap(ARGO, "podPriorityClassName: scgpt-perturb", "podPriorityClassName: batch"),
        "no PriorityClass/batch, which its data.workflowDefaults.spec.podPriorityClassName names",
    ),
    "artifacts on a path": (
        swap("manifests/overlays/gke-h100/project.yaml", "gs://your-bucket/runs", "/runs"),
        (
            "ConfigMap/kfp-launcher: data.defaultPipelineRoot: '/runs' does not match '^gs://'",
            "'/runs' does not match '^(gs",
        ),
    ),
    "H100 nodes without taint": (
        swap(TERRAFORM, 'dynamic "taint"', 'dynamic "label"'),
        "google_container_node_pool/h100: node_config.0.dynamic: ",
    ),
    "another accelerator": (
        swap(
            TERRAFORM,
            'local.h100_nodes.nodeLabels["cloud.google.com/gke-accelerator"]',
            '"nvidia-h100-mega-80gb"',
        ),
        "h100: node_config.0.guest_accelerator.0.type: 'nvidia-h100-mega-80gb' does not match",
    ),
    "idle H100s": (
        swap(TERRAFORM, "total_min_node_count = 0", "total_min_node_count = 1"),
        "google_container_node_pool/h100: autoscaling.0.total_min_node_count: 0 was expected",
    ),
    "a bucket for another service account": (
        swap(TERRAFORM, "[${local.pods.namespace}/${local.pods.name}]", "[kubeflow/pipeline]"),
        "google_service_account_iam_member/runs: member: 'serviceAccount:",
    ),
    "nodes of another account": (
        swap(
            TERRAFORM,
            'split("@", local.project.ComputeClass.spec.nodePoolConfig.serviceAccount)[0]',
            '"scgpt-node"',
        ),
        "google_service_account/nodes: account_id: 'scgpt-node' does not match",
    ),
    "a manifest that Terraform does not find": (
        swap(TERRAFORM, "../components/kueue/flavor.yaml", "../components/kueue/queues.yaml"),
        "manifests/gke/main.tf: reads ../components/kueue/queues.yaml, which is not there",
    ),
    "nodes with the rights of runs": (
        swap(TERRAFORM, "google_service_account.nodes.email", "google_service_account.runs.email"),
        "node_config.0.service_account: '${google_service_account.nodes.email}' was expected",
    ),
    "an account before its API": (
        swap(
            TERRAFORM,
            'cluster"\n  depends_on   = [google_project_service.used]\n',
            'cluster"\n',
        ),
        ".nodes: does not depend on google_project_service.used, so an empty project refuses it",
    ),
    "a bucket before its API": (
        swap(
            TERRAFORM,
            '"enforced"\n  depends_on                  = [google_project_service.used]\n',
            '"enforced"\n',
        ),
        "runs: does not depend on google_project_service.used, so an empty project refuses it",
    ),
    "a disk that its tasks can fill": (
        swap(TERRAFORM, "disk_size_gb    = 500", "disk_size_gb    = 300"),
        (
            "ingest: 100 GiB of /tmp, and a node of manifests/gke/main.tf: cpu takes 3 such pods",
            ": 10 GiB of /tmp, and a node of manifests/gke/main.tf: cpu takes 2",  # check
        ),
    ),
    "Terraform that is none": (
        swap(TERRAFORM, "locals {", "locals {{"),
        f"{TERRAFORM}: not Terraform",
    ),
    # files
    "a secret in a manifest": (
        swap("manifests/secrets.example.yaml", 'token: ""', "token: swordfish"),
        "manifests/secrets.example.yaml: Secret/huggingface: stringData.token has a value",
    ),
    "a key in a parameter file": (
        add("pipelines/params/demo.yaml", f"# token: hf_{'a' * 34}\n"),
        ": looks like a key; remove it, and revoke it",
    ),
    "a parameter in the README that is none": (
        swap(README, "publish_to=gs", "publish=gs"),
        "manifests/README.md: publish=: not a parameter of the pipeline",
    ),
    "a command in the README that is none": (
        swap(README, "make images", "make image"),
        "manifests/README.md: make image: not in Makefile",
    ),
    "images of development on a cluster": (
        swap(README, "  PACKAGE=build/release/scgpt-perturb.yaml \\\n", ""),
        "make submit with PACKAGE=, whose images or GPUs this cluster has not; expected "
        "build/release/compare-priors-cpu.yaml or build/release/compare-priors.yaml or "
        "build/release/predict-line-cpu.yaml or build/release/predict-line.yaml or "
        "build/release/scgpt-perturb-cpu.yaml or build/release/scgpt-perturb.yaml",
    ),
    "a package for H100s on kind": (
        swap(
            README,
            "8080 PACKAGE=pipelines/compiled/scgpt-perturb-cpu.yaml",
            "8080 PACKAGE=pipelines/compiled/scgpt-perturb.yaml",
        ),
        "make submit with PACKAGE=pipelines/compiled/scgpt-perturb.yaml, whose images or GPUs",
    ),
    "another package than was compiled": (
        swap(README, "  PACKAGE=build/release/scgpt", "  PACKAGE=build/release/gpt"),
        "make submit with PACKAGE=build/release/gpt-perturb.yaml, whose images",
    ),
    "a secret in the README that is none": (
        swap(README, "secret generic wandb", "secret generic wandbai"),
        "manifests/README.md: makes secret wandbai with key api-key, which is not in",
    ),
    "a key in the README that is none": (
        swap(README, "--from-file=token=", "--from-file=hf-token="),
        "manifests/README.md: makes secret huggingface with key hf-token, which is not in",
    ),
    "a ComputeClass in the README that is none": (
        swap(README, "compute-class: h100}", "compute-class: h200}"),
        "manifests/README.md: ComputeClass h200; there is h100; correct it",
    ),
    "a ComputeClass of another name": (
        lambda tree: [
            swap(
                path,
                "ComputeClass\nmetadata:\n  name: h100",
                "ComputeClass\nmetadata:\n  name: gpu",
            )(tree)
            for path in (CLASS, "manifests/overlays/gke-h100/project.yaml")
        ],
        "manifests/README.md: ComputeClass h100; there is gpu; correct it",
    ),
    "a node pool in the README that is none": (
        swap(README, "gke-nodepool: h100-8g}", "gke-nodepool: h100-8}"),
        "manifests/README.md: node pool h100-8; there is cpu, h100-1g-spot, h100-8g",
    ),
    "a node pool of another name": (
        swap(TERRAFORM, "    h100-1g-spot = ", "    h100-one = "),
        "manifests/README.md: node pool h100-1g-spot; there is cpu, h100-8g, h100-8g-spot",
    ),
    "another version of KFP": (
        swap(README, "export KFP=2.17.0", "export KFP=2.16.0"),
        "manifests/README.md: KFP=2.16.0; expected 2.17.0",
    ),
}


def test_nothing_is_wrong_with_the_repository():
    assert findings(ROOT) == []


@pytest.mark.parametrize("overlay", ["gke-h100", "gke-h100-kueue"])
def test_what_is_applied_on_gke_has_the_project_and_the_bucket_that_are_given(overlay):
    def render(**given: str) -> subprocess.CompletedProcess[str]:
        words = [f"{name}={value}" for name, value in ({"OVERLAY": overlay} | given).items()]
        command = ["make", "--silent", "render", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "your-" in (ROOT / "manifests/overlays/gke-h100/project.yaml").read_text()
    made = render(PROJECT="own-project", BUCKET="own-bucket")
    found = [d for d in yaml.safe_load_all(made.stdout) if d]
    assert "your-" not in json.dumps(found) and len(found) > 5
    assert made.stdout.count("own-project") and made.stdout.count("gs://own-bucket/") == 1
    for given, missing in (({"PROJECT": "own"}, "BUCKET"), ({"BUCKET": "own"}, "PROJECT")):
        refused = render(**given)
        assert refused.returncode and not refused.stdout
        assert f"render: give {missing}=" in refused.stderr
    unknown = render(PROJECT="own", BUCKET="own", OVERLAY=f"{overlay}-2")
    assert unknown.returncode and not unknown.stdout and f"{overlay}-2" in unknown.stderr


@pytest.mark.parametrize("mistake", DRIFT)
def test_what_the_code_does_not_compile_to_is_told_before(mistake, tree, fresh):
    folder = tree / "pipelines/compiled"
    assert compiling.stale(folder, fresh) == []
    DRIFT[mistake](tree)
    assert compiling.stale(folder, fresh) == [Path(H100).name]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_its_own_line(mistake, tree, before):
    plant, told = MISTAKES[mistake]
    plant(tree)
    new = [line for line in findings(tree) if line not in before]
    assert new, "nothing was found"
    parts = (told,) if isinstance(told, str) else told
    assert all(any(part in line for part in parts) for line in new), new
    assert all(any(part in line for line in new) for part in parts), new
    assert all("\n" not in line for line in new)


def test_a_fault_of_style_is_told_by_lint(tree):
    path = "pipelines/params/demo.yaml"
    lint = [Path(sys.executable).parent / "yamllint", "--strict", "-c", ROOT / ".yamllint", path]
    assert subprocess.run(lint, cwd=tree, check=False).returncode == 0
    add(path, "seed: 1\n")(tree)
    done = subprocess.run(lint, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode and 'duplication of key "seed" in mapping' in done.stdout


UNREADABLE = {
    H100: "a: [b\n",
    "pipelines/compiled/scgpt-perturb-cpu.yaml": "root: {}\n",
    ARGO: "data: {}\n",
    "manifests/secrets.example.yaml": "kind: Secret\n",
    "manifests/overlays/kind/kustomization.yaml": "",
}


@pytest.mark.parametrize("path", UNREADABLE)
def test_a_file_that_cannot_be_read_is_a_finding(path, tree, before):
    (tree / path).write_text(UNREADABLE[path])
    new = [line for line in findings(tree) if line not in before]
    assert any(path.removesuffix("/kustomization.yaml") in line for line in new), new
    assert all("\n" not in line for line in new)


def test_the_command_prints_every_finding_and_fails(tree, before):
    swap(RIGHTS, "verbs: [create, patch]", "verbs: [create]")(tree)
    swap("manifests/base/namespace.yaml", "enforce: baseline", "enforce: privileged")(tree)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.validate", str(tree)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == len(before) + 3  # the two, and their count
    assert all(line.startswith("validate: ") for line in lines)


def test_a_missing_kubectl_is_one_line(tree, before, monkeypatch):
    monkeypatch.setenv("PATH", str(tree))
    told = [line for line in findings(tree) if "kubectl" in line and line not in before]
    assert told == [
        "kubectl is not on PATH; install 1.27 or later (https://kubernetes.io/docs/tasks/tools)"
    ]
