"""Downloads outlast their process: kept when cut or when their use failed, removed when used."""

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.finetune.start import start_model
from components.ingest.generator import write_raw
from components.ingest.ingest import ingest
from components.prior.prior import prior
from components.shared.artifacts.artifact import CELLS, GENE_PRIOR, opening
from components.shared.model import model as scgpt_model
from components.shared.parameters.recipe import load_recipe
from components.shared.storage import chunks, scratch
from components.shared.storage import gs as storage_gs
from components.shared.storage.files import fetched, fetched_folder
from components.shared.storage.scratch import folder_for, scratch_for
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.publish.publish_run import ARGS, VOCAB
from tests.servers.bucket_server import Emulator, emulating
from tests.servers.hub_server import COMMIT, run_with_hub, serving_hub
from tests.servers.web_server import Web, serving

URI = "gs://screens/cells.h5ad"
CHUNK = 2**16
CONTENT = os.urandom(8 * CHUNK - 17)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, here and in processes that are started."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def gs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    retry = storage_gs.RETRY.with_delay(initial=0.01, maximum=0.02).with_timeout(5.0)
    monkeypatch.setattr(storage_gs, "RETRY", retry)
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    with emulating() as emulator:
        emulator.bucket("screens")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator.port}")
        yield emulator


def put(content: bytes, name: str = "cells.h5ad") -> None:
    storage_gs.client().bucket("screens").blob(name).upload_from_string(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def use(uri: str, *, fail: bool = False) -> bytes:
    with fetched(uri) as path:
        if fail:
            raise InputError("no such column")
        return path.read_bytes()


# a download that was cut


INGEST = """
import sys
from components.ingest.ingest import ingest
from components.shared.storage import chunks
chunks.CHUNK = int(sys.argv[3])
ingest(sys.argv[1], sys.argv[2])
"""


def test_an_ingest_that_was_killed_while_it_downloads_goes_on_in_the_next_run(
    gs: Emulator, kept: Path, tmp_path: Path
) -> None:
    write_raw("sim://screen?cells=3000&genes=300&perturbations=5", tmp_path / "screen.h5ad")
    put((tmp_path / "screen.h5ad").read_bytes())
    chunks = -(-(tmp_path / "screen.h5ad").stat().st_size // CHUNK)
    assert chunks > 8
    gs.fail("download", chain([None] * 3, repeat(503)))
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, URI, str(tmp_path / "out"), str(CHUNK)],
        stderr=subprocess.DEVNULL,
    )
    notes = folder_for(URI) / "cells.h5ad.part.json"
    while not notes.exists() or notes.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gs.mend()
    gs.requests.clear()
    ingest(URI, tmp_path / "out")
    # A set, since a last request of the killed process may still come.
    assert len(set(gs.ranges())) == chunks - 3
    assert opening(tmp_path / "out", CELLS).summary["cells"] == 3000
    assert names(kept) == []


def test_a_download_that_was_given_up_goes_on_in_the_next_run(
    gs: Emulator, kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(CONTENT)
    gs.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="bytes are kept; run it again to resume"):
        use(URI)
    assert f"kept in {folder_for(URI)}" in capfd.readouterr().err
    gs.mend()
    gs.requests.clear()
    assert use(URI) == CONTENT
    assert len(gs.ranges()) == 8 - 3
    assert names(kept) == []


