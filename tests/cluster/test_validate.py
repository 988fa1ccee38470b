"""Each mistake is planted in a copy of the repository; its line, and no other, must be told."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.validate import findings

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    ".yamllint",
    "Makefile",
    "manifests",
    "images/requirements.lock",
    "images/images.lock",
    "images/*/Dockerfile",
    "pipelines/compiled",
    "pipelines/params",
    "pipelines/submit.py",
    ".github",
)
H100 = "pipelines/compiled/scgpt-perturb.yaml"
KUEUE = "manifests/components/kueue/queues.yaml"
CLASS = "manifests/overlays/gke-h100/compute-class.yaml"
ARGO = "manifests/kfp/workflow-controller-configmap.yaml"
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


@pytest.fixture(scope="session")
def before(tmp_path_factory) -> set[str]:
    return set(findings(copy_to(tmp_path_factory.mktemp("before"))))


@pytest.fixture
def tree(tmp_path) -> Path:
    return copy_to(tmp_path)


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
        documents = [d for d in yaml.safe_load_all((tree / path).read_text()) if d]
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


def other_digest(tree: Path) -> None:
    def change(spec: dict, _: dict) -> None:
        executor(spec, "split")["image"] = f"registry.example/split@sha256:{'0' * 64}"

    package(change)(tree)
    (tree / "images/images.lock").write_text(
        '{"split": {"image": "registry.example/split@sha256:' + "1" * 64 + '"}}'
    )


MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    # the compiled pipelines against the manifests, the images and each other
    "a secret of another name": (
        package(secret_of("wandb", "secretName", "wandbai")),
        "scgpt-perturb.yaml: finetune: secret wandbai key api-key; manifests/secrets.example.yaml",
    ),
    "a key that the secret has not": (
        package(secret_of("huggingface", "secretKey", "hf-token")),
        "finetune: secret huggingface key hf-token; manifests/secrets.example.yaml has",
    ),
    "a secret that must be there": (
        package(secret_of("wandb", "optional", False)),
        "finetune: secret wandb is not optional",
    ),
    "a queue that does not exist": (
        package(
            lambda _, platform: config(platform, "predict")["podMetadata"]["labels"].update(
                {"kueue.x-k8s.io/queue-name": "h200"}
            )
        ),
        "predict: label kueue.x-k8s.io/queue-name: h200; LocalQueues: h100",
    ),
    "no toleration of the GPU taint": (
        package(lambda spec, _: inputs(spec)["tolerations"].update(defaultValue=[])),
        "does not tolerate nvidia.com/gpu=present:NoSchedule of",
    ),
    "a node selector no pool has": (
        package(
            lambda spec, _: inputs(spec)["node_selector"]["defaultValue"].update(
                {"cloud.google.com/gke-accelerator": "nvidia-h100"}
            )
        ),
        "make them alike",
    ),
    "an image of another stage": (
        package(lambda spec, _: executor(spec, "predict").update(image="scgpt-perturb/split:1")),
        "predict: image scgpt-perturb/split:1; expected …/predict",
    ),
    "an image without Dockerfile": (
        lambda tree: (tree / "images/evaluate/Dockerfile").unlink(),
        "no images/evaluate/Dockerfile; add it",
    ),
    "a digest that was not pushed": (
        other_digest,
        "split: image registry.example/split@sha256:0",
    ),
    "a field KFP does not know": (
        package(lambda spec, _: spec["root"].update(surprise=1)),
        'ComponentSpec" has no field named "surprise"',
    ),
    "a platform field KFP does not know": (
        package(lambda _, platform: config(platform, "split").update(nodeSelectors={})),
        'KubernetesExecutorConfig" has no field named "nodeSelectors"',
    ),
    "a parameter that does not reach its task": (
        package(
            lambda spec, _: spec["components"]["comp-exit-handler-1"]["inputDefinitions"][
                "parameters"
            ].pop("pipelinechannel--node_selector")
        ),
        "takes pipelinechannel--node_selector, which does not reach comp-exit-handler-1",
    ),
    "retries that end before the first attempt": (
        package(retry_for(901)),
        "predict: backoffMaxDuration 901 s; Argo counts it from the start of the first attempt",
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
        "NetworkPolicy/scgpt-perturb: spec: Additional properties are not allowed ('policyType'",
    ),
    "a hash behind the name of kfp-launcher": (
        hash_launcher,
        "ConfigMap/kfp-launcher: found kfp-launcher-",
    ),
    "the patch of KFP's ConfigMap as an object": (
        apply_the_patch,
        "manifests (kind): ConfigMap/workflow-controller-configmap: is KFP's own",
    ),
    "a wildcard": (
        swap("manifests/base/rbac.yaml", "verbs: [create, patch]", 'verbs: ["*"]'),
        "Role/scgpt-perturb: verbs: '*'; expected the few it needs",
    ),
    "every secret": (
        swap(
            "manifests/overlays/kind/object-store.yaml",
            "    resourceNames: [mlpipeline-minio-artifact]\n",
            "",
        ),
        "manifests (kind): Role/scgpt-perturb-object-store: all secrets",
    ),
    "rights for another service account": (
        swap(
            "manifests/base/rbac.yaml",
            "ServiceAccount\n    name: scgpt-perturb",
            "ServiceAccount\n    name: pipeline-runner",
        ),
        "RoleBinding/scgpt-perturb: no ServiceAccount/pipeline-runner in manifests",
    ),
    "ephemeral storage in the scoped quota": (
        swap(
            "manifests/base/quota.yaml",
            "    requests.memory: 2Ti\n",
            "    requests.memory: 2Ti\n    requests.ephemeral-storage: 5Ti\n",
        ),
        "ResourceQuota/scgpt-perturb: hard.requests.ephemeral-storage: the API server refuses it",
    ),
    "a quota on a priority class that is not there": (
        swap("manifests/base/quota.yaml", "values: [scgpt-perturb]", "values: [scgpt]"),
        "ResourceQuota/scgpt-perturb: scoped to PriorityClass/scgpt, which is not in manifests",
    ),
    "limits for KFP's own pods": (
        swap(
            "manifests/base/quota.yaml",
            "      defaultRequest:",
            '      max:\n        nvidia.com/gpu: "8"\n      defaultRequest:',
        ),
        "LimitRange/scgpt-perturb: 'max' would put limits on KFP's own pods",
    ),
    "a policy for every pod": (
        swap(
            "manifests/base/network-policy.yaml",
            '    matchLabels:\n      pipelines.kubeflow.org/v2_component: "true"\n',
            "    matchLabels: {}\n",
        ),
        "NetworkPolicy/scgpt-perturb: podSelector",
    ),
    "a lower pod security level": (
        swap("manifests/base/namespace.yaml", "enforce: baseline", "enforce: privileged"),
        "Namespace/kubeflow: pod-security.kubernetes.io/enforce is privileged; expected baseline",
    ),
    # custom resources and settings
    "a misspelt field of Kueue's": (
        swap(KUEUE, "nominalQuota: 5Ti", "nominalQuotas: 5Ti"),
        "ClusterQueue/h100: spec: resourceGroups.0.flavors.0.resources.3",
    ),
    "a line that covers no ephemeral storage": (
        swap(KUEUE, ", ephemeral-storage]", "]"),
        "manifests (gke-h100-kueue): ClusterQueue/h100: ",
    ),
    "a local queue without cluster queue": (
        swap(KUEUE, "clusterQueue: h100", "clusterQueue: gpus"),
        "LocalQueue/h100: no ClusterQueue/gpus",
    ),
    "spot before on demand": (
        swap(CLASS, "      reservations: {affinity: None}\n", "      spot: true\n"),
        "ComputeClass/h100: priorities are reservation, spot, flex-start, spot; expected",
    ),
    "a reservation that ends the fall-through": (
        swap(CLASS, "AnyThenFail}", "AnyBestEffort}"),
        "ComputeClass/h100: priorities",
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
        "ComputeClass/h100: priorities[1]: a3-highgpu-1g on-demand; it is sold by flex-start",
    ),
    "no retry of lost pods": (
        lambda tree: (tree / ARGO).write_text(
            (tree / ARGO).read_text().partition("      templateDefaults:")[0]
        ),
        "workflowDefaults: spec: 'templateDefaults' is a required property",
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
        "workflowDefaults: spec.templateDefaults.retryStrategy.retryPolicy: 'Always' was expected",
    ),
    "a priority class that is not there": (
        swap(ARGO, "podPriorityClassName: scgpt-perturb", "podPriorityClassName: batch"),
        "podPriorityClassName batch: no such PriorityClass",
    ),
    "artifacts on a path": (
        swap("manifests/overlays/gke-h100/project.yaml", "gs://your-bucket/runs", "/runs"),
        "ConfigMap/kfp-launcher: defaultPipelineRoot /runs; expected gs://",
    ),
    # Terraform
    "H100 nodes without taint": (
        swap(TERRAFORM, 'key    = "nvidia.com/gpu"', 'key    = "gpu"'),
        "manifests/gke/main.tf: h100: taints [('gpu', 'present', 'noschedule')]",
    ),
    "another accelerator": (
        swap(TERRAFORM, 'type  = "nvidia-h100-80gb"', 'type  = "nvidia-h100-mega-80gb"'),
        "manifests/gke/main.tf: h100: accelerator nvidia-h100-mega-80gb; tasks select",
    ),
    "idle H100s": (
        swap(TERRAFORM, "total_min_node_count = 0", "total_min_node_count = 1"),
        "manifests/gke/main.tf: h100: idle nodes cost",
    ),
    "a bucket for another service account": (
        swap(TERRAFORM, "[kubeflow/scgpt-perturb]", "[kubeflow/pipeline-runner]"),
        "manifests/gke/main.tf: runs: member serviceAccount:",
    ),
    "an annotation for another account": (
        swap(
            "manifests/overlays/gke-h100/project.yaml",
            "service-account: scgpt-",
            "service-account: kfp-",
        ),
        "annotation iam.gke.io/gcp-service-account kfp-perturb@",
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
    "a YAML fault": (
        add("pipelines/params/demo.yaml", "seed: 1\n"),
        ': duplication of key "seed" in mapping (key-duplicates)',
    ),
    "a parameter in the README that is none": (
        swap("manifests/README.md", "publish_to=gs", "publish=gs"),
        "manifests/README.md: publish=: not a parameter of the pipeline",
    ),
    "a command in the README that is none": (
        swap("manifests/README.md", "make push", "make upload"),
        "manifests/README.md: make upload: not in Makefile",
    ),
    "another version of KFP": (
        swap("manifests/README.md", "export KFP=2.17.0", "export KFP=2.16.0"),
        "manifests/README.md: KFP=2.16.0; expected 2.17.0",
    ),
    "runs submitted as another account": (
        swap("pipelines/submit.py", 'account", default="scgpt-perturb"', 'account", default="x"'),
        "pipelines/submit.py: --service-account is x; the manifests have scgpt-perturb",
    ),
}


def test_nothing_is_wrong_with_the_repository():
    assert findings(ROOT) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_its_own_line(mistake, tree, before):
    plant, told = MISTAKES[mistake]
    plant(tree)
    new = [line for line in findings(tree) if line not in before]
    assert new, "nothing was found"
    assert all(told in line for line in new), new
    assert all("\n" not in line for line in new)


UNREADABLE = {
    H100: "a: [b\n",
    "pipelines/compiled/scgpt-perturb-cpu.yaml": "root: {}\n",
    ARGO: "data: {}\n",
    "manifests/secrets.example.yaml": "kind: Secret\n",
    "manifests/overlays/kind/kustomization.yaml": "",
    "images/images.lock": "{",
    ".yamllint": "rules: {tabs: enable}\n",
}


@pytest.mark.parametrize("path", UNREADABLE)
def test_a_file_that_cannot_be_read_is_a_finding(path, tree, before):
    (tree / path).write_text(UNREADABLE[path])
    new = [line for line in findings(tree) if line not in before]
    assert any(path.removesuffix("/kustomization.yaml") in line for line in new), new
    assert all("\n" not in line for line in new)


def test_the_command_prints_every_finding_and_fails(tree, before):
    swap("manifests/base/rbac.yaml", "verbs: [create, patch]", 'verbs: ["*"]')(tree)
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
