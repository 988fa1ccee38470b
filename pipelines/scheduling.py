"""Where each task runs: all accelerator, node-pool and resource settings, in one place.

`on_a_pod` is the one function that turns a `Profile` into KFP's settings. Names, labels and taints
that a cluster has come from `manifests/`. The names of secrets stand again there; `make validate`
holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import PipelineChannel

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"


def _manifest(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((MANIFESTS / path).read_text())
    return loaded


ACCOUNT = _manifest("base/service-account.yaml")["metadata"]
"""Name and namespace of the service account that pods of runs act as."""
H100S = _manifest("components/kueue/flavor.yaml")["spec"]
QUEUE = _manifest("components/kueue/local-queue.yaml")["metadata"]["name"]
ACCELERATOR = "nvidia.com/gpu"
H100_NODE_SELECTOR = H100S["nodeLabels"]
GPU_TOLERATIONS = [
    {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]}
    for taint in H100S["nodeTaints"]
]
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""The autoscaler must not move a task to save a node: a fine-tune is one long pod."""
DAY = 24 * 60 * 60
LIFETIME = dsl.PipelineConfig(
    ttl_seconds_after_success=DAY,
    ttl_seconds_after_failure=7 * DAY,
    ttl_seconds_after_finished=7 * DAY,
    active_deadline_seconds=30 * DAY,
)
"""How long Argo's object of a run stays when it is over, a failed one for Retry; and after how long
a run is ended that waits for a node or an image for ever. Tasks have deadlines of their own."""
USER = 10001
"""The user every image runs as."""
SECRETS = {
    "huggingface": {"token": "HF_TOKEN"},
    "mlpipeline-minio-artifact": {  # KFP's own, made by its installation
        "accesskey": "MINIO_ACCESS_KEY",
        "secretkey": "MINIO_SECRET_KEY",
    },
    "s3": {
        "access-key-id": "AWS_ACCESS_KEY_ID",
        "secret-access-key": "AWS_SECRET_ACCESS_KEY",
        "endpoint": "AWS_ENDPOINT_URL",
        "region": "AWS_DEFAULT_REGION",
    },
    "wandb": {"api-key": "WANDB_API_KEY"},
}
"""Secret name to key to environment variable; a run continues without those that do not exist."""
OF_STORES = ("huggingface", "mlpipeline-minio-artifact", "s3")
SECRETS_OF = dict.fromkeys(("check", "ingest", "split", "prior", "publish"), OF_STORES) | {
    "finetune": (*OF_STORES, "wandb")
}


@dataclass(frozen=True)
class Pod:
    """Resources that a task requests."""

    cpu: str
    memory: str
    """Request; there is no limit, so a larger data set slows nobody down but is not killed."""
    scratch: str
    """Most that /tmp may take of the node's disk; KFP has no request for ephemeral storage."""
    hours: float
    """After these the pod is stopped: a hung task must not hold a node for days."""
    gpu: bool = False
    shm: str = ""
    """Room in /dev/shm, of which a pod has 64 MiB by default; counts as memory."""
    retries: int = 0
    """Times it is started again when its pod is lost: a spot node taken back, an eviction. Which
    losses count is for Argo's default to say, see manifests; a fine-tune resumes."""


@dataclass(frozen=True)
class Profile:
    """A kind of cluster: its pods by task, and the defaults of its GPU parameters."""

    pods: Mapping[str, Pod]
    gpus: int = 0
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    queue: str = ""
    """Kueue's LocalQueue for the pods that ask for a GPU."""
    runs: int = 2
    """How many runs of a grid work at a time; KFP's local runner takes two at most."""
    suffix: str = ""
    """Of the file that a pipeline is compiled to for this kind of cluster."""

    def package(self, pipeline: str) -> str:
        """Return the compiled file of a pipeline, as a path in the repository."""
        return f"pipelines/compiled/{pipeline}{self.suffix}.yaml"


CONCLUDE = Pod("100m", "256Mi", "1Gi", 0.5)
# Reads obs of the dataset (150 MB of imports, obs of 640,000 cells), fetches a finished model.
CHECK = Pod("500m", "1Gi", "10Gi", 1)

