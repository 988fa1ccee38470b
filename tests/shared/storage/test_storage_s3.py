"""Objects of S3, by the real client against moto's server, whose connections break."""

import base64
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
from typing import Any

import anndata
import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import CredentialRetrievalError
from moto.s3.models import get_canned_acl

from components.ingest.generator import write_raw
from components.ingest.ingest import ingest
from components.shared.storage import chunks
from components.shared.storage import s3 as storage_s3
from components.shared.storage.files import fetch, fetch_folder
from components.shared.storage.objects import Stored
from components.shared.storage.s3_digests import CHECKSUMS
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.servers.faults import Cut, Damaged, Fault, Lost, closed_port
from tests.servers.s3_server import BUNDLED_KEYS, KEYS, Store, serving_s3

URI = "s3://screens/cells.h5ad"
CHUNK = 2**16
CONTENT = os.urandom(8 * CHUNK - 17)
OTHER = CONTENT[::-1]
PART = 5 * 2**20
"""The least that S3 takes for a part that is not the last."""
BIG = os.urandom(2 * PART + 5)
"""More than the client sends in one request."""
PASSING = [429, 500, 503]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "RETRY", storage_s3.RETRY.with_delay(0.01, 0.02))
    monkeypatch.setattr(storage_s3, "RETRY", storage_s3.RETRY.with_timeout(20.0))
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(storage_s3, "UPLOAD_PART", PART)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with serving_s3() as store:
        store.bucket("screens")
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "RETRY", storage_s3.RETRY.with_timeout(0.2))


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def put(path: Path, content: bytes, name: str = "cells.h5ad") -> Stored | None:
    path.write_bytes(content)
    with storage_s3.errors(f"s3://screens/{name}"):
        return storage_s3.Bucket("s3", "screens").upload(path, name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# downloads


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_an_object_is_downloaded_in_chunks_and_whole(
    s3: Store, downloads: Path, scheme: str
) -> None:
    s3.put("screens", "a b/cells.h5ad", CONTENT)
    path = fetch(f"{scheme}://screens/a b/cells.h5ad", downloads)
    assert path == downloads / "cells.h5ad"
    assert path.read_bytes() == CONTENT
    assert names(downloads) == ["cells.h5ad"]
    starts = sorted(int(span.split("=")[1].split("-")[0]) for span in s3.ranges())
    assert starts == list(range(0, len(CONTENT), CHUNK))


def test_chunks_come_several_at_a_time(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    # No request is answered before as many as there are workers have come.
    together = Barrier(chunks.WORKERS)
    s3.fail("download", repeat(partial(together.wait, 10.0), chunks.WORKERS))
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert not together.broken


def test_an_empty_object_is_downloaded(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", b"")
    assert fetch(URI, downloads).read_bytes() == b""


@pytest.mark.parametrize("kind", ["facts", "download"])
@pytest.mark.parametrize("fault", [*PASSING, Cut(0), Cut(1000), Lost()])
def test_a_passing_fault_of_a_download_is_tried_again(
    s3: Store, downloads: Path, kind: str, fault: Fault
) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail(kind, [fault, None, fault, fault])
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert names(downloads) == ["cells.h5ad"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        *((status, f"HTTP {status}, gave up after 0.2 s") for status in PASSING),
        (Cut(1000), "cannot be reached (ResponseStreamingError), gave up after 0.2 s"),
        (Lost(), "cannot be reached (ConnectionClosedError), gave up after 0.2 s"),
    ],
)
def test_a_fault_for_ever_is_told_after_a_bounded_time_and_a_later_call_goes_on(
    s3: Store, downloads: Path, fault: Fault, told: str
) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail("download", chain([None] * 3, repeat(fault)))
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert time.monotonic() - begun < 10
    assert one_line(error).startswith(f"{URI}: {told}")
    assert "bytes are kept; run it again to resume" in one_line(error)
    assert names(downloads) == ["cells.h5ad.part", "cells.h5ad.part.json"]
    s3.mend()
    s3.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert len(s3.ranges()) == 8 - 3
    assert names(downloads) == ["cells.h5ad"]


CLIENT = """
import sys
from pathlib import Path
from components.shared.storage import chunks
from components.shared.storage import s3 as storage_s3
chunks.CHUNK = int(sys.argv[3])
chunks.download(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_killed_download_goes_on_in_the_next_process(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail("download", chain([None] * 3, repeat(503)))
    downloads.mkdir()
    process = subprocess.Popen([sys.executable, "-c", CLIENT, URI, str(downloads), str(CHUNK)])
    notes = downloads / "cells.h5ad.part.json"
    while not notes.exists() or notes.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (downloads / "cells.h5ad").exists()
    s3.mend()
    s3.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    # A set, since a last request of the killed process may still come.
    assert len(set(s3.ranges())) == 8 - 3


def test_another_version_starts_anew(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail("download", chain([None] * 3, repeat(403)))
    with pytest.raises(InputError, match="kept"):
        fetch(URI, downloads)
    s3.mend()
    s3.put("screens", "cells.h5ad", OTHER)
    s3.requests.clear()
    assert fetch(URI, downloads).read_bytes() == OTHER
    assert len(s3.ranges()) == 8


def test_an_object_replaced_midway_is_never_mixed(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail("download", [None, None, partial(s3.put, "screens", "cells.h5ad", OTHER)])
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert one_line(error) == f"{URI}: was replaced during the transfer; run it again"
    assert names(downloads) == []
    assert fetch(URI, downloads).read_bytes() == OTHER


def test_a_file_that_is_here_already_is_not_downloaded_again(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    fetch(URI, downloads)
    s3.requests.clear()
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert s3.ranges() == []


def another_client() -> Any:
    """A client as others have it, but for the checksums that it adds by itself."""
    config = Config(request_checksum_calculation="when_required")
    return boto3.client("s3", region_name="us-east-1", config=config)


def put_with(checksum: str) -> None:
    another_client().put_object(
        Bucket="screens", Key="cells.h5ad", Body=CONTENT, ChecksumAlgorithm=checksum
    )


def put_in_parts() -> None:
    client = another_client()
    upload = client.create_multipart_upload(Bucket="screens", Key="cells.h5ad")["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(BIG), PART), 1):
        body = BIG[start : start + PART]
        told = client.upload_part(
            Bucket="screens", Key="cells.h5ad", UploadId=upload, PartNumber=number, Body=body
        )
        parts.append({"PartNumber": number, "ETag": told["ETag"]})
    client.complete_multipart_upload(
        Bucket="screens", Key="cells.h5ad", UploadId=upload, MultipartUpload={"Parts": parts}
    )


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("digest", ["MD5", "MD5 of parts", "sha256", "CRC32C", "SHA1"])
def test_whatever_digest_the_store_keeps_is_checked(
    s3: Store, tmp_path: Path, downloads: Path, digest: str, damaged: bool
) -> None:
    if digest == "MD5":
        s3.put("screens", "cells.h5ad", CONTENT)
    elif digest == "MD5 of parts":
        put_in_parts()
    elif digest == "sha256":
        put(tmp_path / "x", CONTENT)
    else:
        put_with(digest)
    content = s3.read("screens", "cells.h5ad")
    if not damaged:
        assert fetch(URI, downloads).read_bytes() == content
        return
    s3.damage("screens", "cells.h5ad", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert f"{URI}: {digest} of cells.h5ad.part is" in one_line(error)
    assert names(downloads) == []


def test_the_checksums_are_those_of_the_standards(tmp_path: Path) -> None:
    """The check values of the catalogue of parametrised CRC algorithms, for '123456789'."""
    (tmp_path / "x").write_bytes(b"123456789")
    wanted = {"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888"}
    for name, value in wanted.items():
        found = CHECKSUMS[name](tmp_path / "x")
        assert base64.b64decode(found).hex() == value


def test_an_object_without_a_digest_is_taken_with_a_warning(
    s3: Store, downloads: Path, capsys: pytest.CaptureFixture
) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.key("screens", "cells.h5ad")._etag = "opaque"
    assert fetch(URI, downloads).read_bytes() == CONTENT
    assert "keeps no digest of it that can be checked" in capsys.readouterr().err


def test_a_body_damaged_on_its_way_is_refused_and_not_kept(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", CONTENT)
    s3.fail("download", [None, Damaged()])
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "MD5 of cells.h5ad.part is" in one_line(error)
    assert names(downloads) == []


def test_a_wrong_sha256_leaves_no_file(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", b"cells")
    with pytest.raises(InputError) as error:
        fetch(f"{URI}#sha256={'0' * 64}", downloads)
    assert "sha256 is" in one_line(error)
    assert names(downloads) == []


def test_a_compressed_object_is_refused(s3: Store, downloads: Path) -> None:
    s3.put("screens", "cells.h5ad", b"cells")
    s3.key("screens", "cells.h5ad").set_metadata({"Content-Encoding": "gzip"})
    with pytest.raises(InputError, match="store it uncompressed"):
        fetch(URI, downloads)


def test_a_missing_object_names_the_nearest(s3: Store, downloads: Path) -> None:
    s3.put("screens", "a/cells.h5ad", b"cells")
    with pytest.raises(InputError) as error:
        fetch("s3://screens/a/cell.h5ad", downloads)
    assert "no such object, nearest: 'a/cells.h5ad'; expected s3://bucket/object" in one_line(error)


def test_a_missing_bucket_is_named(s3: Store, downloads: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch("s3://nowhere/cells.h5ad", downloads)
    assert "no bucket 'nowhere'" in one_line(error)


@pytest.mark.parametrize("kind", ["facts", "download"])
@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_a_refused_download_names_the_credentials_at_once(
    s3: Store, downloads: Path, kind: str, scheme: str
) -> None:
    s3.put("screens", "cells.h5ad", b"cells")
    s3.fail(kind, repeat(403))
    with pytest.raises(InputError) as error:
        fetch(f"{scheme}://screens/cells.h5ad", downloads)
    keys = "mlpipeline-minio-artifact" if scheme == "minio" else "AWS_ACCESS_KEY_ID"
    assert "access denied; check the credentials" in one_line(error)
    assert keys in one_line(error)
    assert len(s3.ranges(kind)) == 1
    assert names(downloads) == []


@pytest.mark.parametrize(
    "uri", ["s3:///cells.h5ad", "s3://screens", "s3://screens/a/", "s3://", "minio://"]
)
def test_a_uri_that_names_no_object_is_refused(s3: Store, uri: str, downloads: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(uri, downloads)
    assert "names no" in one_line(error)


def test_the_files_of_a_prefix_come_into_one_folder(s3: Store, downloads: Path) -> None:
    for name in ("args.json", "vocab.json"):
        s3.put("screens", f"scgpt/{name}", name.encode())
    folder = fetch_folder("s3://screens/scgpt/", downloads, ["args.json", "vocab.json"])
    assert (folder / "vocab.json").read_text() == "vocab.json"


def test_cells_from_a_bucket_are_those_of_the_file(s3: Store, tmp_path: Path) -> None:
    local = tmp_path / "screen.h5ad"
    write_raw("sim://screen?cells=300&genes=60&perturbations=5", local)
    put(tmp_path / "x", local.read_bytes(), "raw/screen.h5ad")
    s3.fail("download", [503, Cut(1000)])
    ingest(str(local), tmp_path / "from-file")
    ingest("minio://screens/raw/screen.h5ad", tmp_path / "from-bucket")
    one, two = (
        anndata.read_h5ad(tmp_path / folder / "cells.h5ad")
        for folder in ("from-file", "from-bucket")
    )
    assert one.n_obs == 300
    np.testing.assert_array_equal(one.X.toarray(), two.X.toarray())
    assert one.uns["source_sha256"] == two.uns["source_sha256"]
    assert two.uns["source"] == "minio://screens/raw/screen.h5ad"


# where a store is, and with which keys


@pytest.mark.parametrize(("scheme", "key"), [("s3", "of-aws"), ("minio", "of-kfp")])
def test_each_scheme_has_its_own_keys(s3: Store, downloads: Path, scheme: str, key: str) -> None:
    s3.put("screens", "cells.h5ad", b"cells")
    fetch(f"{scheme}://screens/cells.h5ad", downloads)
    assert s3.keys == {key}


@pytest.mark.parametrize(("scheme", "keys"), [("s3", KEYS), ("minio", BUNDLED_KEYS)])
def test_without_keys_a_public_object_can_be_read(
    s3: Store,
    downloads: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    scheme: str,
    keys: dict[str, str],
) -> None:
    for name in keys:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(downloads))
    s3.put("screens", "cells.h5ad", b"cells")
    s3.key("screens", "cells.h5ad").set_acl(get_canned_acl("public-read"))
    assert fetch(f"{scheme}://screens/cells.h5ad", downloads).read_bytes() == b"cells"
    assert s3.keys == {""}
    assert f"{scheme}://: note: no credentials found, trying without" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, "http://minio-service.kubeflow:9000"),
        ({"MINIO_SERVICE_SERVICE_HOST": "10.0.0.7"}, "http://minio-service.kubeflow:9000"),
        (
            {"MINIO_SERVICE_SERVICE_HOST": "10.0.0.7", "MINIO_SERVICE_SERVICE_PORT": "9000"},
            "http://10.0.0.7:9000",
        ),
        (
            {"MINIO_SERVICE_SERVICE_HOST": "fd00::7", "MINIO_SERVICE_SERVICE_PORT": "9000"},
            "http://[fd00::7]:9000",
        ),
    ],
)
def test_the_store_of_kfp_is_where_kfp_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://another:1")
    for name in ("MINIO_SERVICE_SERVICE_HOST", "MINIO_SERVICE_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert storage_s3.client("minio").meta.endpoint_url == endpoint


def test_without_an_endpoint_s3_is_amazons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert storage_s3.client("s3").meta.endpoint_url == "https://s3.amazonaws.com"


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "http://key:secret@host:9000", "ftp://host", "http://host/path"]
)
def test_an_endpoint_that_is_no_address_is_refused_and_not_shown(
    downloads: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert one_line(error) == (
        "AWS_ENDPOINT_URL: is not an address; expected http(s)://<host>[:<port>]"
    )


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "s3://buck et/x", "s3://b?c/x"])
def test_a_bucket_with_letters_that_none_has_is_refused_and_not_shown(
    s3: Store, downloads: Path, uri: str
) -> None:
    with pytest.raises(InputError, match="name of the bucket") as error:
        fetch(uri, downloads)
    assert "secret" not in one_line(error)
    assert s3.requests == []


@pytest.mark.usefixtures("impatient")
def test_a_store_that_cannot_be_reached_is_told_in_one_line(
    s3: Store, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "cannot be reached (connection refused), gave up after 0.2 s" in one_line(error)


def test_credentials_that_are_half_set_are_not_passed_over(
    s3: Store, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError) as error:
        fetch(URI, downloads)
    assert "credentials cannot be used (PartialCredentialsError)" in one_line(error)


def test_what_an_error_says_holds_no_text_of_the_library_or_the_store(s3: Store) -> None:
    """A retrieval error, for one, holds what a metadata server answered."""
    with pytest.raises(InputError) as error, storage_s3.errors(URI):
        raise CredentialRetrievalError(provider="x", error_msg="secret")
    assert "secret" not in one_line(error)
    s3.fail("list", repeat(400))
    with pytest.raises(InputError) as error, storage_s3.errors(URI):
        list(storage_s3.Bucket("s3", "screens").list(""))
    assert one_line(error) == f"{URI}: HTTP 400, InternalError"


def test_no_secret_is_sent_or_printed(
    s3: Store, tmp_path: Path, downloads: Path, capfd: pytest.CaptureFixture
) -> None:
    put(tmp_path / "x", BIG)
    fetch(URI, downloads)
    fetch("minio://screens/cells.h5ad", downloads)
    printed = capfd.readouterr()
    for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], BUNDLED_KEYS["MINIO_SECRET_KEY"]):
        assert secret not in printed.out + printed.err
        assert not any(secret.encode() in head for head in s3.sent)


# uploads


IN_ONE = [("upload", CONTENT)]
IN_PARTS = [("session", BIG), ("chunk", BIG)]


@pytest.mark.parametrize(("kind", "content"), IN_ONE + IN_PARTS)
@pytest.mark.parametrize("fault", [429, 503, Cut(0), Cut(300_000), Lost()])
def test_a_passing_fault_of_an_upload_is_tried_again(
    s3: Store, tmp_path: Path, kind: str, content: bytes, fault: Fault
) -> None:
    s3.fail(kind, [fault, None, fault, fault])
    assert put(tmp_path / "x", content) is not None
    assert s3.read("screens", "cells.h5ad") == content
    assert s3.uploads == ["cells.h5ad"]


@pytest.mark.parametrize("fault", [503, Lost()])
def test_a_fault_at_the_very_end_is_mended(s3: Store, tmp_path: Path, fault: Fault) -> None:
    s3.fail("complete", [fault])
    assert put(tmp_path / "x", BIG) is not None
    assert s3.read("screens", "cells.h5ad") == BIG
    # Each part went once: no fault makes it begin again.
    assert len(s3.ranges("chunk")) == 3


UPLOAD = """
import sys
from pathlib import Path
from components.shared.storage import s3 as storage_s3
storage_s3.UPLOAD_PART = int(sys.argv[2])
storage_s3.Bucket("s3", "screens").upload(Path(sys.argv[1]), "cells.h5ad")
"""


def test_an_upload_that_was_killed_is_not_there_and_the_next_process_makes_it(
    s3: Store, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(BIG)
    s3.fail("chunk", chain([None], repeat(503)))
    command = [sys.executable, "-c", UPLOAD, str(tmp_path / "x"), str(PART)]
    process = subprocess.Popen(command)
    while len(s3.ranges("chunk")) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert s3.names("screens") == []
    s3.mend()
    subprocess.run(command, check=True)
    assert s3.read("screens", "cells.h5ad") == BIG


def test_parts_go_several_at_a_time(s3: Store, tmp_path: Path) -> None:
    together = Barrier(3)
    s3.fail("chunk", repeat(partial(together.wait, 10.0), 3))
    put(tmp_path / "x", BIG)
    assert s3.read("screens", "cells.h5ad") == BIG
    assert not together.broken


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("kind", "content", "fault", "told"),
    [
        *((*of, 503, "HTTP 503, gave up after 0.2 s") for of in [*IN_ONE, *IN_PARTS]),
        ("complete", BIG, 503, "HTTP 503, gave up after 0.2 s"),
        *((*of, Lost(), "cannot be reached (") for of in IN_PARTS),
    ],
)
def test_an_upload_that_fails_for_ever_is_told_and_leaves_nothing(
    s3: Store, tmp_path: Path, kind: str, content: bytes, fault: Fault, told: str
) -> None:
    s3.fail(kind, chain([None] * (kind == "chunk"), repeat(fault)))
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content)
    assert time.monotonic() - begun < 10
    assert one_line(error).startswith(f"{URI}: {told}")
    assert s3.names("screens") == []
    if kind != "session":  # where one was begun, nobody knows its number
        assert s3.unfinished("screens") == 0


@pytest.mark.parametrize(("kind", "content"), IN_ONE + IN_PARTS)
@pytest.mark.parametrize(("status", "told"), [(403, "access denied"), (404, "no bucket 'screens'")])
def test_an_upload_that_is_refused_is_not_tried_again(
    s3: Store, tmp_path: Path, kind: str, content: bytes, status: int, told: str
) -> None:
    s3.fail(kind, repeat(status))
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content)
    assert told in one_line(error)
    assert len(s3.ranges(kind)) == (3 if kind == "chunk" else 1)
    assert s3.names("screens") == []
    assert s3.unfinished("screens") == 0


@pytest.mark.parametrize("looks", [True, False], ids=["refused by the store", "found by us"])
@pytest.mark.parametrize(("kind", "content"), [("upload", CONTENT), ("chunk", BIG)])
def test_an_upload_damaged_on_its_way_is_refused(
    s3: Store, tmp_path: Path, kind: str, content: bytes, looks: bool
) -> None:
    s3.looks_at_md5 = looks
    s3.fail(kind, [Damaged()])
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content)
    assert "what arrived is not what was sent" in one_line(error)
    assert s3.names("screens") == []
    assert s3.unfinished("screens") == 0


@pytest.mark.parametrize("content", [b"cells", BIG], ids=["in one", "in parts"])
def test_an_upload_never_replaces_another_content(
    s3: Store, tmp_path: Path, content: bytes
) -> None:
    s3.put("screens", "cells.h5ad", b"other")
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content)
    assert "exists already" in one_line(error)
    assert s3.read("screens", "cells.h5ad") == b"other"


@pytest.mark.parametrize(("kind", "content"), [("upload", b"cells"), ("complete", BIG)])
def test_an_object_that_comes_to_be_during_an_upload_is_not_replaced(
    s3: Store, tmp_path: Path, kind: str, content: bytes
) -> None:
    s3.fail(kind, [partial(s3.put, "screens", "cells.h5ad", b"other")])
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", content)
    assert "exists already" in one_line(error)
    assert s3.read("screens", "cells.h5ad") == b"other"
    assert s3.unfinished("screens") == 0


@pytest.mark.parametrize("content", [b"cells", BIG], ids=["in one", "in parts"])
def test_an_upload_of_the_same_content_is_taken_as_done(
    s3: Store, tmp_path: Path, content: bytes
) -> None:
    put(tmp_path / "x", content)
    assert put(tmp_path / "x", content) is None
    assert s3.uploads == ["cells.h5ad"]


def test_a_delete_spares_what_was_put_there_meanwhile(s3: Store, tmp_path: Path) -> None:
    stored = put(tmp_path / "x", b"cells")
    assert stored is not None
    s3.put("screens", "cells.h5ad", b"other")
    storage_s3.Bucket("s3", "screens").delete(stored)
    assert s3.read("screens", "cells.h5ad") == b"other"


@pytest.mark.parametrize("fault", [503, Lost()])
def test_a_passing_fault_of_a_delete_is_tried_again(
    s3: Store, tmp_path: Path, fault: Fault
) -> None:
    stored = put(tmp_path / "x", b"cells")
    assert stored is not None
    s3.fail("delete", [fault])
    storage_s3.Bucket("s3", "screens").delete(stored)
    assert s3.names("screens") == []


def test_a_long_list_comes_in_pages_and_whole(s3: Store) -> None:
    for number in range(1003):
        s3.put("screens", f"many/{number:04}", b"")
    s3.fail("list", [None, 503])
    found = [stored.name for stored in storage_s3.Bucket("s3", "screens").list("many/")]
    assert found == [f"many/{number:04}" for number in range(1003)]


def test_an_object_larger_than_a_part_is_read_whole(s3: Store, tmp_path: Path) -> None:
    put(tmp_path / "big", BIG)
    bucket = storage_s3.Bucket("s3", "screens")
    bucket.read("cells.h5ad", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == BIG
    with pytest.raises(FileNotFoundError):
        bucket.read("nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
