"""A KFP API server for tests: records what clients send, and lets a run pass as it is told to.

It answers as the v2beta1 API does: fields that are unset are left out, a time that has not come is
year 1 or 1970, parameters are checked against the pipeline spec, and a run's details are Argo's
nodes, of which only one in three is a task; they tell the ids of the nodes after them, but not
their own. On the same host is the UI's server, which has the pods and their logs.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

API = "/apis/v2beta1"
CUT = "cut"
SIGN_IN_PAGE = "sign-in page"
KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


@dataclass
class Look:
    """What a client sees of a run when it asks once."""

    state: str
    tasks: dict[str, str] = field(default_factory=dict)
    """State of each task by name."""
    message: str = ""
    """Error message of the failed tasks; KFP's API has none today."""
    rounds: list[dict[str, str]] = field(default_factory=list)
    """For each round of a comparison's loop, the state of its tasks by name."""
    tries: dict[str, int] = field(default_factory=dict)
    """How often the pod of a task was started, where KFP is to start it again when it is lost."""
    pending: list[str] = field(default_factory=list)
    """Tasks whose pod waits."""
    planning: list[str] = field(default_factory=list)
    """Tasks of which the pod that plans them waits."""
    wrapped: bool = False
    """Whether the controller's defaults try every node again, so that each is there twice."""


@dataclass
class Kfp:
    """What the server is to answer, and what it was asked."""

    looks: list[Look | int | str] = field(default_factory=lambda: [Look("SUCCEEDED")])
    """For each coming look at the run: what is seen, a status to answer with, `CUT` to cut the
    connection, or `SIGN_IN_PAGE`; the last one stays."""
    always: int | str = 0
    """A status, or `SIGN_IN_PAGE`, to answer every request with."""
    logs: dict[str, str] = field(default_factory=dict)
    """The log of each pod by its name."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What Kubernetes tells of each pod by its name."""
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring_runs: list[dict[str, Any]] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    """What a list of runs has."""
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    """Content of each object of the artifact store by its URI."""
    versions: list[dict[str, Any]] = field(default_factory=list)
    """Of pipelines, each with its `pipeline_id`."""
    url: str = ""


