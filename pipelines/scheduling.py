"""Where each task runs: all accelerator, node-pool and resource settings, in one place."""

from kfp import dsl, kubernetes

H100_NODE_SELECTOR = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
ACCELERATOR = "nvidia.com/gpu"


def on_h100(task: dsl.PipelineTask, *, cpu: str, memory: str) -> None:
    """Ask for one H100: the resource, the node pool's label, its taint, and room in /dev/shm."""
    task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(1)
    task.set_cpu_request(cpu).set_memory_request(memory)
    for key, value in H100_NODE_SELECTOR.items():
        kubernetes.add_node_selector(task, key, value)
    kubernetes.add_toleration(task, key=ACCELERATOR, operator="Exists", effect="NoSchedule")
    # PyTorch shares tensors through /dev/shm, which a pod has 64 MiB of by default.
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="16Gi")  # noqa: S108


def on_cpu(task: dsl.PipelineTask, *, cpu: str, memory: str) -> None:
    """Ask for processors and memory of an ordinary node."""
    task.set_cpu_request(cpu).set_memory_request(memory)
