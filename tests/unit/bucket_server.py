"""A Cloud Storage emulator for tests, with the preconditions that it does not know itself."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class Emulator:
    """What the tests see of the emulator: its content, and faults to come."""

    def __init__(self) -> None:
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self.storage = Storage(use_memory_fs=True)
        self.uploads: list[str] = []
        """Names of the objects in the order of their uploads."""
        self.refuse_upload_of = ""
        """Ending of an object's name whose upload is answered with 403."""
        self.port = 0

    def bucket(self, name: str) -> None:
        create_bucket(name, self.storage)

    def names(self, bucket: str) -> list[str]:
        return sorted(item["name"] for item in self.storage.get_file_list(bucket)[0])

    def read(self, bucket: str, name: str) -> bytes:
        return self.storage.get_file(bucket, name)

    def has(self, bucket: str, name: str) -> bool:
        try:
            self.storage.get_file_obj(bucket, name)
        except NotFound:
            return False
        return True

    def damage(self, bucket: str, name: str, content: bytes) -> None:
        """Replace what is sent, not what the bucket says of it."""
        facts = self.storage.get_file_obj(bucket, name)
        self.storage.create_file(bucket, name, content, facts)


class _Handler(RequestHandler):
    def __init__(self, emulator: Emulator, *args: object) -> None:
        self.emulator = emulator
        super().__init__(emulator.storage, *args)

    def do_POST(self) -> None:  # noqa: N802
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path.startswith("/upload/") and "upload_id" not in query:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = query["name"][0] if "name" in query else _name_in(body)
            bucket = unquote(parts.path.split("/b/")[1].split("/")[0])
            if self.emulator.refuse_upload_of and name.endswith(self.emulator.refuse_upload_of):
                self._refuse(403)
                return
            if query.get("ifGenerationMatch") == ["0"] and self.emulator.has(bucket, name):
                self._refuse(412)
                return
            self.emulator.uploads.append(name)
            self.rfile = _Again(body)
        super().do_POST()

    def _refuse(self, status: int) -> None:
        body = json.dumps({"error": {"code": status, "message": "refused"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Again:
    """A body that was read once, to be read by the emulator."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def read(self, size: int) -> bytes:
        return self.body[:size]

    def close(self) -> None:
        pass


def _name_in(body: bytes) -> str:
    """Return the object's name in the JSON part of an upload."""
    start = body.index(b"{")
    return json.JSONDecoder().raw_decode(body[start:].decode(errors="replace"))[0]["name"]


@contextmanager
def emulating() -> Iterator[Emulator]:
    """Run an emulator; its port is filled in."""
    emulator = Emulator()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, emulator))
    emulator.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield emulator
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
