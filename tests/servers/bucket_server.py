"""A Cloud Storage emulator for tests: gcp-storage-emulator with what it lacks, and with faults.

Added here, as Cloud Storage does it, as far as our code goes:

- ``ifGenerationMatch`` of facts, downloads, simple uploads, resumable uploads (when the session
  begins, and again when its object would come to be) and deletes, answered with 412; ``generation``
  of facts and downloads, answered with 404 for any but the live one;
- resumable uploads: bytes that are here already are passed over, a chunk that was cut is kept up to
  a multiple of 256 KiB, the CRC32C sent with the last chunk is checked, and a finished session says
  again what it made;
- one change at a time, since the emulator does not lock.

Not covered: metageneration preconditions, ``ifGenerationNotMatch``, versions that are no longer
live, status queries and expiry of resumable sessions, permissions (a 403 is a fault that a test
asks for), and the XML API. The XML multipart API, which ``upload_chunks_concurrently`` speaks, is
not used by us: its uploads take no precondition, so they cannot keep an object that is there from
being replaced; a resumable upload can.
"""

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from components.shared.storage import gs as storage_gs
from tests.servers.faults import Cut, Damaged, Fault, Faults, Lost, changed, taken

KEPT = 256 * 2**10
"""Of a chunk that is cut, Cloud Storage keeps a multiple of so many bytes."""


