"""A small stand-in for the Weights & Biases service that the real client talks to over HTTP."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "5ec2e7" + "0123456789" * 3 + "abcd"


@dataclass
class Service:
    """What the service was sent, and how it answers from now on."""

    requests: list[str] = field(default_factory=list)
    """Method, path, headers but the key's, and body of each."""
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Rows by their place in the history."""
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    status: int = 200
    hangs: bool = False
    started: threading.Event = field(default_factory=threading.Event)
    """Set once a run has been accepted."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end, for requests that hang."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    service: Service
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged

    def do_POST(self) -> None:
        service = self.service
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key: value for key, value in self.headers.items() if key != "Authorization"}
        service.requests.append(f"{self.command} {self.path} {headers} {body.decode()}")
        if service.hangs:
            service.released.wait()
        known = base64.b64encode(f"api:{KEY}".encode()).decode()
        if self.path.startswith("/upload/"):
            service.files[self.path.removeprefix("/upload/")] = body
            self._answer({})
        elif self.headers.get("Authorization") != f"Basic {known}":
            self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
        elif self.path == "/graphql":
            self._answer({"data": self._data(json.loads(body))}, service.status)
        elif self.path.endswith("/file_stream"):
            if service.status == 200:
                self._stream(json.loads(body))
            self._answer({}, service.status)
        else:
            self._answer({}, 404)

    def do_PUT(self) -> None:
        self.do_POST()

    def _data(self, asked: dict[str, Any]) -> dict[str, Any]:
        what = asked["variables"]
        if asked["operationName"] == "UpsertBucket":
            if self.service.status == 200:
                values = json.loads(what["config"] or "{}")
                self.service.config |= {key: value["value"] for key, value in values.items()}
                self.service.started.set()
            project = {"id": "p", "name": what["project"], "entity": {"id": "e", "name": "lab"}}
            names = {"id": "r", "name": what["name"], "displayName": "swift-frog-1"}
            bucket = names | {"project": project, "config": "{}", "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if asked["operationName"] == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.service.url}/upload/{name}"}
                for name in what["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _stream(self, sent: dict[str, Any]) -> None:
        files = sent.get("files", {})
        rows = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, row in enumerate(rows["content"], start=rows["offset"]):
            self.service.history[place] = json.loads(row)
        for summary in files.get("wandb-summary.json", {"content": []})["content"]:
            self.service.summary = json.loads(summary)
        if sent.get("complete"):
            self.service.exit_code = sent["exitcode"]

    def _answer(self, facts: object, status: int = 200) -> None:
        body = json.dumps(facts).encode()
        # A client that gave up has hung up.
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_wandb() -> Iterator[Service]:
    """Run a service; its ``url`` is filled in."""
    service = Service()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        service.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
