"""Objects of a bucket, by the real client against an emulator of Cloud Storage."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from threading import Barrier

import anndata
import numpy as np
import pandas as pd
import pytest

from components.ingest.generator import write_raw
from components.ingest.ingest import ingest
from components.shared.storage import chunks
from components.shared.storage import downloads as shared
from components.shared.storage import gs as storage_gs
from components.shared.storage.files import fetch, fetch_folder
from components.shared.storage.objects import Stored
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.servers.bucket_server import Emulator, emulating
from tests.servers.faults import Cut, Damaged, Fault, Lost, closed_port

URI = "gs://screens/cells.h5ad"
CHUNK = 2**16
CONTENT = os.urandom(8 * CHUNK - 17)
OTHER = CONTENT[::-1]
BIG = os.urandom(9 * 2**20 + 5)
"""More than the client sends in one request."""
PASSING = [429, 500, 503]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    retry = storage_gs.RETRY.with_delay(initial=0.01, maximum=0.02).with_timeout(5.0)
    monkeypatch.setattr(storage_gs, "RETRY", retry)
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(storage_gs, "UPLOAD_CHUNK", 2**21)


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulating() as emulator:
        emulator.bucket("screens")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator.port}")
        yield emulator


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_gs, "RETRY", storage_gs.RETRY.with_timeout(0.2))


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def put(path: Path, content: bytes, name: str) -> Stored | None:
    path.write_bytes(content)
    with storage_gs.errors(f"gs://screens/{name}"):
        return storage_gs.Bucket("screens").upload(path, name)


def replace(content: bytes) -> None:
    """Do what another writer does, who sets no precondition."""
    storage_gs.client().bucket("screens").blob("cells.h5ad").upload_from_string(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# downloads


def test_an_object_is_downloaded_in_chunks_and_whole(gs: Emulator, downloads: Path) -> None:
    storage_gs.client().bucket("screens").blob("a b/cells.h5ad").upload_from_string(CONTENT)
    path = fetch("gs://screens/a b/cells.h5ad", downloads)
    assert path == downloads / "cells.h5ad"
    assert path.read_bytes() == CONTENT
    assert names(downloads) == ["cells.h5ad"]
    starts = sorted(int(span.split("=")[1].split("-")[0]) for span in gs.ranges())
    assert starts == list(range(0, len(CONTENT), CHUNK))


def test_chunks_come_several_at_a_time(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    # No request is answered before as many as there are workers have come.
    together = Barrier(chunks.WORKERS)
    gs.fail("download", repeat(partial(together.wait, 10.0), chunks.WORKERS))
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert not together.broken


def test_an_empty_object_is_downloaded(gs: Emulator, downloads: Path) -> None:
    replace(b"")
    assert fetch(URI, downloads).read_bytes() == b""


@pytest.mark.parametrize("kind", ["facts", "download"])
@pytest.mark.parametrize("fault", [*PASSING, Cut(0), Cut(1000), Lost()])
def test_a_passing_fault_of_a_download_is_tried_again(
    gs: Emulator, downloads: Path, kind: str, fault: Fault
) -> None:
    replace(CONTENT)
    gs.fail(kind, [fault, None, fault, fault])
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert names(downloads) == ["cells.h5ad"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        *((status, f"HTTP {status}, gave up after 0.2 s") for status in PASSING),
        (Cut(1000), "cannot be reached (ProtocolError), gave up after 0.2 s"),
        (Lost(), "cannot be reached (ConnectionError), gave up after 0.2 s"),
    ],
)
def test_a_fault_for_ever_is_told_after_a_bounded_time_and_a_later_call_goes_on(
    gs: Emulator, downloads: Path, fault: Fault, told: str
) -> None:
    replace(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(fault)))
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert time.monotonic() - begun < 5
    assert one_line(error).startswith(f"{URI}: {told}")
    assert "bytes are kept; run it again to resume" in one_line(error)
    assert names(downloads) == ["cells.h5ad.part", "cells.h5ad.part.json"]
    gs.mend()
    gs.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert len(gs.ranges()) == 8 - 3
    assert names(downloads) == ["cells.h5ad"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["facts", "download"])
def test_a_download_of_which_nothing_came_leaves_nothing(
    gs: Emulator, downloads: Path, kind: str
) -> None:
    replace(CONTENT)
    gs.fail(kind, repeat(503))
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert one_line(error) == f"{URI}: HTTP 503, gave up after 0.2 s"
    assert names(downloads) == []


CLIENT = """
import re, sys
from pathlib import Path
from components.shared.storage import chunks
from components.shared.storage import gs as storage_gs
chunks.CHUNK = int(sys.argv[3])

