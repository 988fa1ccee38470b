"""Publishing to a bucket and to the Hub: whole or not at all, and no secret in the output."""

import re
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from components.publish.publish import publish
from components.publish.targets import check_target
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.publish.publish_run import FILES, Run, finished_run, tree
from tests.servers.faults import Cut, Fault, Lost
from tests.servers.hub_server import (
    BIG,
    COMMIT,
    LOST,
    TOKEN,
    Hub,
    digest_of,
    run_with_hub,
    serving_hub,
)
from tests.servers.stores import AnyStore, serving, try_for


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(params=["gs", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyStore]:
    try_for(monkeypatch, 0.3)
    with serving(request.param, monkeypatch, "models") as store:
        yield store


def in_bucket(store: AnyStore, prefix: str) -> dict[str, bytes]:
    return {name.removeprefix(prefix): store.read("models", name) for name in store.names("models")}


@pytest.mark.parametrize(("place", "prefix"), [("models/a/b/", "a/b/"), ("models", "")])
def test_a_bucket_gets_every_file_and_provenance_last(
    store: AnyStore, run: Run, tmp_path: Path, place: str, prefix: str
) -> None:
    publish(*run.folders(), store.uri(place), tmp_path / "published")
    assert in_bucket(store, prefix) == tree(tmp_path / "published")
    assert store.uploads[-1] == f"{prefix}provenance.json"


def test_a_prefix_with_a_publication_is_refused_before_any_work(
    store: AnyStore, run: Run, tmp_path: Path
) -> None:
    publish(*run.folders(), store.uri("models/a"), tmp_path / "published")
    before = in_bucket(store, "")
    with pytest.raises(InputError) as error:
        publish(*run.folders(), store.uri("models/a"), tmp_path / "again")
    assert "provenance.json is there already" in one_line(error)
    assert in_bucket(store, "") == before
    assert not (tmp_path / "again").exists()


def test_an_upload_that_fails_deletes_what_it_uploaded_and_nothing_else(
    store: AnyStore, run: Run, tmp_path: Path
) -> None:
    publish(*run.folders(), store.uri("models/other"), tmp_path / "other")
    before = in_bucket(store, "")
    store.fail("upload", repeat(403), "scgpt_replogle_test.h5ad")
    with pytest.raises(InputError) as error:
        publish(*run.folders(), store.uri("models/a"), tmp_path / "published")
    assert "access denied" in one_line(error)
    assert "a/best_model.pt" in store.uploads
    assert in_bucket(store, "") == before
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize("fault", [429, 500, 503, Cut(100), Lost()])
def test_a_passing_fault_in_the_midst_is_tried_again(
    store: AnyStore, run: Run, tmp_path: Path, fault: Fault
) -> None:
    store.fail("upload", [None, fault, fault, None, fault])
    publish(*run.folders(), store.uri("models/a"), tmp_path / "published")
    assert in_bucket(store, "a/") == tree(tmp_path / "published")
    assert store.uploads[-1] == "a/provenance.json"
    assert len(store.uploads) == len(FILES)


@pytest.mark.parametrize("last", ["scgpt_replogle_test.h5ad", "provenance.json"])
@pytest.mark.parametrize("fault", [503, Cut(100)])
def test_an_object_that_fails_for_ever_leaves_nothing_behind(
    store: AnyStore, run: Run, tmp_path: Path, last: str, fault: Fault
) -> None:
    # Of the first object the answer is lost, so that it is there when it is sent again.
    store.fail("upload", [Lost()], "best_model.pt")
    store.fail("upload", repeat(fault), last)
    store.fail("delete", [503, None, Lost()])
    with pytest.raises(InputError) as error:
        publish(*run.folders(), store.uri("models/a"), tmp_path / "published")
    assert re.match(
        rf"{store.scheme}://models/a/(predictions/)?{last}: .* gave up after 0.3 s", one_line(error)
    )
    assert "a/best_model.pt" in store.uploads
    assert store.names("models") == []
    assert not (tmp_path / "published").exists()


def test_another_file_at_the_prefix_is_never_replaced(
    store: AnyStore, run: Run, tmp_path: Path
) -> None:
    store.put("models", "a/best_model.pt", b"mine")
    with pytest.raises(InputError) as error:
        publish(*run.folders(), store.uri("models/a"), tmp_path / "published")
    assert "a/best_model.pt: exists already" in one_line(error)
    assert store.read("models", "a/best_model.pt") == b"mine"
    assert store.names("models") == ["a/best_model.pt"]


def test_what_a_killed_upload_left_is_completed(store: AnyStore, run: Run, tmp_path: Path) -> None:
    publish(*run.folders(), store.uri("models/a"), tmp_path / "first")
    store.remove("models", "a/provenance.json")
    store.remove("models", "a/vocab.json")
    store.uploads.clear()
    publish(*run.folders(), store.uri("models/a"), tmp_path / "second")
    assert store.uploads == ["a/vocab.json", "a/provenance.json"]
    assert set(in_bucket(store, "a/")) == FILES


def test_a_bucket_that_is_not_there_is_refused_before_any_work(
    store: AnyStore, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        publish(*run.folders(), store.uri("nowhere/a"), tmp_path / "published")
    assert "no bucket 'nowhere'" in one_line(error)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize("place", ["models/a/../b", "models/a//b", "/a"])
def test_a_crooked_prefix_is_refused(store: AnyStore, place: str) -> None:
    with pytest.raises(InputError):
        check_target(store.uri(place))


PUBLISH = """
import sys, time
from components.publish.publish import publish
from components.shared.telling.errors import one_line_errors
time.sleep = lambda seconds: None
with one_line_errors("publish"):
    publish(*sys.argv[1:])
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


def publish_to_hub(
    hub: Hub,
    run: Run,
    uri: str,
    folder: Path,
    *,
    token: str = TOKEN,
    home: str = "home",
    xet: bool = False,
) -> tuple[int, str]:
    done = run_with_hub(
        PUBLISH,
        *run.folders(),
        uri,
        folder / "published",
        url=hub.url,
        home=folder / home,
        token=token,
        xet=xet,
    )
    said = done.stdout + done.stderr
    # The token is in every request to the Hub, and must be in no other, in no output and in no
    # file, whatever happens; nor must the signatures of addresses.
    assert "secret" not in said
    assert "Traceback" not in said, said
    assert hub.misplaced == []
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in written)
    return done.returncode, said


def requests_to(hub: Hub, part: str) -> list[str]:
    return [request for request in hub.requests if part in request]


def assert_whole(hub: Hub, folder: Path, commits: int = 1) -> None:
    """Check that the last of so many commits has every file, each with the right digest."""
    assert len(hub.commits) == commits
    content = tree(folder)
    assert set(content) == FILES
    assert hub.tree == {name: digest_of(name, content[name]) for name in content}
    for item in hub.commits[-1]:
        if item["key"] == "lfsFile":
            assert item["size"] == len(content[item["path"]])
    big = {name for name in content if name.endswith(BIG)}
    assert big == {item["path"] for item in hub.commits[-1] if item["key"] == "lfsFile"}


@pytest.mark.parametrize("xet", [False, True])
def test_the_hub_gets_one_commit_with_every_file(
    hub: Hub, run: Run, tmp_path: Path, xet: bool
) -> None:
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path, xet=xet)
    assert status == 0, said
    assert f"published at {hub.url}/lab/model/commit/{COMMIT}" in said
    assert requests_to(hub, "/commit/") == ["POST /api/models/lab/model/commit/main"]
    assert_whole(hub, tmp_path / "published")
    assert bool(hub.blocks) == xet
    assert bool(hub.objects) != xet
    (made,) = hub.created
    assert made.items() >= {"organization": "lab", "name": "model", "visibility": "private"}.items()


def test_a_branch_of_the_hub_is_made_and_a_stale_prior_is_removed(
    hub: Hub, run: Run, tmp_path: Path
) -> None:
    hub.files["lab/model/gene_prior.json"] = b"{}"
    hub.tree["gene_prior.json"] = digest_of("gene_prior.json", b"{}")
    status, said = publish_to_hub(hub, run, "hf://lab/model@main", tmp_path)
    assert status == 0, said
    assert hub.created == []
    assert {"key": "deletedFile", "path": "gene_prior.json"} in hub.commits[0]
    assert_whole(hub, tmp_path / "published")
    (tmp_path / "branch").mkdir()
    status, said = publish_to_hub(hub, run, "hf://lab/model@trial", tmp_path / "branch")
    assert status == 0, said
    assert "POST /api/models/lab/model/branch/trial" in hub.requests
    assert "POST /api/models/lab/model/commit/trial" in hub.requests


def test_passing_faults_and_a_lost_answer_still_end_in_one_commit(
    hub: Hub, run: Run, tmp_path: Path
) -> None:
    hub.fail("/whoami", [503])
    hub.fail("/repos/create", [502])
    hub.fail("/preupload/", [429, 503])
    hub.fail("/objects/batch", [500])
    hub.fail("/storage/", [500, 503])
    hub.fail("/commit/", [429, LOST])
    hub.fail("/tree/", [500])
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path)
    assert status == 0, said
    assert_whole(hub, tmp_path / "published")
    assert len(requests_to(hub, "/commit/")) == 2
    assert f"published at {hub.url}/lab/model/commit/{COMMIT}" in said


@pytest.mark.parametrize(
    ("part", "fault", "said"),
    [
        ("/repos/create", 403, "the Hub answers HTTP 403; check HF_TOKEN and its permissions"),
        ("/preupload/", 429, "the Hub answers HTTP 429"),
        ("/storage/", 500, "the Hub answers HTTP 500"),
        ("/commit/", 400, "the Hub answers HTTP 400"),
        ("/commit/", 503, "the Hub answers HTTP 503"),
    ],
)
def test_a_fault_that_stays_is_told_in_one_line_and_leaves_nothing(
    hub: Hub, run: Run, tmp_path: Path, part: str, fault: int, said: str
) -> None:
    hub.fail(part, repeat(fault))
    status, output = publish_to_hub(hub, run, "hf://lab/model", tmp_path)
    assert status == 1
    last = output.splitlines()[-1]
    assert last.startswith("publish: error: publish_to hf://lab/model: ")
    assert said in last
    assert hub.commits == []
    assert hub.tree == {}
    assert not (tmp_path / "published").exists()
    assert len(requests_to(hub, "/commit/")) <= (4 if fault == 503 else 1)


def test_a_hub_that_falls_silent_is_told_in_one_line(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.fail("/preupload/", repeat(LOST))
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path)
    assert status == 1
    assert "publish: error: publish_to hf://lab/model: the Hub cannot be reached" in said
    assert hub.commits == []


@pytest.mark.parametrize("home", ["home", "/dev/null/home"])
def test_xet_that_fails_is_told_in_one_line_and_leaves_nothing(
    hub: Hub, run: Run, tmp_path: Path, home: str
) -> None:
    hub.fail("/xet/v1/", repeat(403) if home == "home" else [])
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path, home=home, xet=True)
    assert status == 1
    assert said.splitlines()[-1].startswith("publish: error: publish_to hf://lab/model: ")
    assert hub.commits == []
    assert not (tmp_path / "published").exists()


def test_a_gitignore_in_the_repository_leaves_nothing_out(
    hub: Hub, run: Run, tmp_path: Path
) -> None:
    hub.gitignore = ".h5ad"
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path)
    assert status == 0, said
    assert_whole(hub, tmp_path / "published")


def test_a_commit_that_lacks_a_file_is_noticed(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.loses = ".h5ad"
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path)
    assert status == 1
    assert "lacks 'predictions/scgpt_replogle_test.h5ad'" in said


def test_a_wrong_token_is_noticed_before_any_work(hub: Hub, run: Run, tmp_path: Path) -> None:
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path, token="hf_wrong")  # noqa: S106
    assert status == 1
    assert "HTTP 401; check HF_TOKEN" in said
    assert "hf_wrong" not in said
    assert hub.created == []
    assert not (tmp_path / "published").exists()


def test_without_a_token_nothing_is_sent(hub: Hub, run: Run, tmp_path: Path) -> None:
    status, said = publish_to_hub(hub, run, "hf://lab/model", tmp_path, token="")
    assert status == 1
    assert "no HF_TOKEN" in said
    assert hub.requests == []


@pytest.mark.parametrize(
    "uri", ["hf://model", "hf://models/lab/model", "hf://lab/mo del", "hf://lab/model/file"]
)
def test_another_form_of_repository_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(InputError) as error:
        check_target(uri)
    assert uri in one_line(error)
