"""A store that speaks S3 for tests: moto's server on loopback, with what it lacks, and with faults.

Added here, as S3 does it, as far as our code goes: a body whose Content-MD5 is another is refused
with 400 (unless a test says that the store does not look), `partNumber` of a look-up gives the size
of that part, and one change at a time.

Not covered: permissions (a 403 is a fault that a test injects) and signatures, which moto does not
check; `keys` has the key ids that came.
"""

import base64
import hashlib
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

import moto.backends  # noqa: F401  or the first requests, which come together, import it twice
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import FakeKey, S3Backend, s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app

from tests.servers.faults import Cut, Damaged, Fault, Faults, Lost, changed, taken

CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "SlowDown", 503: "SlowDown"}
"""S3's words for some statuses."""
KEYS = {"AWS_ACCESS_KEY_ID": "of-aws", "AWS_SECRET_ACCESS_KEY": "secret-of-aws"}
BUNDLED_KEYS = {"MINIO_ACCESS_KEY": "of-kfp", "MINIO_SECRET_KEY": "secret-of-kfp"}


class Store(Faults):
    """What the tests see of the store. Kinds of requests are those of the other emulator.

    ``facts``, ``list``, ``download``, ``upload`` (in one request), ``session`` (begin one in
    parts), ``chunk`` (a part), ``complete``, ``abort`` and ``delete``.
    """

    scheme = "s3"

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.port = 0
        self.keys: set[str] = set()
        """Key ids that signed requests, empty for one that is not signed."""
        self.looks_at_md5 = True
        self.sent: list[bytes] = []
        """Heads of all requests."""
        self.latency = 0.0
        self.backend.reset()
        self.app = create_backend_app("s3")

    @property
    def backend(self) -> S3Backend:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it as s3:// and as minio://."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "MINIO_SERVICE_SERVICE_HOST": "127.0.0.1",
            "MINIO_SERVICE_SERVICE_PORT": str(self.port),
            **KEYS,
            **BUNDLED_KEYS,
        }

    def bucket(self, name: str) -> None:
        self.backend.create_bucket(name, "us-east-1")

    def names(self, bucket: str) -> list[str]:
        return sorted(key.name for key in self.backend.buckets[bucket].keys.values())

    def key(self, bucket: str, name: str) -> FakeKey:
        return self.backend.buckets[bucket].keys[name]

    def read(self, bucket: str, name: str) -> bytes:
        return self.key(bucket, name).value

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Do what another writer does, who sets no condition."""
        self.backend.put_object(bucket, name, content)

    def remove(self, bucket: str, name: str) -> None:
        self.backend.delete_object(bucket, name)

    def damage(self, bucket: str, name: str, content: bytes) -> None:
        """Replace what is sent, not what the store says of it."""
        key = self.key(bucket, name)
        etag = key.etag
        key.value = content
        key._etag = etag.strip('"')

    def unfinished(self, bucket: str) -> int:
        """Return how many uploads in parts were begun and neither completed nor aborted."""
        return len(self.backend.buckets[bucket].multiparts)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # or each body waits a second for "100 Continue"
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged

    def __init__(self, store: Store, *args: object) -> None:
        self.store = store
        super().__init__(*args)  # type: ignore[arg-type]

    def run_wsgi(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, name = unquote(parts.path).lstrip("/").partition("/")
        query = {key: values[0] for key, values in parse_qs(parts.query, True).items()}
        signed = re.search("Credential=([^/]*)/", self.headers.get("Authorization", ""))
        self.store.keys.add(signed[1] if signed else "")
        self.store.sent.append(str(self.headers).encode() + self.path.encode())
        kind = self._kind(name, query)
        self.store.requests.append((kind, name, self.headers.get("Range", "")))
        fault = self.store.fault(kind, name or query.get("prefix", ""))
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(taken(fault, size) if self.command == "PUT" else size)
        if isinstance(fault, Cut) and self.command == "PUT":
            self._hang_up()
            return
        if isinstance(fault, Damaged) and self.command == "PUT":
            body = changed(body, len(body) - 1)
        with self.store.lock:
            status, head, content = self._answer(body, fault, bucket, name, query)
            if kind in ("upload", "complete") and status == 200:
                self.store.uploads.append(name)
        time.sleep(self.store.latency)
        self._send(status, head, content, fault)

    def _kind(self, name: str, query: dict[str, str]) -> str:
        if self.command == "PUT":
            return "chunk" if "uploadId" in query else "upload"
        if self.command == "POST":
            return "session" if "uploads" in query else "complete"
        if self.command == "DELETE":
            return "abort" if "uploadId" in query else "delete"
        return "facts" if self.command == "HEAD" else "download" if name else "list"

    def _answer(
        self, body: bytes, fault: Fault, bucket: str, name: str, query: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if isinstance(fault, int):
            return _error(fault, CODES.get(fault, "InternalError"))
        md5 = self.headers.get("Content-MD5")
        if md5 and self.store.looks_at_md5 and md5 != _md5_64(body):
            return _error(400, "BadDigest")
        environ = self.make_environ() | {"wsgi.input": io.BytesIO(body)}
        chunks, status, headers = run_wsgi_app(self.store.app, environ, buffered=True)
        head = [item for item in headers.items() if item[0].lower() != "connection"]
        if self.command == "HEAD" and "partNumber" in query and status.startswith("20"):
            part = self.store.key(bucket, name).multipart
            if part is not None:
                length = part.parts[int(query["partNumber"])].size
                head = [item for item in head if item[0].lower() != "content-length"]
                head.append(("Content-Length", str(length)))
        return int(status.split()[0]), head, b"".join(chunks)

    def _send(self, status: int, head: list[tuple[str, str]], body: bytes, fault: Fault) -> None:
        if isinstance(fault, Lost):
            self._hang_up()
            return
        if self.command == "HEAD":
            body = b""
        elif isinstance(fault, Damaged) and self.command == "GET":
            body = changed(body, len(body) - 1)
        lines = [f"HTTP/1.1 {status} ", *(f"{key}: {value}" for key, value in head)]
        if not any(key.lower() == "content-length" for key, _ in head) and status != 204:
            lines.append(f"Content-Length: {len(body)}")
        # A client that was killed hangs up.
        with suppress(ConnectionError):
            self.wfile.write("\r\n".join([*lines, "", ""]).encode())
            self.wfile.write(body[: taken(fault, len(body))] if self.command != "PUT" else body)
            self.wfile.flush()
        if isinstance(fault, Cut):
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_request(self, *args: object) -> None:
        pass


def _error(status: int, code: str) -> tuple[int, list[tuple[str, str]], bytes]:
    text = f"<Error><Code>{code}</Code><Message>http://user:secret@host refused</Message></Error>"
    return status, [("Content-Type", "application/xml")], text.encode()


def _md5_64(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@contextmanager
def serving_s3() -> Iterator[Store]:
    """Run a store; its port is filled in."""
    store = Store()
    server = make_server(
        "127.0.0.1", 0, store.app, threaded=True, request_handler=partial(_Handler, store)
    )
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
