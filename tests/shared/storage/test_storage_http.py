"""Downloads from a real local web server that cuts, changes and lies."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from components.shared.storage import http as storage_http
from components.shared.storage import retries
from components.shared.storage.files import fetch, fetch_folder
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.servers.web_server import Web, serving

CONTENT = bytes(range(256)) * 4096
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_http, "FIRST_WAIT", 0.01)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(CONTENT)) as web:
        yield web


def only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_file_is_downloaded_whole(web: Web, tmp_path: Path) -> None:
    path = fetch(web.url, tmp_path)
    assert path == tmp_path / "cells.h5ad"
    assert path.read_bytes() == CONTENT
    assert only(tmp_path, "cells.h5ad", "cells.h5ad.part.json")


def test_an_empty_file_is_downloaded(web: Web, tmp_path: Path) -> None:
    web.content = b""
    assert fetch(web.url, tmp_path).read_bytes() == b""


def test_a_cut_connection_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.cuts = [300_000, 400_000]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert [request.get("range") for request in web.requests] == [
        None,
        "bytes=300000-",
        "bytes=700000-",
    ]
    assert web.requests[1]["if-range"] == '"one"'


def test_tries_that_bring_something_new_are_not_counted(web: Web, tmp_path: Path) -> None:
    web.cuts = [1000] * (3 * storage_http.TRIES)
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT


def test_without_an_etag_last_modified_validates(web: Web, tmp_path: Path) -> None:
    web.etag, web.last_modified = "", "Mon, 01 Jan 2024 00:00:00 GMT"
    web.cuts = [300_000]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert web.requests[1]["if-range"] == web.last_modified


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_strong_validator_it_starts_again(web: Web, etag: str, tmp_path: Path) -> None:
    web.etag = etag
    web.cuts = [300_000]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert "range" not in web.requests[1]


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_midway_is_never_mixed(
    web: Web, if_range: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.cuts, web.if_range = [300_000], if_range

    def change(_: float) -> None:
        web.content, web.etag = OTHER, '"two"'

    monkeypatch.setattr(retries.time, "sleep", change)
    assert fetch(web.url, tmp_path).read_bytes() == OTHER


def test_a_server_without_ranges_starts_again(web: Web, tmp_path: Path) -> None:
    web.ranges, web.cuts = False, [300_000]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT


def test_a_file_that_shrank_below_the_part_starts_again(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.cuts = [300_000]

    def shrink(_: float) -> None:
        web.content = CONTENT[:1000]

    monkeypatch.setattr(retries.time, "sleep", shrink)
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT[:1000]


def test_tries_are_bounded_and_a_later_call_goes_on(web: Web, tmp_path: Path) -> None:
    web.cuts = [300_000] + [0] * storage_http.TRIES
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert "300000 bytes are kept" in one_line(error)
    assert not (tmp_path / "cells.h5ad").exists()
    asked = len(web.requests)
    assert asked == storage_http.TRIES
    web.cuts = []
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert web.requests[asked]["range"] == "bytes=300000-"


def test_a_killed_download_goes_on_in_the_next_process(web: Web, tmp_path: Path) -> None:
    web.cuts = [300_000] + [0] * 100
    code = (
        "import sys; from pathlib import Path; from components.shared.storage.files import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, web.url, str(tmp_path)])
    while len(web.requests) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "cells.h5ad.part").stat().st_size == 300_000
    assert not (tmp_path / "cells.h5ad").exists()
    web.cuts = []
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert web.requests[-1]["range"] == "bytes=300000-"


def test_the_part_of_another_url_is_not_gone_on_with(web: Web, tmp_path: Path) -> None:
    web.cuts = [300_000] + [0] * storage_http.TRIES
    with pytest.raises(InputError):
        fetch(web.url, tmp_path)
    with serving(Web(OTHER)) as another:
        assert fetch(another.url, tmp_path).read_bytes() == OTHER
        assert "range" not in another.requests[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_tried_again(web: Web, status: int, tmp_path: Path) -> None:
    web.statuses = [status, status]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_in_one_line_at_once(web: Web, status: int, tmp_path: Path) -> None:
    web.statuses = [status] * 10
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert f"HTTP {status}" in one_line(error)
    assert len(web.requests) == 1
    assert not (tmp_path / "cells.h5ad").exists()


def test_a_server_that_announces_more_than_it_sends_is_refused(web: Web, tmp_path: Path) -> None:
    web.announced, web.ranges = len(CONTENT) + 5, False
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert f"after {storage_http.TRIES} tries" in one_line(error)
    assert not (tmp_path / "cells.h5ad").exists()


def test_a_chunked_answer_without_a_size_is_whole_or_refused(web: Web, tmp_path: Path) -> None:
    web.chunked = True
    web.cuts = [300_000]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT


def test_a_server_that_says_no_size_at_all_is_refused(web: Web, tmp_path: Path) -> None:
    web.says_size = False
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert "does not say the size" in one_line(error)


def test_a_server_that_compresses_unasked_is_refused(web: Web, tmp_path: Path) -> None:
    web.encoding = "gzip"
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert "compresses" in one_line(error)


def test_a_refused_connection_is_told_in_one_line_without_secrets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(InputError) as error:
        fetch(f"http://me:password@127.0.0.1:{port}/cells.h5ad?signature=secret", tmp_path)
    assert "connection refused" in one_line(error)
    said = "".join(capfd.readouterr()) + str(error.value)
    assert "secret" not in said and "password" not in said


def test_a_signature_is_neither_printed_nor_stored(
    web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    web.cuts = [300_000] + [0] * storage_http.TRIES
    with pytest.raises(InputError) as error:
        fetch(f"{web.url}?signature=secret", tmp_path)
    stored = (tmp_path / "cells.h5ad.part.json").read_text()
    assert "secret" not in "".join(capfd.readouterr()) + str(error.value) + stored


def test_a_wrong_sha256_leaves_no_file(web: Web, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(f"{web.url}#sha256={'0' * 64}", tmp_path)
    assert "sha256 is" in one_line(error)
    assert only(tmp_path)


def test_a_file_of_the_right_sha256_is_not_downloaded_again(web: Web, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch(f"{web.url}#sha256={digest}", tmp_path)
    fetch(f"{web.url}#sha256={digest}", tmp_path)
    assert len(web.requests) == 1


def test_a_file_whose_etag_is_the_same_is_not_downloaded_again(web: Web, tmp_path: Path) -> None:
    fetch(web.url, tmp_path)
    web.content = OTHER  # would come, if anything did
    web.statuses = [503]
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT
    assert web.requests[-1]["if-none-match"] == '"one"'


@pytest.mark.parametrize("if_none_match", [True, False])
def test_a_file_that_changed_since_is_downloaded_again(
    web: Web, if_none_match: bool, tmp_path: Path
) -> None:
    fetch(web.url, tmp_path)
    web.content, web.etag, web.if_none_match = OTHER, '"two"', if_none_match
    web.cuts = [300_000]
    assert fetch(web.url, tmp_path).read_bytes() == OTHER
    assert web.requests[-1]["range"] == "bytes=300000-"


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_a_file_without_a_strong_etag_is_downloaded_again(
    web: Web, etag: str, tmp_path: Path
) -> None:
    web.etag, web.last_modified = etag, "Mon, 01 Jan 2024 00:00:00 GMT"
    fetch(web.url, tmp_path)
    assert only(tmp_path, "cells.h5ad")
    web.content = OTHER
    assert fetch(web.url, tmp_path).read_bytes() == OTHER


def test_a_file_of_another_url_is_replaced(web: Web, tmp_path: Path) -> None:
    fetch(f"{web.url}?version=1", tmp_path)
    web.content = OTHER
    assert fetch(f"{web.url}?version=2", tmp_path).read_bytes() == OTHER


@pytest.mark.parametrize("statuses", [[404], [503] * storage_http.TRIES])
def test_a_download_of_which_nothing_came_leaves_nothing(
    web: Web, statuses: list[int], tmp_path: Path
) -> None:
    web.statuses = statuses
    with pytest.raises(InputError) as error:
        fetch(web.url, tmp_path)
    assert "kept" not in one_line(error)
    assert only(tmp_path)


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(web: Web, tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(b"earlier")
    web.statuses = [404]
    with pytest.raises(InputError):
        fetch(web.url, tmp_path)
    assert (tmp_path / "cells.h5ad").read_bytes() == b"earlier"
    assert fetch(web.url, tmp_path).read_bytes() == CONTENT


def test_the_files_of_a_folder_keep_the_query_of_its_url(tmp_path: Path) -> None:
    with serving(Web(b"{}"), path="/checkpoint/?key=1") as web:
        folder = fetch_folder(web.url, tmp_path, ["args.json", "vocab.json"])
    assert (folder / "args.json").read_bytes() == (folder / "vocab.json").read_bytes() == b"{}"


def test_a_big_download_shows_its_progress(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("components.shared.storage.downloads.BIG", 1000)
    fetch(web.url, tmp_path)
    said = capfd.readouterr().err
    assert "downloading cells.h5ad" in said and "100%" in said
    assert f"({len(CONTENT)} bytes)" in said


def test_a_kept_connection_that_the_server_has_closed_is_opened_anew() -> None:
    answer = b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\nx"
    connections = []

    def head(lines: BinaryIO) -> bool:
        return any(line == b"\r\n" for line in iter(lines.readline, b""))

    def serve() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            connections.append(connection)
            with connection, connection.makefile("rb") as lines:
                if head(lines):
                    connection.sendall(answer)
                if len(connections) == 1:
                    head(lines)  # the next request, which gets no answer

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        size, piece = storage_http.in_part(f"http://127.0.0.1:{server.getsockname()[1]}/cells.h5ad")
        assert (size, piece(0, 1)) == (10, b"x")
        thread.join(10)
    assert len(connections) == 2