class _RefusedError(Exception):
    """A request the API answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    kfp: Kfp
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged

    def do_GET(self) -> None:
        self._answer(None)

    def do_DELETE(self) -> None:
        self.kfp.requests.append(f"DELETE {urlsplit(self.path).path}")
        self._send(200, b"{}", "application/json")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}"
        kind = self.headers["Content-Type"] or ""
        self._answer(_file_in(content, kind) if "multipart" in kind else json.loads(content))

    def _answer(self, body: dict[str, Any] | None) -> None:
        self.kfp.requests.append(f"{self.command} {urlsplit(self.path).path}")
        try:
            if urlsplit(self.path).path.startswith("/k8s/") and not self.kfp.always:
                self._answer_of_the_ui()
                return
            if urlsplit(self.path).path == "/artifacts/get":
                self._answer_of_the_store()
                return
            answer = self._result(body)
            if answer == CUT:
                self.close_connection = True
                return
            if answer == SIGN_IN_PAGE:
                self._send(200, b"<html><body>Sign in</body></html>", "text/html")
                return
            self._send(200, json.dumps(answer).encode(), "application/json")
        except _RefusedError as refused:
            text = json.dumps({"code": 3, "message": refused.message, "details": []}).encode()
            self._send(refused.status, text, "application/json")

    def _answer_of_the_ui(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        pod, kfp = query.get("podname", ""), self.kfp
        found: Any = {
            "/k8s/pod": kfp.pods.get(pod),
            "/k8s/pod/events": {"items": kfp.events[pod]} if pod in kfp.events else None,
            "/k8s/pod/logs": kfp.logs.get(pod),
        }.get(url.path)
        if found is None or not query.get("podnamespace"):
            self._send(500, b"Could not get main container logs: not found", "text/html")
        else:
            text = found if isinstance(found, str) else json.dumps(found)
            self._send(200, text.encode(), "text/plain")

    def _answer_of_the_store(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        found = self.kfp.artifacts.get(f"{query['source']}://{query['bucket']}/{query['key']}")
        if found is None:
            self._send(500, b"Failed to get object in bucket: not found", "text/html")
        else:
            self._send(200, found, "application/octet-stream")

    def _result(self, body: dict[str, Any] | None) -> Any:
        kfp, path = self.kfp, urlsplit(self.path).path
        if kfp.always == SIGN_IN_PAGE:
            return SIGN_IN_PAGE
        if isinstance(kfp.always, int) and kfp.always:
            raise _RefusedError(kfp.always, "as the test wants")
        if path == f"{API}/healthz":
            return {}
        if path == f"{API}/experiments":
            return self._new_experiment(body) if body else self._experiments()
        if path.endswith((":terminate", ":disable")):
            return {}
        if path == f"{API}/runs":
            return self._new_run(body) if body else {"runs": kfp.listed}
        if path == f"{API}/recurringruns" and body:
            return self._new_recurring_run(body)
        if path == f"{API}/pipelines":
            return self._new_pipeline(body) if body else self._named("pipelines", kfp.pipelines)
        if path == f"{API}/pipelines/upload_version" and body:
            return self._new_version(body)
        if path.startswith(f"{API}/pipelines/") and path.endswith("/versions"):
            of = path.split("/")[-2]
            versions = [one for one in kfp.versions if one["pipeline_id"] == of]
            return self._named("pipeline_versions", versions)
        if path.startswith(f"{API}/runs/"):
            return self._run(path.rpartition("/")[2])
        raise _RefusedError(404, "Not Found")

    def _experiments(self) -> dict[str, Any]:
        return self._named("experiments", self.kfp.experiments)

    def _named(self, what: str, known: list[dict[str, Any]]) -> dict[str, Any]:
        wanted = parse_qs(urlsplit(self.path).query).get("filter")
        name = json.loads(wanted[0])["predicates"][0]["stringValue"] if wanted else None
        found = [one for one in known if name in (None, one["display_name"])]
        return {what: found} if found else {}

    def _new_pipeline(self, body: dict[str, Any]) -> dict[str, Any]:
        pipeline = body | {"pipeline_id": f"pipeline-{len(self.kfp.pipelines)}"}
        self.kfp.pipelines.append(pipeline)
        return pipeline

    def _new_version(self, package: dict[str, Any]) -> dict[str, Any]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        version = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": f"version-{len(self.kfp.versions)}",
            "display_name": query["name"],
            "description": query.get("description", ""),
            "pipeline_spec": package,
        }
        self.kfp.versions.append(version)
        return version

    def _new_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        experiment = body | {"experiment_id": f"experiment-{len(self.kfp.experiments)}"}
        self.kfp.experiments.append(experiment)
        return experiment

    def _new_run(self, body: dict[str, Any]) -> dict[str, Any]:
        _check(body)
        self.kfp.runs.append(body)
        return body | {"run_id": f"run-{len(self.kfp.runs) - 1}", "state": "PENDING"}

    def _new_recurring_run(self, body: dict[str, Any]) -> dict[str, Any]:
        _check(body)
        self.kfp.recurring_runs.append(body)
        return body | {"recurring_run_id": "recurring-0", "status": "ENABLED"}

    def _run(self, run_id: str) -> Any:
        if run_id not in [f"run-{n}" for n in range(len(self.kfp.runs))]:
            raise _RefusedError(404, f"Run {run_id} not found")
        looks = self.kfp.looks
        look = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(look, int):
            raise _RefusedError(look, "no healthy upstream")
        if isinstance(look, str):
            return look
        kfp_run = self.kfp.runs[int(run_id.removeprefix("run-"))]
        over = look.state in ("SUCCEEDED", "FAILED", "CANCELED")
        return {
            "run_id": run_id,
            "display_name": kfp_run["display_name"],
            "pipeline_spec": kfp_run["pipeline_spec"],
            "state": look.state,
            "created_at": "2026-03-01T10:00:00Z",
            "finished_at": "2026-03-01T11:30:00Z" if over else "1970-01-01T00:00:00Z",
            "run_details": {"task_details": list(nodes(look))},
        }

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


WORKFLOW = "scgpt-perturb-x7k2p"
ANNOTATED = "metadata-1-0-"
"""KFP names a template by the annotations and labels of its pod: of ours each has one."""
TEMPLATE = f"{ANNOTATED}system-container-impl"
BARE_AGAIN = "retry-system-container-impl"
AGAIN = f"{ANNOTATED}{BARE_AGAIN}"


def pod_of(task: str, *, round: int | None = None, template: str = TEMPLATE, tail: str = "") -> str:
    """Return the name of a task's pod, in a workflow whose nodes are not wrapped.

    Args:
        task: its name.
        round: of the loop it stands in.
        template: Argo's for the pod.
        tail: after the executor's name: the number of the try, in brackets.
    """
    above = [WORKFLOW, "root", "exit-handler-1"]
    if round is not None:
        above += ["for-loop-1", f"iteration-iterations({round}:{round})", "iteration-item"]
    return f"{WORKFLOW}-{template}-{_hash('.'.join([*above, task, f'executor{tail}']))}"


def executors_of(look: Look) -> dict[str, str]:
    """Return the task of each pod of a run without second tries, by the pod's name."""
    return {
        f"{WORKFLOW}-{TEMPLATE}-{_hash(name)}": name.rpartition(".executor")[0].rpartition(".")[2]
        for name, _ in _Workflow(look).nodes
        if ".executor" in name
    }