@pytest.mark.parametrize(
    "uri", ["gs://screens/none.h5ad", "http://127.0.0.1:1/none.h5ad", "ftp://host/none.h5ad"]
)
@pytest.mark.usefixtures("gs")
def test_a_download_of_which_nothing_came_leaves_no_folder(
    uri: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.shared.storage.http.FIRST_WAIT", 0.01)
    with pytest.raises(InputError):
        use(uri)
    assert names(kept) == []


# a download whose use failed


def test_an_object_whose_use_failed_is_not_downloaded_again(gs: Emulator, kept: Path) -> None:
    put(CONTENT)
    with pytest.raises(InputError, match="no such column"):
        use(URI, fail=True)
    assert names(kept) == [folder_for(URI).name]
    gs.requests.clear()
    assert use(URI) == CONTENT
    assert gs.ranges() == []
    assert names(kept) == []


def test_an_object_that_was_replaced_since_is_downloaded_again(gs: Emulator, kept: Path) -> None:
    put(CONTENT)
    with pytest.raises(InputError):
        use(URI, fail=True)
    put(CONTENT[::-1])
    assert use(URI) == CONTENT[::-1]
    assert names(kept) == []


def test_an_object_that_was_damaged_on_this_disk_is_downloaded_again(
    gs: Emulator, kept: Path
) -> None:
    put(CONTENT)
    with pytest.raises(InputError):
        use(URI, fail=True)
    (folder_for(URI) / "cells.h5ad").write_bytes(CONTENT[::-1])
    assert use(URI) == CONTENT


def test_a_file_of_a_web_server_is_not_downloaded_again_while_its_etag_is_the_same(
    kept: Path,
) -> None:
    with serving(Web(CONTENT)) as web:
        with pytest.raises(InputError):
            use(web.url, fail=True)
        assert use(web.url) == CONTENT
        assert [request.get("if-none-match") for request in web.requests] == [None, '"one"']
    assert names(kept) == []


def test_a_wrong_sha256_leaves_no_folder(kept: Path) -> None:
    with serving(Web(CONTENT)) as web, pytest.raises(InputError, match="sha256 is"):
        use(f"{web.url}#sha256={'0' * 64}")
    assert names(kept) == []


HUB = """
import sys
from components.shared.telling.errors import InputError
from components.shared.storage.files import fetched
with fetched(sys.argv[1]) as path:
    if sys.argv[2] == "fail":
        raise InputError("no such column")
    print(path.read_bytes().decode())
"""


def test_a_file_of_the_hub_is_not_downloaded_again(kept: Path, tmp_path: Path) -> None:
    uri = "hf://datasets/lab/screen/sub/cells.h5ad"
    with serving_hub() as hub:
        hub.files = {"datasets/lab/screen/sub/cells.h5ad": b"cells of lab"}
        run = partial(run_with_hub, HUB, uri, url=hub.url, home=tmp_path / "home")
        assert "no such column" in run("fail").stderr
        # What a client that was killed leaves is never resumed.
        stale = folder_for(uri) / ".cache/huggingface/download/sub/x.abc.123.incomplete"
        stale.write_bytes(CONTENT)
        assert "no such column" in run("fail").stderr
        assert not stale.exists()
        assert run("use").stdout == "cells of lab\n"
        got = [request for request in hub.requests if request.startswith("GET")]
        assert got == [f"GET /datasets/lab/screen/resolve/{COMMIT}/sub/cells.h5ad"]
    assert names(kept) == []


def test_an_ingest_that_names_a_wrong_column_keeps_its_download_for_the_right_one(
    gs: Emulator, kept: Path, tmp_path: Path
) -> None:
    write_raw("sim://screen?cells=300&genes=60&perturbations=5", tmp_path / "screen.h5ad")
    put((tmp_path / "screen.h5ad").read_bytes())
    with pytest.raises(InputError, match="genes"):
        ingest(URI, tmp_path / "out", perturbation_column="genes")
    gs.requests.clear()
    ingest(URI, tmp_path / "out", perturbation_column="gene")
    assert gs.ranges() == []
    assert names(kept) == []


def test_a_table_that_fits_no_vocabulary_is_kept_for_one_that_it_fits(
    gs: Emulator, kept: Path, tmp_path: Path
) -> None:
    table = pa.table({"gene": ["TP53", "MYC"], "0": np.ones(2), "1": np.ones(2)})
    pq.write_table(table, tmp_path / "table.parquet")
    put((tmp_path / "table.parquet").read_bytes(), "table.parquet")
    put(b'{"G1": 0, "<pad>": 1, "<cls>": 2, "<eoc>": 3}', "other/vocab.json")
    put(b'{"MYC": 0, "<pad>": 1, "<cls>": 2, "<eoc>": 3}', "scgpt/vocab.json")
    with pytest.raises(InputError, match="no gene of the vocabulary has a vector"):
        prior("gs://screens/table.parquet", "gs://screens/other", tmp_path / "out")
    assert names(kept) == [folder_for("gs://screens/table.parquet").name]
    gs.requests.clear()
    prior("gs://screens/table.parquet", "gs://screens/scgpt", tmp_path / "out")
    assert [name for kind, name, _ in gs.requests if kind == "download"] == ["scgpt/vocab.json"]
    assert opening(tmp_path / "out", GENE_PRIOR).summary["covered_genes"] == 1
    assert names(kept) == []


def test_a_checkpoint_that_is_mended_in_the_bucket_is_not_downloaded_anew(
    gs: Emulator, kept: Path
) -> None:
    weights = io.BytesIO()
    torch.save(scgpt_model.export_state(scgpt_model.build(ARGS, VOCAB)), weights)
    put(weights.getvalue(), "scgpt/best_model.pt")
    put(json.dumps(VOCAB).encode(), "scgpt/vocab.json")
    put(json.dumps(ARGS | {"embsize": 32}).encode(), "scgpt/args.json")
    recipe = load_recipe("smoke", {})
    with pytest.raises(InputError):
        start_model("gs://screens/scgpt", recipe)
    put(json.dumps(ARGS).encode(), "scgpt/args.json")
    gs.requests.clear()
    vocabulary = start_model("gs://screens/scgpt", recipe)[2]
    assert vocabulary == VOCAB
    assert [name for kind, name, _ in gs.requests if kind == "download"] == ["scgpt/args.json"]
    assert names(kept) == []


def test_of_a_folder_only_the_files_that_are_missing_are_asked_for(
    gs: Emulator, kept: Path
) -> None:
    files = ("best_model.pt", "vocab.json")
    for name in files:
        put(CONTENT, f"scgpt/{name}")
    gs.fail("download", repeat(403), name="vocab.json")
    with pytest.raises(InputError), fetched_folder("gs://screens/scgpt", files):
        pass
    gs.mend()
    # Another stage that wants another file of the same folder removes nothing of it.
    with fetched_folder("gs://screens/scgpt", ("vocab.json",)):
        pass
    gs.requests.clear()
    with fetched_folder("gs://screens/scgpt", files) as folder:
        assert {name: (folder / name).read_bytes() for name in files} == dict.fromkeys(
            files, CONTENT
        )
    assert {name for kind, name, _ in gs.requests if kind == "download"} == {"scgpt/vocab.json"}
    assert names(kept) == []


def test_a_local_file_is_used_where_it_is(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(CONTENT)
    with fetched(str(tmp_path / "cells.h5ad")) as path:
        assert path == tmp_path / "cells.h5ad"
        assert names(kept) == []
    with fetched_folder(f"file://{tmp_path}", ("cells.h5ad",)) as folder:
        assert folder == tmp_path
    assert (tmp_path / "cells.h5ad").read_bytes() == CONTENT


# two at once


FETCH = """
import sys
from components.shared.storage import chunks
from components.shared.storage.files import fetched
chunks.CHUNK = int(sys.argv[2])
with fetched(sys.argv[1]) as path:
    sys.stdout.buffer.write(path.read_bytes())
"""


def test_two_processes_at_once_do_not_disturb_each_other(
    gs: Emulator, kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(CONTENT)
    go_on = threading.Event()
    gs.fail("download", [None, partial(go_on.wait, 30.0)])
    with subprocess.Popen(
        [sys.executable, "-c", FETCH, URI, str(CHUNK)], stdout=subprocess.PIPE
    ) as process:
        while len(gs.ranges()) < 8:
            assert process.poll() is None
            time.sleep(0.02)
        assert use(URI) == CONTENT
        assert "another process downloads it too" in capfd.readouterr().err
        assert names(kept) == [folder_for(URI).name]
        go_on.set()
        assert process.stdout is not None
        assert process.stdout.read() == CONTENT
    assert process.returncode == 0
    assert names(kept) == []


def test_a_folder_is_never_of_two_at_once(kept: Path) -> None:
    found: list[list[str]] = []

    def come_and_go() -> None:
        for turn in range(100):
            with scratch_for(URI) as folder:
                mine = f"{threading.get_ident()}-{turn}"
                (folder / mine).touch()
                time.sleep(0.0005)
                found.append([name for name in names(folder) if name != mine])

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[]] * 400
    assert names(kept) == []


def test_a_folder_that_another_removes_and_makes_anew_is_not_shared(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = fcntl.flock, ExitStack()

    def flock(lock: int, operation: int) -> None:
        # Between opening the folder and locking it, whoever had it is done, and another comes.
        monkeypatch.setattr(scratch.fcntl, "flock", real)
        folder_for(URI).rmdir()
        other.enter_context(scratch_for(URI))
        real(lock, operation)

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    with other, scratch_for(URI) as folder:
        assert folder != folder_for(URI)
    assert names(kept) == []


def test_a_folder_that_vanishes_before_it_is_locked_is_made_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(lock: int, operation: int) -> None:
        monkeypatch.setattr(scratch.fcntl, "flock", real)
        folder_for(URI).rmdir()
        real(lock, operation)

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    with scratch_for(URI) as folder:
        assert folder == folder_for(URI)
        assert folder.is_dir()


# whose folder it is


def test_a_folder_is_for_its_user_alone(kept: Path) -> None:
    with scratch_for(URI) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_is_refused(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder_for(URI).symlink_to(tmp_path / "elsewhere")
    refused()


def test_a_file_is_refused(kept: Path) -> None:
    folder_for(URI).touch(mode=0o700)
    refused()


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o755])
def test_a_folder_that_others_may_enter_is_refused(kept: Path, mode: int) -> None:
    folder_for(URI).mkdir()
    folder_for(URI).chmod(mode)
    refused()


def test_a_folder_of_somebody_else_is_refused(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_for(URI).mkdir(mode=0o700)
    if os.geteuid():
        monkeypatch.setattr(scratch.os, "geteuid", lambda: os.getuid() + 1)
    else:
        os.chown(folder_for(URI), 12345, 12345)
    refused()


def refused() -> None:
    with pytest.raises(InputError) as error, scratch_for(URI) as folder:
        pytest.fail(f"{folder} was used")
    assert "is not a folder of this user alone; remove it, or set TMPDIR" in one_line(error)
    assert folder_for(URI).lstat()


def test_no_name_holds_a_uri_and_none_depends_on_a_secret(kept: Path) -> None:
    bare = "https://host/cells.h5ad"
    with_secrets = folder_for("https://me:password@host/cells.h5ad?signature=secret#sha256=ab")
    assert re.fullmatch(rf"scgpt-perturb-{os.geteuid()}-[0-9a-f]{{32}}", with_secrets.name)
    assert with_secrets == folder_for("https://you@host/cells.h5ad?signature=other")
    different = [bare, f"{bare}x", URI, f"{URI}#sha256=ab", f"{bare}?query"]
    assert len({folder_for(uri) for uri in different}) == 4
    assert folder_for(URI, ("a", "b")) not in (folder_for(URI), folder_for(URI, ("a",)))


def test_nothing_that_is_said_or_stored_holds_a_secret(
    kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(Web(CONTENT)) as web:
        url = web.url.replace("://", "://me:password@") + "?signature=secret"
        with pytest.raises(InputError):
            use(url, fail=True)
    said = "".join(capfd.readouterr())
    assert "what came is kept in" in said
    stored = [str(path) for path in kept.rglob("*")]
    stored += [path.read_text() for path in kept.rglob("*.json")]
    assert len(stored) == 4
    assert not re.search("secret|password", said + "".join(stored))
