"""Files of the Hub, by the real client over HTTP against a local stand-in."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.storage.files import fetch
from components.shared.storage.hf import split_uri
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.servers.faults import closed_port
from tests.servers.hub_server import COMMIT, TOKEN, Hub, run_with_hub, serving_hub

FETCH_ALL = """
import json, sys
from pathlib import Path
from components.shared.telling.errors import InputError
from components.shared.storage.files import fetch, fetch_folder
results = []
for uri in json.loads(sys.argv[2]):
    try:
        results.append(str(fetch(uri, Path(sys.argv[1]))))
    except InputError as error:
        results.append("error: " + str(error))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving_hub() as hub:
        hub.files = {
            "datasets/lab/screen/sub/cells.h5ad": b"cells of lab",
            "datasets/lab/screen/split.toml": b"[zeroshot]",
            "lab/scgpt/vocab.json": b"{}",
        }
        yield hub


def fetch_all(hub_url: str, folder: Path, *uris: str, token: str = "") -> tuple[list[str], str]:
    done = run_with_hub(
        FETCH_ALL, folder / "in", json.dumps(uris), url=hub_url, home=folder / "home", token=token
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stdout + done.stderr


def test_files_of_data_sets_and_models_are_downloaded_by_their_commit(
    hub: Hub, tmp_path: Path
) -> None:
    results, said = fetch_all(
        hub.url,
        tmp_path,
        "hf://datasets/lab/screen/sub/cells.h5ad",
        "hf://datasets/lab/screen/split.toml@main",
        f"hf://models/lab/scgpt/vocab.json@{COMMIT}",
        token=TOKEN,
    )
    contents = [Path(path).read_bytes() for path in results]
    assert contents == [b"cells of lab", b"[zeroshot]", b"{}"]
    assert f"GET /datasets/lab/screen/resolve/{COMMIT}/sub/cells.h5ad" in hub.requests
    assert f"is commit {COMMIT}" in said
    assert TOKEN not in said


def test_what_the_hub_does_not_have_is_told_in_one_line_each(hub: Hub, tmp_path: Path) -> None:
    (file, revision, repository, sha256), _ = fetch_all(
        hub.url,
        tmp_path,
        "hf://datasets/lab/screen/cells.h5ad",
        "hf://datasets/lab/screen/split.toml@v9",
        "hf://models/lab/nothing/vocab.json",
        f"hf://models/lab/scgpt/vocab.json#sha256={'0' * 64}",
    )
    assert "no such file" in file
    assert "no such revision" in revision
    assert "no repository 'lab/nothing'" in repository
    assert "sha256 is" in sha256
    assert not list((tmp_path / "in").glob("*.json"))


@pytest.mark.parametrize("name", ["sub/cells.h5ad", "split.toml"])
def test_a_damaged_file_is_refused_and_not_left_behind(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.damaged = True
    try:
        (result,), _ = fetch_all(hub.url, tmp_path, f"hf://datasets/lab/screen/{name}")
    finally:
        hub.damaged = False
    assert "digest is" in result
    assert not (tmp_path / "in" / name).exists()


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    (result,), said = fetch_all(url, tmp_path, "hf://models/lab/scgpt/vocab.json", token=TOKEN)
    assert "the Hub cannot be reached" in result
    assert TOKEN not in said


@pytest.mark.parametrize(
    "uri",
    [
        "hf://lab/screen/cells.h5ad",
        "hf://datasets/lab/screen",
        "hf://datasets/lab",
        "hf://spaces/lab/screen/cells.h5ad",
    ],
)
def test_another_form_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch(uri, tmp_path)
    assert "hf://datasets/<owner>/<name>/<file>" in one_line(error)


def test_a_path_that_leads_upwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        fetch("hf://datasets/lab/screen/../../passwd", tmp_path)
    assert "'..'" in one_line(error)


def test_a_revision_may_have_slashes() -> None:
    assert split_uri("hf://datasets/lab/screen/a/b.h5ad@refs/pr/1") == (
        "dataset",
        "lab/screen",
        "a/b.h5ad",
        "refs/pr/1",
    )