def _hash(name: str) -> int:
    """Return the number that Argo ends the id of a node with: FNV-1a of its whole name."""
    found = 2166136261
    for byte in name.encode():
        found = ((found ^ byte) * 16777619) % 2**32
    return found


class _Workflow:
    """Argo's nodes of a run, in the order they were made."""

    def __init__(self, look: Look) -> None:
        self.look, self.nodes = look, list[tuple[str, dict[str, Any]]]()
        root = self._dag(WORKFLOW, WORKFLOW, look.state, None)
        last = self._node(f"{root}.root-driver", "root-driver", "SUCCEEDED", root)
        root = self._dag(f"{root}.root", "root", look.state, last)
        handler = "exit-handler-1"
        last = self._node(f"{root}.{handler}-driver", f"{handler}-driver", "SUCCEEDED", root)
        inner = self._dag(f"{root}.{handler}", handler, look.state, last)
        last, hook = inner, f"{root}.{handler}.onExit"
        for name, state in look.tasks.items():
            if name == "conclude":
                hook = self._dag(hook, f"{handler}.onExit", state, f"{root}.{handler}")
                self._task(hook, name, state, hook)
            else:
                last = self._task(inner, name, state, last)
        if look.rounds:
            self._loop(inner, last)

    def _loop(self, above: str, after: str) -> None:
        loop = self._dag(f"{above}.for-loop-1", "for-loop-1", "RUNNING", after)
        last = self._node(f"{loop}.iteration-driver", "iteration-driver", "SUCCEEDED", loop)
        group = self._node(f"{loop}.iteration-iterations", "iteration-iterations", "RUNNING", last)
        for number, tasks in enumerate(self.look.rounds):
            name = f"iteration-iterations({number}:{number})"
            one = self._dag(f"{loop}.{name}", name, "RUNNING", group)
            last = self._node(
                f"{one}.iteration-item-driver", "iteration-item-driver", "SUCCEEDED", one
            )
            item = self._dag(f"{one}.iteration-item", "iteration-item", "RUNNING", last)
            last = item
            for task, state in tasks.items():
                last = self._task(item, task, state, last)

    def _task(self, above: str, name: str, state: str, after: str) -> str:
        planned = "PENDING" if name in self.look.planning else "SUCCEEDED"
        last = self._node(f"{above}.{name}-driver", f"{name}-driver", planned, after)
        if planned == "PENDING":
            return last
        error = {"error": {"code": 13, "message": self.look.message}}
        failed = state == "FAILED" and self.look.message
        inner = self._dag(f"{above}.{name}", name, state, last, **(error if failed else {}))
        pod = "PENDING" if name in self.look.pending else state
        last = self._node(f"{inner}.executor", "executor", pod, inner)
        tries = self.look.tries.get(name, 1 if self.look.wrapped else 0)
        for number in range(tries):
            end = pod if number + 1 == tries else "FAILED"
            one = self._node(f"{inner}.executor({number})", f"executor({number})", end, last)
        return one if tries else last

    def _dag(self, name: str, display: str, state: str, after: str | None, **more: Any) -> str:
        self._node(name, display, state, after, **more)
        if not self.look.wrapped:
            return name
        return self._node(f"{name}(0)", f"{display}(0)", state, name)

    def _node(self, name: str, display: str, state: str, after: str | None, **more: Any) -> str:
        if after is not None:
            before = next(node for known, node in self.nodes if known == after)
            before.setdefault("child_tasks", []).append({"pod_name": f"{WORKFLOW}-{_hash(name)}"})
        node = _node(display, state) | {"task_id": f"uuid-of-{_hash(name)}"} | more
        self.nodes.append((name, node))
        return name