class Emulator(Faults):
    """What the tests see of the emulator: its content, what was asked, and faults to come."""

    scheme = "gs"

    def __init__(self) -> None:
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self.storage = Storage(use_memory_fs=True)
        super().__init__()
        self.made: dict[str, str] = {}
        """Name of the object that each finished resumable session made."""
        self.latency = 0.0
        """Seconds before each answer."""
        self.rate = 0.0
        """Bytes per second that one connection brings to the client; 0 is as fast as it goes."""
        self.port = 0

    def bucket(self, name: str) -> None:
        create_bucket(name, self.storage)

    def names(self, bucket: str) -> list[str]:
        return sorted(item["name"] for item in self.storage.get_file_list(bucket)[0])

    def read(self, bucket: str, name: str) -> bytes:
        return self.storage.get_file(bucket, name)

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Do what another writer does, who sets no precondition."""
        storage_gs.client().bucket(bucket).blob(name).upload_from_string(content)

    def remove(self, bucket: str, name: str) -> None:
        self.storage.delete_file(bucket, name)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}"}

    def generation(self, bucket: str, name: str) -> str:
        """Return the generation of an object, ``0`` if there is none."""
        try:
            return self.storage.get_file_obj(bucket, name)["generation"]
        except NotFound:
            return "0"

    def damage(self, bucket: str, name: str, content: bytes) -> None:
        """Replace what is sent, not what the bucket says of it."""
        facts = self.storage.get_file_obj(bucket, name)
        self.storage.create_file(bucket, name, content, facts)


class _Handler(RequestHandler):
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged

    def __init__(self, emulator: Emulator, *args: object) -> None:
        self.emulator = emulator
        super().__init__(emulator.storage, *args)

    def do_GET(self) -> None:  # noqa: N802
        bucket, name, query = self._asked()
        kind = "download" if query.get("alt") == "media" else "facts" if name else "list"
        fault = self._fault(kind, name or query.get("prefix", ""), self.headers.get("Range", ""))
        self._send(self._answer(super().do_GET, fault, self._refusal(bucket, name, query)), fault)

    def do_DELETE(self) -> None:  # noqa: N802
        bucket, name, query = self._asked()
        fault = self._fault("delete", name)
        with self.emulator.lock:
            answer = self._answer(super().do_DELETE, fault, self._refusal(bucket, name, query))
        self._send(answer, fault)

    def do_POST(self) -> None:  # noqa: N802
        """Take a simple upload, or begin a resumable one."""
        bucket, _, query = self._asked()
        simple = query["uploadType"] == "multipart"
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(min(size, 4096))
        name = query.get("name") or _name_in(body)
        fault = self._fault("upload" if simple else "session", name)
        body += self.rfile.read(max(taken(fault, size) - len(body), 0))
        if isinstance(fault, Cut):
            self._hang_up()
            return
        if isinstance(fault, Damaged):
            body = changed(body, body.rindex(b"\r\n--") - 1)
        with self.emulator.lock:
            refusal = self._unmet(bucket, name, query)
            answer = self._answer(super().do_POST, fault, refusal, body)
            if simple and _is_ok(answer):
                self.emulator.uploads.append(name)
        self._send(answer, fault)

    def do_PUT(self) -> None:  # noqa: N802
        """Take a chunk of a resumable upload."""
        bucket, _, query = self._asked()
        session = query["upload_id"]
        name = self.emulator.made.get(session) or self.storage.resumable[session]["name"]
        span = self.headers["Content-Range"]
        fault = self._fault("chunk", name, span)
        start, end, total = map(int, re.findall(r"\d+", span))
        body = self.rfile.read(taken(fault, end + 1 - start))
        if isinstance(fault, Damaged):
            body = changed(body, len(body) - 1)
        with self.emulator.lock:
            if session in self.emulator.made:
                made = self.storage.get_file_obj(bucket, name)
                answer = _answer_of(200, json.dumps(made).encode())
            else:
                body = body[self.storage.get_resumable_byte_count(session) - start :]
                if isinstance(fault, Cut):
                    kept = len(body) // KEPT * KEPT
                    self.storage.add_to_resumable_upload(session, body[:kept])
                    self._hang_up()
                    return
                last = end + 1 == total
                refusal = self._unmet(bucket, name, query) if last else 0
                self._expect(session, body, end, total)
                answer = self._answer(super().do_PUT, fault, refusal, body)
                if last and _is_ok(answer):
                    self.emulator.made[session] = name
                    self.emulator.uploads.append(name)
        self._send(answer, fault)

    def _expect(self, session: str, body: bytes, end: int, total: int) -> None:
        """Say to the emulator which bytes come, and their CRC32C."""
        span = f"bytes {end + 1 - len(body)}-{end}/{total}"
        self.headers.replace_header("Content-Range", span)
        if sent := re.fullmatch("crc32c=(.+)", self.headers.get("x-goog-hash", "")):
            self.storage.resumable[session]["crc32c"] = sent[1]

    def _asked(self) -> tuple[str, str, dict[str, str]]:
        """Return bucket and object of the path, and the query."""
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.partition("/b/")[2].partition("/o")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return unquote(bucket), unquote(name.removeprefix("/")), query

    def _fault(self, kind: str, name: str, span: str = "") -> Fault:
        self.emulator.requests.append((kind, name, span))
        return self.emulator.fault(kind, name)

    def _refusal(self, bucket: str, name: str, query: dict[str, str]) -> int:
        """Return the status a request for an object that is there is refused with, or 0."""
        live = self.emulator.generation(bucket, name)
        if live == "0":
            return 0
        gone = query.get("generation", live) != live
        return 404 if gone else self._unmet(bucket, name, query)

    def _unmet(self, bucket: str, name: str, query: dict[str, str]) -> int:
        live = self.emulator.generation(bucket, name)
        return 412 if query.get("ifGenerationMatch", live) != live else 0

    def _answer(
        self, handle: Callable[[], None], fault: Fault, refusal: int, body: bytes = b""
    ) -> bytes:
        """Return what is to be sent: a refusal, or what the emulator answers."""
        status = fault if isinstance(fault, int) else refusal
        if status:
            text = json.dumps({"error": {"code": status, "message": "refused"}})
            return _answer_of(status, text.encode())
        if body:
            self.headers.replace_header("Content-Length", str(len(body)))
        connection = self.rfile, self.wfile
        self.rfile, self.wfile = io.BytesIO(body), io.BytesIO()
        try:
            with self.emulator.lock:
                handle()
            return self.wfile.getvalue()
        finally:
            self.rfile, self.wfile = connection

    def _send(self, answer: bytes, fault: Fault) -> None:
        time.sleep(self.emulator.latency)
        if isinstance(fault, Lost):
            self._hang_up()
            return
        head, mark, body = answer.partition(b"\r\n\r\n")
        if self.command == "GET" and isinstance(fault, Damaged):
            body = changed(body, len(body) - 1)
        # A client that was killed hangs up.
        with suppress(ConnectionError):
            self.wfile.write(head + mark)
            self._send_body(body[: taken(fault, len(body))])
        if isinstance(fault, Cut):
            self._hang_up()

    def _send_body(self, body: bytes) -> None:
        rate = self.emulator.rate
        if not rate:
            self.wfile.write(body)
            return
        begun, bit = time.monotonic(), 2**16
        for start in range(0, len(body), bit):
            self.wfile.write(body[start : start + bit])
            time.sleep(max(begun + (start + bit) / rate - time.monotonic(), 0))

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _answer_of(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.0 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _is_ok(answer: bytes) -> bool:
    return answer.split(b" ", 2)[1] == b"200"


def _name_in(body: bytes) -> str:
    """Return the object's name in the JSON that an upload begins with."""
    start = body.index(b"{")
    return json.JSONDecoder().raw_decode(body[start:].decode(errors="replace"))[0]["name"]


class _Server(ThreadingHTTPServer):
    # Of several connections at once, the default of 5 makes some wait for a second.
    request_queue_size = 64


@contextmanager
def emulating() -> Iterator[Emulator]:
    """Run an emulator; its port is filled in."""
    emulator = Emulator()
    server = _Server(("127.0.0.1", 0), partial(_Handler, emulator))
    emulator.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield emulator
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
