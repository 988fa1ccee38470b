"""A small stand-in for the Hugging Face Hub that the real client talks to over HTTP.

It keeps what is committed as the Hub does: a big file is known by its sha256 and must have been
uploaded before the commit, by git-lfs to a storage of its own (signed addresses, no token) or by
Xet, whose blocks are counted and not put together again.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretsecretsecret"  # noqa: S105
SIGNATURE = "X-Amz-Signature=secretsignature"
COMMIT = "c0ffee" + "0" * 34
BIG = (".pt", ".h5ad")
"""Endings of files that go through git-lfs or Xet."""
LOST = -1
"""A fault: the request is carried out, and the connection breaks before the answer."""


@dataclass
class Hub:
    """What the hub holds and was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Content by `<owner>/<name>/<path>`, data sets with `datasets/` before it."""
    commits: list[list[dict[str, Any]]] = field(default_factory=list)
    """Operations of each commit."""
    tree: dict[str, str] = field(default_factory=dict)
    """What is committed: path to sha256 of a big file, git's digest of others."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded by git-lfs, by sha256."""
    blocks: list[bytes] = field(default_factory=list)
    """What was uploaded by Xet."""
    requests: list[str] = field(default_factory=list)
    created: list[dict[str, object]] = field(default_factory=list)
    damaged: bool = False
    """Whether another content is sent than the digest says."""
    gitignore: str = ""
    """Ending of files that a .gitignore in the repository makes the client leave out."""
    loses: str = ""
    """Ending of files that are not there after a commit."""
    misplaced: list[str] = field(default_factory=list)
    """Requests that brought the token to the storage of git-lfs or Xet."""
    url: str = ""
    _faults: dict[str, Iterator[int]] = field(default_factory=dict)

    def fail(self, part: str, faults: Iterable[int]) -> None:
        """Let coming requests with ``part`` in their path fail: a status or `LOST` each."""
        self._faults[part] = iter(faults)

    def fault(self, path: str) -> int:
        """Return what is to befall a request; 0 lets it pass."""
        plans = [faults for part, faults in self._faults.items() if part in path]
        return next(plans[0], 0) if plans else 0


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged
    _lost = False

    def _answer(self, facts: object, status: int = 200, headers: dict[str, str] | None = None):
        if self._lost:
            self.close_connection = True
            return
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

    def _fails(self, path: str) -> bool:
        """Note a request, and answer it if it is to fail."""
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(path)
        self._lost = fault == LOST
        if fault > 0:
            self._answer({"error": "a fault"}, fault, {"Retry-After": "0"} if fault == 429 else {})
        return fault > 0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self._fails(path):
            return
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/whoami-v2":
            self._answer({"name": "me"} if known else {"error": "no"}, 200 if known else 401)
        elif "/tree/" in path:
            self._answer(
                [
                    {"type": "file", "path": name, "size": 1, "oid": digest}
                    for name, digest in self.hub.tree.items()
                    if not _ends(name, self.hub.loses)
                ]
            )
        elif path.startswith("/api/models/") and "/revision/" in path:
            self._answer({"id": "lab/model", "sha": COMMIT, "siblings": []})
        elif "/xet-write-token/" in path and known:
            access = {"casUrl": f"{self.hub.url}/xet", "accessToken": "xet"}
            self._answer(access | {"exp": int(time.time()) + 3600})
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
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest_of(name, content)}"'}
            self._answer(content[::-1] if self.hub.damaged else content, 200, headers)

    def do_PUT(self) -> None:
        path = urlsplit(self.path).path
        body = self._body()
        if self._fails(path):
            return
        digest = path.rpartition("/")[2]
        if TOKEN in str(self.headers):
            self.hub.misplaced.append(path)
        if hashlib.sha256(body).hexdigest() != digest or SIGNATURE not in self.path:
            self._answer({"error": "another digest, or not signed"}, 400)
            return
        self.hub.objects[digest] = body
        self._answer({})

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        if self._fails(path):
            return
        if path.startswith("/xet/"):
            self._xet(path, body)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "no"}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            self._answer({"files": self._upload_modes(json.loads(body))})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": self._addresses(json.loads(body))})
        elif "/commit/" in path:
            self._commit(body)
        else:
            self._answer({})

    def _create(self, asked: dict[str, object]) -> None:
        exists = bool(self.hub.created) or any(
            name.startswith("lab/model/") for name in self.hub.files
        )
        if not exists:
            self.hub.created.append(asked)
        self._answer({"url": f"{self.hub.url}/lab/model"}, 409 if exists else 200)

    def _upload_modes(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        gitignore = "" if "gitIgnore" in asked else self.hub.gitignore
        return [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(BIG) else "regular",
                "shouldIgnore": _ends(file["path"], gitignore),
                "oid": self.hub.tree.get(file["path"]),
            }
            for file in asked["files"]
        ]

    def _addresses(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        storage = f"{self.hub.url}/storage"
        return [
            thing
            if thing["oid"] in self.hub.objects
            else thing | {"actions": {"upload": {"href": f"{storage}/{thing['oid']}?{SIGNATURE}"}}}
            for thing in asked["objects"]
        ]

    def _xet(self, path: str, body: bytes) -> None:
        """Speak the first version of Xet's protocol, which clients fall back to."""
        if TOKEN in str(self.headers):
            self.hub.misplaced.append(path)
        if path.startswith("/xet/v1/xorbs/"):
            self.hub.blocks.append(body)
            self._answer({"was_inserted": True})
        elif path == "/xet/v1/shards":
            self._answer({"result": 1})
        else:
            self._answer({}, 404)

    def _commit(self, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        operations = [{"key": line["key"], **line["value"]} for line in lines]
        big = [item for item in operations if item["key"] == "lfsFile"]
        if not self.hub.blocks and any(item["oid"] not in self.hub.objects for item in big):
            self._answer({"error": "a big file was not uploaded"}, 400)
            return
        for item in operations:
            if item["key"] == "deletedFile":
                self.hub.tree.pop(item["path"], None)
            elif item["key"] != "header":
                self.hub.tree[item["path"]] = item.get("oid") or _git_digest(
                    base64.b64decode(item["content"])
                )
        self.hub.commits.append(operations)
        self._answer(
            {"commitUrl": f"{self.hub.url}/lab/model/commit/{COMMIT}", "commitOid": COMMIT}
        )

    def log_message(self, *_: object) -> None:
        pass


def _ends(name: str, ending: str) -> bool:
    return bool(ending) and name.endswith(ending)


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324


def digest_of(name: str, content: bytes) -> str:
    """Return what the Hub calls a file: sha256 of a big one, git's digest of others."""
    return hashlib.sha256(content).hexdigest() if name.endswith(BIG) else _git_digest(content)


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
    code: str, *args: object, url: str, home: Path, token: str = "", xet: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, since the client reads its settings once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
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
