"""A small stand-in for the Hugging Face Hub that the real client talks to over HTTP."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretsecretsecret"  # noqa: S105
COMMIT = "c0ffee" + "0" * 34
BIG = (".pt", ".h5ad")
"""Endings of files that go through git-lfs."""


@dataclass
class Hub:
    """What the hub holds and was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Content by `<owner>/<name>/<path>`, data sets with `datasets/` before it."""
    commits: list[dict[str, object]] = field(default_factory=list)
    """Operations of each commit, one entry a line of the request."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded by git-lfs, by sha256."""
    requests: list[str] = field(default_factory=list)
    created: list[dict[str, object]] = field(default_factory=list)
    damaged: bool = False
    """Whether another content is sent than the digest says."""
    refuse_commit: int = 0
    ignores: str = ""
    """Ending of files that a .gitignore makes the hub leave out."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self, facts: object, status: int = 200, headers: dict[str, str] | None = None):
        body = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self._answer({"name": "me"} if known else {"error": "no"}, 200 if known else 401)
        elif "/tree/" in path:
            self._answer(
                [
                    {"type": "file", "path": name, "size": 1, "oid": "0" * 40}
                    for line in self.hub.commits
                    if (name := line.get("path")) and not _ends(str(name), self.hub.ignores)
                ]
            )
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._answer({"error": "unknown"}, 404)

    def _resolve(self, path: str) -> None:
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        known = {"/".join(key.split("/")[: repository.count("/") + 1]) for key in self.hub.files}
        if repository not in known:
            self._answer({}, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._answer({}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif f"{repository}/{name}" not in self.hub.files:
            self._answer({}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            content = self.hub.files[f"{repository}/{name}"]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(name, content)}"'}
            self._answer(content[::-1] if self.hub.damaged else content, 200, headers)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "no"}, 401)
        elif path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            self._answer({"url": f"{self.hub.url}/lab/model"})
        elif path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(BIG) else "regular",
                            "shouldIgnore": _ends(file["path"], self.hub.ignores),
                        }
                        for file in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(
                {
                    "transfer": "basic",
                    "objects": [
                        thing
                        | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{thing['oid']}"}}}
                        for thing in json.loads(body)["objects"]
                    ],
                }
            )
        elif "/commit/" in path:
            self._commit(body)
        else:
            self._answer({})

    def _commit(self, body: bytes) -> None:
        if self.hub.refuse_commit:
            self._answer({"error": "refused"}, self.hub.refuse_commit)
            return
        for line in body.splitlines():
            item = json.loads(line)
            self.hub.commits.append({"key": item["key"], **item["value"]})
        self._answer(
            {"commitUrl": f"{self.hub.url}/lab/model/commit/{COMMIT}", "commitOid": COMMIT}
        )

    def log_message(self, *_: object) -> None:
        pass


def _ends(name: str, ending: str) -> bool:
    return bool(ending) and name.endswith(ending)


def _etag(name: str, content: bytes) -> str:
    if name.endswith(BIG):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324


def content_of(hub: Hub, path: str) -> bytes:
    """Return what the hub holds of a committed file."""
    line = next(line for line in hub.commits if line.get("path") == path)
    if line["key"] == "lfsFile":
        return hub.objects[str(line["oid"])]
    return base64.b64decode(str(line["content"]))


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Run a hub; its ``url`` is filled in."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_with_hub(
    code: str, *args: object, url: str, home: Path, token: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, since the client reads its settings once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=kept | settings | ({"HF_TOKEN": token} if token else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
