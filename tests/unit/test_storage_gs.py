"""Objects of a bucket, by the real client against an emulator of Cloud Storage."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared import storage_gs
from components.shared.errors import InputError
from components.shared.storage import fetch, fetch_folder
from tests.unit.bucket_server import Emulator, closed_port, emulating
from tests.unit.test_storage import one_line


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulating() as emulator:
        emulator.bucket("screens")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator.port}")
        yield emulator


def put(path: Path, content: bytes, name: str) -> None:
    path.write_bytes(content)
    storage_gs.upload(path, storage_gs.client().bucket("screens"), name)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def test_an_object_is_downloaded_in_pieces_and_whole(
    gs: Emulator, tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_gs, "PIECE", 2**18)
    content = os.urandom(2**20 + 17)
    put(tmp_path / "x", content, "a b/cells.h5ad")
    path = fetch("gs://screens/a b/cells.h5ad", downloads)
    assert path == downloads / "cells.h5ad"
    assert path.read_bytes() == content
    assert [other.name for other in downloads.iterdir()] == ["cells.h5ad"]


def test_an_empty_object_is_downloaded(gs: Emulator, tmp_path: Path, downloads: Path) -> None:
    put(tmp_path / "x", b"", "empty")
    assert fetch("gs://screens/empty", downloads).read_bytes() == b""


def test_a_damaged_object_is_refused_and_not_left_behind(
    gs: Emulator, tmp_path: Path, downloads: Path
) -> None:
    put(tmp_path / "x", b"cells", "cells.h5ad")
    gs.damage("screens", "cells.h5ad", b"sells")
    with pytest.raises(InputError) as error:
        fetch("gs://screens/cells.h5ad", downloads)
    assert "CRC32C" in one_line(error)
    assert list(downloads.iterdir()) == []


def test_a_wrong_sha256_leaves_no_file(gs: Emulator, tmp_path: Path, downloads: Path) -> None:
    put(tmp_path / "x", b"cells", "cells.h5ad")
    with pytest.raises(InputError) as error:
        fetch(f"gs://screens/cells.h5ad#sha256={'0' * 64}", downloads)
    assert "sha256 is" in one_line(error)
    assert list(downloads.iterdir()) == []


def test_a_missing_object_names_the_nearest(gs: Emulator, tmp_path: Path, downloads: Path) -> None:
    put(tmp_path / "x", b"cells", "a/cells.h5ad")
    with pytest.raises(InputError) as error:
        fetch("gs://screens/a/cell.h5ad", downloads)
    assert "no such object, nearest: 'a/cells.h5ad'" in one_line(error)


def test_a_missing_bucket_is_named(gs: Emulator, downloads: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch("gs://nowhere/cells.h5ad", downloads)
    assert "no bucket 'nowhere'" in one_line(error)


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


def test_a_bucket_that_cannot_be_reached_is_told_in_one_line(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(storage_gs, "RETRY", storage_gs.RETRY.with_timeout(0.2))
    with pytest.raises(InputError) as error:
        fetch("gs://screens/cells.h5ad", downloads)
    assert "connection refused" in one_line(error)


def test_an_upload_never_replaces_another_content(gs: Emulator, tmp_path: Path) -> None:
    put(tmp_path / "x", b"cells", "cells.h5ad")
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", b"other", "cells.h5ad")
    assert "exists already" in one_line(error)
    assert gs.read("screens", "cells.h5ad") == b"cells"


def test_an_upload_of_the_same_content_is_taken_as_done(gs: Emulator, tmp_path: Path) -> None:
    put(tmp_path / "x", b"cells", "cells.h5ad")
    bucket = storage_gs.client().bucket("screens")
    assert storage_gs.upload(tmp_path / "x", bucket, "cells.h5ad") is None
    assert gs.uploads == ["cells.h5ad"]


def test_an_upload_that_arrives_damaged_is_deleted(
    gs: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_gs, "crc32c_of", lambda path: "AAAAAA==")
    with pytest.raises(InputError) as error:
        put(tmp_path / "x", b"cells", "cells.h5ad")
    assert "CRC32C" in one_line(error)
    assert gs.names("screens") == []


def test_a_refused_upload_names_the_permissions(gs: Emulator, tmp_path: Path) -> None:
    gs.refuse_upload_of = "cells.h5ad"
    with pytest.raises(InputError) as error, storage_gs.errors("gs://screens/cells.h5ad"):
        put(tmp_path / "x", b"cells", "cells.h5ad")
    assert "access denied" in one_line(error)


def test_credentials_that_are_set_but_broken_are_not_passed_over(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(downloads / "none.json"))
    with pytest.raises(InputError) as error:
        fetch("gs://screens/cells.h5ad", downloads)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in one_line(error)
