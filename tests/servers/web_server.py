"""A web server for tests that sends one file as it is told to: cut, changed, or lied about."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What is served, how, and what was asked for."""

    content: bytes
    etag: str = '"one"'
    last_modified: str = ""
    cuts: list[int] = field(default_factory=list)
    """For each coming request: bytes of the body to send before the connection is cut."""
    statuses: list[int] = field(default_factory=list)
    """For each coming request: a status to answer with instead of the file."""
    ranges: bool = True
    if_range: bool = True
    """Whether If-Range is honoured; a bad server sends the rest of whatever file it has now."""
    if_none_match: bool = True
    announced: int | None = None
    chunked: bool = False
    encoding: str = ""
    says_size: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    web: Web
    disable_nagle_algorithm = True  # or each body waits 40 ms for its head to be acknowledged

    def do_GET(self) -> None:
        web = self.web
        web.requests.append({key.lower(): value for key, value in self.headers.items()})
        if web.statuses:
            status = web.statuses.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            return
        if web.if_none_match and self.headers.get("If-None-Match") == web.etag:
            self.send_response(304)
            self.send_header("ETag", web.etag)
            self.end_headers()
            return
        start = self._start()
        if start is not None and start >= len(web.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(web.content)}")
            self.send_header("ETag", web.etag)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        # A client that refuses the head of the answer hangs up.
        with suppress(ConnectionError):
            self._send(start)

    def _start(self) -> int | None:
        web = self.web
        asked, same = self.headers.get("Range"), self.headers.get("If-Range")
        if not asked or not web.ranges:
            return None
        if web.if_range and same not in (None, web.etag, web.last_modified):
            return None
        return int(asked.removeprefix("bytes=").partition("-")[0])

    def _end(self) -> int:
        last = self.headers.get("Range", "").partition("-")[2]
        return min(int(last) + 1, len(self.web.content)) if last else len(self.web.content)

    def _send(self, start: int | None) -> None:
        web = self.web
        body = web.content if start is None else web.content[start : self._end()]
        self.send_response(200 if start is None else 206)
        if start is not None:
            total = len(web.content)
            self.send_header("Content-Range", f"bytes {start}-{self._end() - 1}/{total}")
        if web.etag:
            self.send_header("ETag", web.etag)
        if web.last_modified:
            self.send_header("Last-Modified", web.last_modified)
        if web.encoding:
            self.send_header("Content-Encoding", web.encoding)
        if web.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif web.says_size:
            self.send_header("Content-Length", str(web.announced or len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if web.cuts:
            body = body[: web.cuts.pop(0)]
            self.wfile.write(b"%x\r\n" % (len(body) + 1) if web.chunked else b"")
            self.wfile.write(body)
        elif web.chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(web: Web, path: str = "/data/cells.h5ad") -> Iterator[Web]:
    """Serve ``web``; its ``url`` is filled in."""
    handler = type("Handler", (_Handler,), {"web": web, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}{path}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
