"""What the live suite does on a cluster: KFP through its client, Kubernetes through kubectl."""

import csv
import io
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from components.shared.telling.kfp_run import Run
from pipelines.cluster import API_ERRORS, TIMEOUT, Client, cause, connect
from pipelines.package import Package
from pipelines.watch import FINAL
from tests.live.pods import Pod, pods_in

ACCOUNT = "scgpt-perturb"
PRIORITY_CLASS = "scgpt-perturb"
T = TypeVar("T")
STORES = {"gs": "gcs"}
"""What KFP's UI calls a store, where it is not the scheme of its URIs."""


def say(text: str) -> None:
    """Print what a check saw, with the time of day."""
    print(f"\n  {datetime.now():%H:%M:%S}  {text}", end="", flush=True)


def until(
    ask: Callable[[], T],
    minutes: float,
    what: str,
    *,
    poll: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask again and again, and return the first answer that is not empty.

    Raises:
        TimeoutError: there was none in time.
    """
    end = clock() + minutes * 60
    while True:
        if answer := ask():
            return answer
        if clock() >= end:
            raise TimeoutError(f"{what}: not in {minutes:g} minutes")
        sleep(poll)


class Kubectl:
    """kubectl on one context and namespace."""

    def __init__(self, context: str, namespace: str) -> None:
        """Name the cluster; an empty context is kubectl's own."""
        self._command = ["kubectl", *(["--context", context] if context else []), "-n", namespace]

    def __call__(self, *words: str) -> str:
        """Run a command and return what it wrote.

        Raises:
            AssertionError: it failed, with what it said.
        """
        done = subprocess.run(
            [*self._command, *words], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr.strip()}"
        return done.stdout

    def pods(self, run_id: str) -> list[Pod]:
        """Return the pods of a run, the oldest first."""
        return pods_in(self("get", "pods", "-l", f"pipeline/runid={run_id}", "-o", "json"))

    def log(self, pod: Pod) -> str:
        """Return what a task wrote."""
        return self("logs", pod.name, "-c", "main")

    def line_of(self, pod: Pod, words: str) -> str:
        """Follow a task's log to the first line with these words; empty if it ends before."""
        command = [*self._command, "logs", "--follow", pod.name, "-c", "main"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            found = next((line for line in process.stdout or () if words in line), "")
            process.terminate()
        return found.strip()


@dataclass(frozen=True)
class Finished:
    """A run that is over, with its pods."""

    run_id: str
    told: Run
    pods: list[Pod]

    @property
    def state(self) -> str:
        """KFP's word for how it ended."""
        return str(self.told.run.get("state"))

    @property
    def minutes(self) -> float:
        """How long it took."""
        ends = [datetime.fromisoformat(self.told.run[key]) for key in ("created_at", "finished_at")]
        return (ends[1] - ends[0]).total_seconds() / 60


@dataclass
class Live:
    """A cluster, and everything that the suite made there and has to take away."""

    client: Client
    kubectl: Kubectl
    namespace: str
    experiment_id: str = ""
    run_ids: list[str] = field(default_factory=list)
    recurring_ids: list[str] = field(default_factory=list)
    pipeline_ids: list[str] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    @classmethod
    def at(cls, host: str, context: str, namespace: str, experiment: str) -> "Live":
        """Connect, and make an experiment of the suite's own."""
        live = cls(connect(host), Kubectl(context, namespace), namespace)
        with redirect_stdout(io.StringIO()):
            made = live.client.create_experiment(experiment, namespace=namespace)
        live.experiment_id = made.experiment_id
        return live

    def start(
        self, package: Package, name: str, params: Mapping[str, Any], anew: str | None = None
    ) -> str:
        """Start a run and return its id.

        Args:
            package: the pipeline.
            name: of the run.
            params: its parameters.
            anew: a task that may not come from the cache.
        """
        with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
            sent = package.without_caching(Path(scratch) / "p.yaml", anew) if anew else package
            run = self.client.run_pipeline(
                self.experiment_id,
                name,
                pipeline_package_path=str(sent.path),
                params=dict(params),
                service_account=ACCOUNT,
            )
        self.run_ids.append(run.run_id)
        say(f"started '{name}', {run.run_id}")
        return run.run_id

    def start_every_minute(self, package: Package, name: str, params: Mapping[str, Any]) -> str:
        """Make a recurring run and return its id."""
        recurring = self.client.create_recurring_run(
            self.experiment_id,
            name,
            cron_expression="0 * * * * *",
            max_concurrency=1,
            no_catchup=True,
            pipeline_package_path=str(package.path),
            params=dict(params),
            service_account=ACCOUNT,
        )
        self.recurring_ids.append(recurring.recurring_run_id)
        return recurring.recurring_run_id

    def runs_of(self, recurring_id: str) -> list[str]:
        """Return the runs that a recurring run has started."""
        listed = self.client.list_runs(experiment_id=self.experiment_id, page_size=100)
        found = [one.run_id for one in listed.runs or [] if one.recurring_run_id == recurring_id]
        self.run_ids += [run_id for run_id in found if run_id not in self.run_ids]
        return found

    def told(self, run_id: str) -> Run:
        """Return what the API tells of a run now."""
        return self.client.told(self.client.get_run(run_id))

    def finish(self, run_id: str, minutes: float) -> Finished:
        """Wait for the end of a run.

        Raises:
            TimeoutError: it is not over in time.
        """

        def over() -> Run | None:
            try:
                told = self.told(run_id)
            except API_ERRORS:  # a port-forward that breaks is started again by whoever made it
                return None
            return told if told.run.get("state") in FINAL else None

        told = until(over, minutes, f"the end of run {run_id}")
        assert told is not None
        done = Finished(run_id, told, self.kubectl.pods(run_id))
        assert done.pods, f"kubectl knows no pod of run {run_id}; is CONTEXT the cluster of HOST?"
        self.finished.append(done)
        say(f"{done.state} after {done.minutes:.1f} minutes: {run_id}")
        return done

    def artifact(self, uri: str) -> bytes:
        """Return an object of the store that artifacts are in, as KFP's UI fetches it.

        Raises:
            ApiException, HTTPError: see `API_ERRORS`; it is not there.
        """
        place = urlsplit(uri)
        answer = self.client.runs.api_client.call_api(
            "/artifacts/get",
            "GET",
            query_params=[
                ("source", STORES.get(place.scheme, place.scheme)),
                ("namespace", self.namespace),
                ("bucket", place.netloc),
                ("key", place.path.removeprefix("/")),
            ],
            auth_settings=["Bearer"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=TIMEOUT,
        )
        return answer.data

    def clean(self) -> list[str]:
        """Take away what was made, the last first, and return what could not be."""
        client, left = self.client, list[str]()

        def do(what: str, act: Callable[..., Any], *given: str) -> None:
            try:
                act(*given)
            except API_ERRORS as error:
                left.append(f"{what}: {cause(error)}")

        for one in self.recurring_ids:
            do(f"stop recurring run {one}", client.disable_recurring_run, one)
            do(f"runs of {one}", self.runs_of, one)
        for one in self.run_ids:
            do(f"end run {one}", self._end, one)
            do(f"run {one}", client.delete_run, one)
        for one in self.recurring_ids:
            do(f"recurring run {one}", client.delete_recurring_run, one)
        for one in self.pipeline_ids:
            do(f"pipeline {one}", self._delete_pipeline, one)
        if self.experiment_id:
            do("experiment", client.delete_experiment, self.experiment_id)
        return left

    def _end(self, run_id: str) -> None:
        """Terminate a run that still runs, so that no pod outlives it."""
        if self.told(run_id).run.get("state") not in FINAL:
            self.client.terminate_run(run_id)

    def _delete_pipeline(self, pipeline_id: str) -> None:
        """Delete a pipeline with its versions, without which KFP refuses."""
        versions = self.client.list_pipeline_versions(pipeline_id, page_size=100)
        for one in versions.pipeline_versions or []:
            self.client.delete_pipeline_version(pipeline_id, one.pipeline_version_id)
        self.client.delete_pipeline(pipeline_id)


def differences(first: str, second: str) -> list[str]:
    """Return where two CSV tables differ: one line per cell, or one for their shape."""
    tables = [list(csv.reader(io.StringIO(text))) for text in (first, second)]
    shapes = [(len(table), {len(row) for row in table}) for table in tables]
    if shapes[0] != shapes[1] or tables[0][:1] != tables[1][:1]:
        return [f"{len(tables[0])} and {len(tables[1])} rows, or other columns"]
    header = tables[0][0] if tables[0] else []
    return [
        f"row {number}, {name}: {one} and {other}"
        for number, rows in enumerate(zip(*tables, strict=True))
        for name, one, other in zip(header, *rows, strict=True)
        if one != other
    ]


def asks_read_only(config: Mapping[str, Any]) -> bool:
    """Return whether Argo's controller gives every task a read-only root file system.

    KFP's pipelines have no word for it.

    Args:
        config: `mainContainer` of its ConfigMap.
    """
    return bool((config.get("securityContext") or {}).get("readOnlyRootFilesystem"))
