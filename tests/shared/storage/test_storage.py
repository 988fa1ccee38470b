"""Files by path or URI: local ones, names, digests, schemes."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.storage.downloads import check_space, local_name, shown
from components.shared.storage.files import fetch, fetch_folder
from components.shared.telling.errors import InputError
from tests.helpers import one_line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"cells")
    return path


def test_a_local_file_is_returned_where_it_is(file: Path, tmp_path: Path) -> None:
    assert fetch(str(file), tmp_path / "downloads") == file
    assert fetch(f"file://{file}", tmp_path / "downloads") == file
    assert fetch(f"file://localhost{file}", tmp_path / "downloads") == file
    assert not (tmp_path / "downloads").exists()


def test_a_file_uri_with_escapes_names_the_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "my cells%.h5ad"
    path.write_bytes(b"cells")
    assert fetch(path.as_uri(), tmp_path) == path


def test_a_file_uri_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch("file://server/share/cells.h5ad", tmp_path)
    assert "machine 'server'" in one_line(error)


def test_a_missing_file_names_the_nearest_in_its_folder(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(str(tmp_path / "cell.h5ad"), tmp_path)
    assert "no such file, nearest: 'cells.h5ad'" in one_line(error)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(str(tmp_path / "nowhere" / "cells.h5ad"), tmp_path)
    assert f"nor its folder {tmp_path / 'nowhere'}" in one_line(error)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(str(tmp_path), tmp_path)
    assert "is a folder" in one_line(error)


def test_an_empty_path_lists_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(" ", tmp_path)
    assert "gs://bucket/object" in one_line(error)


@pytest.mark.parametrize("uri", ["az://bucket/x", "ftp://host/x", "sim://screen?cells=3"])
def test_an_unknown_scheme_lists_the_allowed_ones(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(uri, tmp_path / "downloads")
    text = one_line(error)
    assert f"'{uri.split(':')[0]}://' is not allowed" in text
    for scheme in (
        "file://",
        "gs://",
        "s3://",
        "minio://",
        "hf://datasets/",
        "hf://models/",
        "https://",
    ):
        assert scheme in text
    assert not (tmp_path / "downloads").exists()


def test_a_sha256_that_matches_is_accepted_in_either_case(file: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"cells").hexdigest()
    assert fetch(f"{file}#sha256={digest}", tmp_path) == file
    assert fetch(f"file://{file}#sha256={digest.upper()}", tmp_path) == file


def test_a_sha256_that_differs_is_refused_and_the_users_file_stays(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        fetch(f"{file}#sha256={'0' * 64}", tmp_path)
    assert "expected 000" in one_line(error)
    assert file.read_bytes() == b"cells"


def test_a_sha256_that_is_none_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(f"{file}#sha256=abc", tmp_path)
    assert "64 hexadecimal digits" in one_line(error)


def test_a_local_folder_is_returned_when_it_has_the_files(file: Path, tmp_path: Path) -> None:
    assert fetch_folder(str(tmp_path), tmp_path / "downloads", ["cells.h5ad"]) == tmp_path
    with pytest.raises(InputError) as error:
        fetch_folder(str(tmp_path), tmp_path / "downloads", ["cells.h5ad", "vocab.json"])
    assert "vocab.json: no such file" in one_line(error)


def test_a_missing_local_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "scgpt_human").mkdir()
    with pytest.raises(InputError) as error:
        fetch_folder(str(tmp_path / "scgpt_humans"), tmp_path, ["args.json"])
    assert "nearest: 'scgpt_human'" in one_line(error)


def test_a_sha256_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch_folder(f"gs://bucket/prefix#sha256={'0' * 64}", tmp_path, ["args.json"])
    assert "single files" in one_line(error)


@given(st.text(min_size=1).map(lambda text: f"a/{text}"))
def test_a_remote_name_never_leads_out_of_the_folder(path: str) -> None:
    try:
        name = local_name(path, "gs://bucket/object")
    except InputError:
        return
    assert Path("/downloads", name).resolve().parent == Path("/downloads")
    assert name not in ("", ".", "..")


@pytest.mark.parametrize("path", ["a/..", "a/%2e%2e", "a/", "", "a/..%2fpasswd", "a/b%00c"])
def test_a_name_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InputError):
        local_name(path, "https://host/file")


def test_what_is_printed_of_a_url_has_no_secrets() -> None:
    uri = "https://user:password@host/cells.h5ad?X-Signature=secret#sha256=abc"
    assert shown(uri) == "https://host/cells.h5ad?…"
    assert shown("/plain/path?x") == "/plain/path?x"


def test_a_download_that_does_not_fit_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_space(tmp_path, 10**18, "gs://bucket/cells.h5ad")
    assert "make room" in one_line(error)


def test_a_file_in_place_of_a_folder_is_refused_with_what_the_folder_holds(tmp_path) -> None:
    file = tmp_path / "args.json"
    file.touch()
    hint = "is a file; give the folder that holds args.json, vocab.json"
    with pytest.raises(InputError, match=hint):
        fetch_folder(str(file), tmp_path, ["args.json", "vocab.json"])