def peak():
    # Not ru_maxrss, which begins with the memory of the parent.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
chunks.download(sys.argv[1], Path(sys.argv[2]))
print((peak() - before) * 1024)
"""


def another_process(folder: Path, chunk: int) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, URI, str(folder), str(chunk)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_download_goes_on_in_the_next_process(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(503)))
    process = another_process(downloads, CHUNK)
    notes = downloads / "cells.h5ad.part.json"
    while not notes.exists() or notes.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (downloads / "cells.h5ad").exists()
    gs.mend()
    gs.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    # A set, since a last request of the killed process may still come.
    assert len(set(gs.ranges())) == 8 - 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_object(gs: Emulator, downloads: Path) -> None:
    content = os.urandom(2**20) * 64
    replace(content)
    process = another_process(downloads, 2**20)
    grown = int(process.communicate(timeout=60)[0])
    assert (downloads / "cells.h5ad").read_bytes() == content
    assert grown < 32 * 2**20


def test_another_generation_starts_anew(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="kept"):
        fetch(URI, downloads)
    gs.mend()
    replace(OTHER)
    gs.requests.clear()
    assert fetch(URI, downloads).read_bytes() == OTHER
    assert len(gs.ranges()) == 8


def test_the_part_of_another_object_is_not_gone_on_with(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    storage_gs.client().bucket("screens").blob("b/cells.h5ad").upload_from_string(OTHER)
    # Generations are unique only among those of one object.
    generation = gs.generation("screens", "cells.h5ad")
    gs.storage.get_file_obj("screens", "b/cells.h5ad")["generation"] = generation
    gs.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="kept"):
        fetch(URI, downloads)
    gs.mend()
    assert fetch("gs://screens/b/cells.h5ad", downloads).read_bytes() == OTHER


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda notes: b"",
        lambda notes: b"\xff" + notes,
        lambda notes: notes.replace(b'"chunk": 65536', b'"chunk": 32768'),
        lambda notes: notes.rstrip(b"\n"),
        lambda notes: notes + b"many\n",
    ],
    ids=["empty", "no text", "other chunks", "torn", "no number"],
)
def test_notes_that_cannot_be_trusted_start_anew(
    gs: Emulator, downloads: Path, spoilt: object
) -> None:
    replace(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="kept"):
        fetch(URI, downloads)
    gs.mend()
    notes = downloads / "cells.h5ad.part.json"
    notes.write_bytes(spoilt(notes.read_bytes()))
    gs.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert len(gs.ranges()) == 8


def test_notes_that_lie_are_found_out_by_the_checksum(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="kept"):
        fetch(URI, downloads)
    gs.mend()
    with (downloads / "cells.h5ad.part.json").open("a") as notes:
        notes.writelines(f"{start}\n" for start in range(0, len(CONTENT), CHUNK))
    with pytest.raises(InputError, match="CRC32C"):
        fetch(URI, downloads)
    assert names(downloads) == []
    assert fetch(URI, downloads).read_bytes() == CONTENT


def test_an_object_replaced_midway_is_never_mixed(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    gs.fail("download", [None, None, partial(replace, OTHER)])
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert one_line(error) == f"{URI}: was replaced during the transfer; run it again"
    assert names(downloads) == []
    assert fetch(URI, downloads).read_bytes() == OTHER


def test_a_body_damaged_on_its_way_is_refused_and_not_kept(gs: Emulator, downloads: Path) -> None:
    replace(CONTENT)
    gs.fail("download", [None, Damaged()])
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "CRC32C" in one_line(error)
    assert names(downloads) == []


def test_a_damaged_object_is_refused_and_not_left_behind(gs: Emulator, downloads: Path) -> None:
    replace(b"cells")
    gs.damage("screens", "cells.h5ad", b"sells")
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "CRC32C" in one_line(error)
    assert names(downloads) == []


def test_a_wrong_sha256_leaves_no_file(gs: Emulator, downloads: Path) -> None:
    replace(b"cells")
    with pytest.raises(InputError) as error:
        fetch(f"{URI}#sha256={'0' * 64}", downloads)
    assert "sha256 is" in one_line(error)
    assert names(downloads) == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    gs: Emulator, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(CONTENT)
    free = shared.shutil.disk_usage(".")._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "make room there" in one_line(error)
    assert names(downloads) == []


def test_a_big_download_shows_its_progress(
    gs: Emulator,
    downloads: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    replace(CONTENT)
    monkeypatch.setattr(shared, "BIG", 1)
    fetch(URI, downloads)
    assert "downloading cells.h5ad: 100%" in capfd.readouterr().err


def test_a_missing_object_names_the_nearest(gs: Emulator, tmp_path: Path, downloads: Path) -> None:
    put(tmp_path / "x", b"cells", "a/cells.h5ad")
    with pytest.raises(InputError) as error:
        fetch("gs://screens/a/cell.h5ad", downloads)
    assert "no such object, nearest: 'a/cells.h5ad'" in one_line(error)


def test_a_missing_bucket_is_named(gs: Emulator, downloads: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch("gs://nowhere/cells.h5ad", downloads)
    assert "no bucket 'nowhere'" in one_line(error)


@pytest.mark.parametrize("kind", ["facts", "download"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_download_names_the_permissions_at_once(
    gs: Emulator, downloads: Path, kind: str, status: int
) -> None:
    replace(b"cells")
    gs.fail(kind, repeat(status))
    gs.requests.clear()
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "access denied" in one_line(error)
    assert len(gs.ranges(kind)) == 1
    assert names(downloads) == []


def test_a_refusal_stops_the_chunks_that_wait(
    gs: Emulator, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "WORKERS", 1)
    replace(CONTENT)
    gs.fail("download", repeat(403))
    with pytest.raises(InputError):
        fetch(URI, downloads)
    # The one worker may have begun its next chunk meanwhile.
    assert len(gs.ranges()) <= 3


@pytest.mark.parametrize("uri", ["gs:///cells.h5ad", "gs://screens", "gs://screens/a/", "gs://"])
def test_a_uri_that_names_no_object_is_refused(gs: Emulator, uri: str, downloads: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(uri, downloads)
    assert "names no" in one_line(error)


def test_the_files_of_a_prefix_come_into_one_folder(
    gs: Emulator, tmp_path: Path, downloads: Path
) -> None:
    for name in ("args.json", "vocab.json"):
        put(tmp_path / "x", name.encode(), f"scgpt/{name}")
    folder = fetch_folder("gs://screens/scgpt/", downloads, ["args.json", "vocab.json"])
    assert (folder / "vocab.json").read_text() == "vocab.json"


@pytest.mark.usefixtures("impatient")
def test_a_bucket_that_cannot_be_reached_is_told_in_one_line(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "connection refused" in one_line(error)


def test_credentials_that_are_set_but_broken_are_not_passed_over(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(downloads / "none.json"))
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in one_line(error)


def test_cells_from_a_bucket_are_those_of_the_file(gs: Emulator, tmp_path: Path) -> None:
    local = tmp_path / "screen.h5ad"
    write_raw("sim://screen?cells=300&genes=60&perturbations=5", local)
    put(tmp_path / "x", local.read_bytes(), "raw/screen.h5ad")
    gs.fail("download", [503, Cut(1000)])
    ingest(str(local), tmp_path / "from-file")
    ingest("gs://screens/raw/screen.h5ad", tmp_path / "from-bucket")
    assert len(gs.ranges()) > 3
    one, two = (
        anndata.read_h5ad(tmp_path / folder / "cells.h5ad")
        for folder in ("from-file", "from-bucket")
    )
    assert one.n_obs == 300
    np.testing.assert_array_equal(one.X.toarray(), two.X.toarray())
    pd.testing.assert_frame_equal(one.obs, two.obs)
    pd.testing.assert_frame_equal(one.var, two.var)
    assert one.uns["source_sha256"] == two.uns["source_sha256"]
    assert two.uns["source"] == "gs://screens/raw/screen.h5ad"


# uploads


SIMPLE = [("upload", CONTENT)]
RESUMABLE = [("session", BIG), ("chunk", BIG)]


@pytest.mark.parametrize(("kind", "content"), SIMPLE + RESUMABLE)
@pytest.mark.parametrize("fault", [*PASSING, Cut(0), Cut(300_000), Lost()])
def test_a_passing_fault_of_an_upload_is_tried_again(
    gs: Emulator, tmp_path: Path, kind: str, content: bytes, fault: Fault
) -> None:
    gs.fail(kind, [fault, None, fault, fault])
    blob = put(tmp_path / "x", content, "cells.h5ad")
    assert blob is not None
    assert gs.read("screens", "cells.h5ad") == content
    assert gs.uploads == ["cells.h5ad"]


@pytest.mark.parametrize("fault", [503, Cut(0), Cut(10**9), Lost()])
def test_a_fault_of_the_last_chunk_is_mended(gs: Emulator, tmp_path: Path, fault: Fault) -> None:
    gs.fail("chunk", [None] * 4 + [fault])
    assert put(tmp_path / "x", BIG, "cells.h5ad") is not None
    assert gs.read("screens", "cells.h5ad") == BIG
    # Each chunk went once, the last one twice: no fault makes it begin again.
    assert len(gs.ranges("chunk")) == 6


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("kind", "content"), SIMPLE + RESUMABLE)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        *((status, f"HTTP {status}, gave up after 0.2 s") for status in PASSING),
        (Cut(0), "cannot be reached ("),
    ],
)
def test_an_upload_that_fails_for_ever_is_told_and_leaves_nothing(
    gs: Emulator, tmp_path: Path, kind: str, content: bytes, fault: Fault, told: str
) -> None:
    gs.fail(kind, chain([None] * (kind == "chunk"), repeat(fault)))
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content, "cells.h5ad")
    assert time.monotonic() - begun < 5
    assert one_line(error).startswith(f"{URI}: {told}")
    assert gs.names("screens") == []


@pytest.mark.parametrize(("kind", "content"), SIMPLE + RESUMABLE)
@pytest.mark.parametrize(("status", "told"), [(403, "access denied"), (404, "no bucket 'screens'")])
def test_an_upload_that_is_refused_is_not_tried_again(
    gs: Emulator, tmp_path: Path, kind: str, content: bytes, status: int, told: str
) -> None:
    gs.fail(kind, repeat(status))
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content, "cells.h5ad")
    assert told in one_line(error)
    assert len(gs.ranges(kind)) == 1
    assert gs.names("screens") == []


@pytest.mark.parametrize("content", [CONTENT, BIG], ids=["simple", "resumable"])
def test_a_bucket_that_is_not_there_takes_no_upload(
    gs: Emulator, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError) as error, storage_gs.errors("gs://nowhere/cells.h5ad"):
        storage_gs.Bucket("nowhere").upload(tmp_path / "x", "cells.h5ad")
    assert "no bucket 'nowhere'" in one_line(error)


@pytest.mark.parametrize(("kind", "content"), [("upload", CONTENT), ("chunk", BIG)])
def test_an_upload_damaged_on_its_way_is_refused(
    gs: Emulator, tmp_path: Path, kind: str, content: bytes
) -> None:
    gs.fail(kind, [Damaged()])
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content, "cells.h5ad")
    assert "CRC32C does not match" in one_line(error)
    assert gs.names("screens") == []


def test_an_upload_that_arrives_damaged_is_deleted(
    gs: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_gs, "crc32c_of", lambda path: "AAAAAA==")
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", b"cells", "cells.h5ad")
    assert "CRC32C" in one_line(error)
    assert gs.names("screens") == []


@pytest.mark.parametrize("content", [b"cells", BIG], ids=["simple", "resumable"])
def test_an_upload_never_replaces_another_content(
    gs: Emulator, tmp_path: Path, content: bytes
) -> None:
    replace(b"other")
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content, "cells.h5ad")
    assert "exists already" in one_line(error)
    assert gs.read("screens", "cells.h5ad") == b"other"


def test_an_object_that_comes_to_be_during_an_upload_is_not_replaced(
    gs: Emulator, tmp_path: Path
) -> None:
    gs.fail("chunk", [None, partial(replace, b"other")])
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", BIG, "cells.h5ad")
    assert "exists already" in one_line(error)
    assert gs.read("screens", "cells.h5ad") == b"other"


def test_an_upload_of_the_same_content_is_taken_as_done(gs: Emulator, tmp_path: Path) -> None:
    put(tmp_path / "x", b"cells", "cells.h5ad")
    assert put(tmp_path / "x", b"cells", "cells.h5ad") is None
    assert gs.uploads == ["cells.h5ad"]


def test_a_delete_spares_what_was_put_there_meanwhile(gs: Emulator, tmp_path: Path) -> None:
    blob = put(tmp_path / "x", b"cells", "cells.h5ad")
    assert blob is not None
    replace(b"other")
    storage_gs.Bucket("screens").delete(blob)
    assert gs.read("screens", "cells.h5ad") == b"other"


@pytest.mark.parametrize("fault", [503, Lost()])
def test_a_passing_fault_of_a_delete_is_tried_again(
    gs: Emulator, tmp_path: Path, fault: Fault
) -> None:
    blob = put(tmp_path / "x", b"cells", "cells.h5ad")
    assert blob is not None
    gs.fail("delete", [fault])
    storage_gs.Bucket("screens").delete(blob)
    assert gs.names("screens") == []
