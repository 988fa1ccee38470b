"""KFP as a pod of a run reaches it: its API, and its UI's server, which has the logs."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from components.shared.telling.kfp_run import Run

SECONDS_TO_ANSWER = 20.0
SECONDS_TO_REPORT = 30.0
"""In which Argo's word that a task failed has reached KFP's API: it is passed on within a few."""
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Cluster:
    """The services of KFP beside the pod."""

    api: str
    ui: str
    namespace: str

    def run(self, run_id: str, until: Callable[[Run], bool] = lambda run: True) -> Run | None:
        """Return a run as the API tells it, once it tells what is waited for; None: no answer."""
        ends = time.monotonic() + SECONDS_TO_REPORT
        while True:
            told = self._run(run_id)
            if told is None or until(told) or time.monotonic() > ends:
                return told
            time.sleep(2.0)

    def page(self, path: str, query: Mapping[str, str]) -> str | None:
        """Return a page of the UI's server; None where it has none."""
        return _get(f"{self.ui}{path}?{urlencode(query)}")

    def _run(self, run_id: str) -> Run | None:
        told = self._json(f"/runs/{run_id}")
        if told is None:
            return None
        reference = told.get("pipeline_version_reference")
        if not told.get("pipeline_spec") and reference:
            pipeline, version = reference["pipeline_id"], reference["pipeline_version_id"]
            found = self._json(f"/pipelines/{pipeline}/versions/{version}") or {}
            told["pipeline_spec"] = found.get("pipeline_spec")
        return Run(told)

    def _json(self, path: str) -> Any:
        try:
            return json.loads(_get(f"{self.api}/apis/v2beta1{path}") or "null")
        except ValueError:
            return None


def this_cluster() -> Cluster | None:
    """Return the services of the cluster this process runs in; None on a machine of its own.

    Kubernetes gives every pod the address of each service of its namespace.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    namespace = NAMESPACE.read_text().strip() if NAMESPACE.exists() else "kubeflow"
    return Cluster(
        _service("ML_PIPELINE", "ml-pipeline", 8888),
        _service("ML_PIPELINE_UI", "ml-pipeline-ui", 80),
        namespace,
    )


def _service(variable: str, name: str, port: int) -> str:
    host = os.environ.get(f"{variable}_SERVICE_HOST", name)
    return f"http://{host}:{os.environ.get(f'{variable}_SERVICE_PORT', port)}"


def _get(url: str) -> str | None:
    try:
        # A proxy is for the outside; these services stand beside the pod.
        with build_opener(ProxyHandler({})).open(url, timeout=SECONDS_TO_ANSWER) as answer:
            return answer.read().decode(errors="replace")
    except (URLError, HTTPException, OSError):
        return None