def nodes(look: Look) -> Iterator[dict[str, Any]]:
    """Yield Argo's nodes: of each task its driver, the task itself, and its executor."""
    for _, node in _Workflow(look).nodes:
        yield node


def _node(name: str, state: str) -> dict[str, Any]:
    over = state in ("SUCCEEDED", "FAILED", "SKIPPED")
    return {
        "display_name": name,
        "state": state,
        "create_time": "2026-03-01T10:00:00Z",
        "start_time": "2026-03-01T10:00:10Z" if state else "0001-01-01T00:00:00Z",
        "end_time": "2026-03-01T10:02:15Z" if over else "0001-01-01T00:00:00Z",
    }


def _file_in(content: bytes, kind: str) -> dict[str, Any]:
    """Return the package in a form that holds one file, as KFP keeps it."""
    form = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    [part] = form.get_payload()
    spec, platform = yaml.safe_load_all(part.get_payload(decode=True))
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    return {"pipeline_spec": spec, "platform_spec": platform}


def _check(body: dict[str, Any]) -> None:
    """Check parameters as KFP's `validatePipelineJobInputs` does."""
    documents = body["pipeline_spec"]
    spec = json_format.ParseDict(
        documents.get("pipeline_spec", documents), pipeline_spec_pb2.PipelineSpec()
    )
    inputs = spec.root.input_definitions.parameters
    given = body["runtime_config"].get("parameters", {})
    for name, wanted in inputs.items():
        kind = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(wanted.parameter_type)
        if name not in given:
            if not wanted.is_optional and not wanted.HasField("default_value"):
                raise _RefusedError(400, f"parameter {name} is not optional, yet has no value")
        elif type(given[name]) not in KINDS[kind]:
            raise _RefusedError(400, f"input parameter {name} requires type {kind.lower()}")
    extra = [name for name in given if name not in inputs]
    if extra:
        names = ", ".join(extra)
        raise _RefusedError(400, f"parameter(s) provided are not required by pipeline: {names}")


@contextmanager
def serving(kfp: Kfp) -> Iterator[Kfp]:
    """Serve ``kfp``; its ``url`` is filled in."""
    handler = type("Handler", (_Handler,), {"kfp": kfp, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    kfp.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield kfp
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