H100 = Profile(
    pods={
        # Streams in row blocks; /tmp holds the download, 30 GB.
        "ingest": Pod("4", "8Gi", "100Gi", 6),
        "split": Pod("2", "8Gi", "10Gi", 1),  # obs of 643,413 cells, no expression
        # 2.0 GB for a table of 19,790 x 5,120; /tmp holds another screen's cells, up to 34 GB, or
        # an ESM2 checkpoint, which embeds the human proteome without a GPU in hours to a day.
        "prior": Pod("8", "32Gi", "100Gi", 24),
        # Training cells are dense float16, 5 GB, on the GPU or here; above 32 GiB a file in /tmp.
        "finetune": Pod("12", "64Gi", "50Gi", 24, gpu=True, shm="16Gi", retries=5),
        "predict": Pod("8", "48Gi", "50Gi", 6, gpu=True, shm="16Gi", retries=3),
        "evaluate": Pod("8", "16Gi", "50Gi", 12),  # 2.4 GB for each prediction of 120,000 cells
        "publish": Pod("2", "8Gi", "20Gi", 2),
        "check": CHECK,
        "compare": Pod("2", "8Gi", "10Gi", 1),  # tables of each run, a few MB
        "conclude": CONCLUDE,
    },
    gpus=1,
    runs=4,
    node_selector=H100_NODE_SELECTOR,
    tolerations=tuple(GPU_TOLERATIONS),
    queue=QUEUE,
)
"""Full-size data on a GKE pool of H100s (a3-highgpu-1g: 26 vCPU, 234 GB a GPU)."""

CPU = Profile(
    pods={
        "ingest": Pod("500m", "1Gi", "5Gi", 1),
        "split": Pod("250m", "1Gi", "1Gi", 1),
        "prior": Pod("250m", "1Gi", "1Gi", 1),
        "finetune": Pod("1", "2Gi", "5Gi", 12, gpu=True, shm="1Gi", retries=2),
        "predict": Pod("1", "2Gi", "5Gi", 2, gpu=True, shm="1Gi"),
        "evaluate": Pod("1", "2Gi", "5Gi", 2),
        "publish": Pod("250m", "1Gi", "5Gi", 1),
        "check": CHECK,
        "compare": Pod("500m", "1Gi", "1Gi", 1),
        "conclude": CONCLUDE,
    },
    runs=1,
    suffix="-cpu",
)
"""Demo-size data on a small cluster without accelerators: 2 CPUs and 4 GiB to spare are enough."""

LOCAL = Profile(pods={})
"""This machine: KFP's local runners know no pods."""


def on_a_pod(
    task: dsl.PipelineTask,
    stage: str,
    profile: Profile,
    *,
    gpu_count: str | PipelineChannel,
    node_selector: dict[str, Any],
    tolerations: list[Any],
) -> None:
    """Ask for what ``stage`` needs in ``profile``, if that knows the stage.

    The ``gpu_count``, of a task that uses GPUs, is text or a task's output of type str: KFP's
    driver reads the text of what it refers to, and of a number that is empty, whereupon it leaves
    the accelerator out without a word. The labels, ``node_selector``, of the nodes with GPUs and
    the ``tolerations`` for their taints may be pipeline parameters.
    """
    pod = profile.pods.get(stage)
    if pod is None:
        return
    task.set_cpu_request(pod.cpu).set_memory_request(pod.memory)
    kubernetes.set_timeout(task, int(pod.hours * 3600))
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_annotation(task, SAFE_TO_EVICT, "false")
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=pod.scratch)  # noqa: S108
    for secret in SECRETS_OF.get(stage, ()):
        kubernetes.use_secret_as_env(task, secret, SECRETS[secret], optional=True)
    if pod.retries:
        # Argo counts the window from the start of the first try, so it must hold all of them.
        window = int(pod.hours * 3600) * (pod.retries + 1)
        task.set_retry(
            pod.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{window}s"
        )
    if pod.gpu:
        if isinstance(gpu_count, PipelineChannel):
            # Inside a loop KFP's compiler hands on only what it knows a task to use.
            task.register_pipeline_channels([gpu_count])
        # A count of 0 asks for none, which any node can give.
        task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(gpu_count)
        kubernetes.add_node_selector_json(task, node_selector)
        kubernetes.add_toleration_json(task, tolerations)
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pod.shm)  # noqa: S108
        if profile.queue:
            kubernetes.add_pod_label(task, QUEUE_LABEL, profile.queue)
