"""The store of checkpoints: whole or not there, the last two kept, a damaged one passed over."""

import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.places import MANIFEST, open_place
from components.shared.storage.digests import sha256_of
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.servers.faults import Cut, Lost, closed_port
from tests.servers.stores import AnyStore, serving, try_for

IDENTITY = {"cells": "a" * 64, "seed": 1, "learning_rate": 0.1, "contrast": True}


def state(number: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((7,), float(number))}, "progress": {"number": number}}


def number_of(saved: Saved | None) -> int:
    assert saved
    number = saved.parts["progress"]["number"]
    assert torch.equal(saved.parts["weights"]["w"], torch.full((7,), float(number)))
    return number


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyStore]:
    with serving(request.param, monkeypatch, "lab") as bucket:
        yield bucket


@pytest.fixture(params=["folder", "gs", "s3"])
def uri(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "runs" / "checkpoints")
        return
    with serving(request.param, monkeypatch, "lab"):
        yield f"{request.param}://lab/runs/checkpoints"


def store(uri: str, **changes: Any) -> Checkpoints:
    """Return the store as a new process would open it."""
    return Checkpoints(open_place(uri), IDENTITY | changes)


def kept(uri: str) -> list[str]:
    return sorted(open_place(uri).names())


# what is kept, in a folder as in a bucket


def test_a_new_place_has_no_checkpoint(uri: str) -> None:
    assert store(uri).load() is None


def test_the_newest_is_loaded_by_its_place_in_training_not_by_its_spelling(uri: str) -> None:
    one = store(uri)
    for number, place in enumerate([(9, 999_999), (10_000, 2), (10_000, 1_000_000)]):
        one.save(state(number), *place)
    saved = store(uri).load()
    assert number_of(saved) == 2
    assert saved and (saved.epoch, saved.step) == (10_000, 1_000_000)
    assert saved.uri.startswith(f"{uri}/epoch-10000-step-1000000-")


def test_the_last_two_are_kept(uri: str) -> None:
    one = store(uri)
    for step in range(5):
        one.save(state(step), 1, step)
    assert [name[:22] for name in kept(uri)] == ["epoch-0001-step-000003", "epoch-0001-step-000004"]
    two = store(uri)
    two.load()
    two.save(state(9), 2, 0)
    assert [name[:22] for name in kept(uri)] == ["epoch-0001-step-000004", "epoch-0002-step-000000"]
    two.keep(1)
    assert [name[:22] for name in kept(uri)] == ["epoch-0002-step-000000"]


def test_one_that_was_not_completed_does_not_exist_and_goes_with_the_older_ones(uri: str) -> None:
    one = store(uri)
    one.save(state(1), 1, 1)
    place = open_place(uri)
    draft = place.draft("epoch-0001-step-000002-0123abcd")
    torch.save({}, draft / "weights.pt")
    if "://" in uri:
        place.upload(draft / "weights.pt", "epoch-0001-step-000002-0123abcd")  # type: ignore[attr-defined]
    assert len(kept(uri)) == 2
    two = store(uri)
    assert number_of(two.load()) == 1
    two.save(state(3), 1, 3)
    assert [name[:22] for name in kept(uri)] == ["epoch-0001-step-000001", "epoch-0001-step-000003"]


def test_what_else_is_there_is_left_alone(tmp_path: Path, bucket: AnyStore) -> None:
    (tmp_path / "notes").write_text("mine")
    bucket.put("lab", "runs/notes", b"mine")
    for uri in (str(tmp_path), bucket.uri("lab/runs"), bucket.uri("lab")):
        one = store(uri)
        for step in range(3):
            one.save(state(step), 1, step)
        assert number_of(store(uri).load()) == 2
    assert (tmp_path / "notes").read_text() == "mine"
    assert bucket.read("lab", "runs/notes") == b"mine"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@given(plain, st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]))
@settings(max_examples=30, deadline=None)
def test_tensors_and_plain_containers_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, content: Any, dtype: torch.dtype
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    tensor = torch.randint(0, 99, (3, 5)).to(dtype)
    store(str(folder)).save({"progress": content, "weights": [tensor]}, 1, 2)
    saved = store(str(folder)).load()
    assert saved
    assert repr(saved.parts["progress"]) == repr(content)
    assert saved.parts["weights"][0].dtype == dtype
    assert torch.equal(saved.parts["weights"][0], tensor)


# damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def put_object_of_code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Explosive(), protocol=2))
    _sign(path)


def unsafe_name(path: Path) -> None:
    manifest = json.loads((path.parent / MANIFEST).read_text())
    manifest["sha256"]["../secret"] = manifest["sha256"].pop("weights")
    (path.parent / MANIFEST).write_text(json.dumps(manifest))


def _sign(path: Path) -> None:
    manifest = json.loads((path.parent / MANIFEST).read_text())
    manifest["sha256"][path.stem] = sha256_of(path)
    (path.parent / MANIFEST).write_text(json.dumps(manifest))


class Explosive:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (flip, "weights.pt", "sha256 of weights.pt is not the one in manifest.json"),
        (shorten, "progress.pt", "sha256 of progress.pt is not the one in manifest.json"),
        (Path.unlink, "weights.pt", "weights.pt is missing"),
        (lambda path: path.write_text("{"), MANIFEST, "manifest.json is not a manifest"),
        (lambda path: path.write_text("[]"), MANIFEST, "manifest.json is not a manifest"),
        (
            lambda path: path.write_text('{"format": 1}'),
            MANIFEST,
            "manifest.json is not a manifest",
        ),
        (unsafe_name, "weights.pt", "manifest.json is not a manifest"),
        (put_object_of_code, "weights.pt", "weights.pt does not load with weights_only=True"),
    ],
)
def test_a_damaged_one_is_passed_over_for_the_one_before_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    damage: Callable[[Path], None],
    file: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    one = store("checkpoints")
    before, last = Path(one.save(state(1), 1, 1)), Path(one.save(state(2), 1, 2))
    damage(last / file)
    assert number_of(store("checkpoints").load()) == 1
    assert capsys.readouterr().err == (
        f"finetune: WARNING: checkpoint: {last} is damaged ({reason}); "
        f"going back to {before.name}\n"
    )
    assert not Path("exploded").exists()


def test_a_damaged_object_is_passed_over_for_the_one_before(
    bucket: AnyStore, capsys: pytest.CaptureFixture
) -> None:
    one = store(bucket.uri("lab/a"))
    before, last = one.save(state(1), 1, 1), one.save(state(2), 1, 2)
    name = last.removeprefix(bucket.uri("lab/")) + "/weights.pt"
    bucket.damage("lab", name, bucket.read("lab", name)[:-1] + b"x")
    assert number_of(store(bucket.uri("lab/a")).load()) == 1
    (line,) = [line for line in capsys.readouterr().err.split("\n") if "WARNING" in line]
    assert f"{last} is damaged (sha256 of weights.pt is" in line
    assert line.endswith(f"going back to {before.rpartition('/')[2]}")


def test_a_damaged_one_does_not_count_among_the_last_two(tmp_path: Path) -> None:
    one = store(str(tmp_path))
    one.save(state(1), 1, 1)
    flip(Path(one.save(state(9), 1, 9)) / "weights.pt")
    two = store(str(tmp_path))
    two.load()
    two.save(state(2), 1, 2)
    assert [name[:22] for name in kept(str(tmp_path))] == [
        "epoch-0001-step-000001",
        "epoch-0001-step-000002",
    ]


# identity


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"cells": "b" * 64}, f"cells was sha256 {'a' * 12} and is sha256 {'b' * 12};"),
        ({"seed": 2}, "seed was 1 and is 2;"),
        ({"learning_rate": 0.2}, "learning_rate was 0.1 and is 0.2;"),
        ({"contrast": False}, "contrast was True and is False;"),
        ({"loss": "mse"}, "loss was None and is 'mse';"),
        (
            {"cells": "b" * 64, "seed": 2, "learning_rate": 0.2, "contrast": False},
            "learning_rate was 0.1 and is 0.2 and 1 more;",
        ),
    ],
)
def test_one_of_another_fine_tune_is_refused_by_the_difference(
    uri: str, changes: dict[str, Any], difference: str
) -> None:
    one = store(uri).save(state(1), 1, 1)
    with pytest.raises(InputError) as error:
        store(uri, **changes).load()
    assert one_line(error).startswith(f"{one}: is of another fine-tune: ")
    assert difference in str(error.value)
    assert number_of(store(uri).load()) == 1


def test_one_of_another_format_is_refused(tmp_path: Path) -> None:
    manifest = Path(store(str(tmp_path)).save(state(1), 1, 1)) / MANIFEST
    manifest.write_text(manifest.read_text().replace("checkpoint/v1", "checkpoint/v0"))
    with pytest.raises(InputError, match="format was 'finetune-checkpoint/v0' and is"):
        store(str(tmp_path)).load()


# places


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ftp://lab/a", r"checkpoints 'ftp://lab/a': scheme 'ftp://'; allowed: a folder"),
        ("hf://lab/a", r"scheme 'hf://'; allowed"),
        ("STORE:///a", "names no bucket"),
        ("STORE://lab/a/../b", r"'\.\.'; give a plain path"),
        ("STORE://nowhere/a", r"checkpoints (gs|s3)://nowhere/a: no bucket 'nowhere'"),
        ("/dev/null", "is not a writable folder"),
        ("/proc/checkpoints", "is not a writable folder"),
    ],
)
def test_a_place_that_will_not_do_is_refused_at_once(
    bucket: AnyStore, uri: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as error:
        open_place(uri.replace("STORE", bucket.scheme))
    one_line(error)


@pytest.mark.parametrize("kind", ["upload", "delete"])
def test_a_bucket_that_may_only_be_read_is_refused_at_once(bucket: AnyStore, kind: str) -> None:
    bucket.fail(kind, repeat(403))
    with pytest.raises(InputError, match=r"checkpoints .*://lab/a: access denied") as error:
        open_place(bucket.uri("lab/a"))
    one_line(error)


def test_the_check_leaves_nothing_behind(bucket: AnyStore, tmp_path: Path) -> None:
    open_place(bucket.uri("lab/a"))
    open_place(str(tmp_path))
    assert bucket.names("lab") == []
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_cannot_be_reached_is_told_in_one_line(
    bucket: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    try_for(monkeypatch, 0.2)
    with pytest.raises(InputError, match="connection refused") as error:
        open_place(bucket.uri("lab/a"))
    one_line(error)


def test_parts_come_before_the_manifest(bucket: AnyStore) -> None:
    store(bucket.uri("lab/a")).save(state(1), 1, 1)
    names = [name.rpartition("/")[2] for name in bucket.uploads if "probe" not in name]
    assert sorted(names[:-1]) == ["progress.pt", "weights.pt"]
    assert names[-1] == MANIFEST


def test_a_bucket_that_fails_now_and_then_is_asked_again(
    bucket: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_for(monkeypatch, 20.0)
    one = store(bucket.uri("lab/a"))
    bucket.fail("upload", [503, Lost(), 429, None, 503])
    one.save(state(1), 1, 1)
    bucket.fail("list", [503])
    bucket.fail("download", [503, Cut(10), 503])
    assert number_of(store(bucket.uri("lab/a")).load()) == 1
    bucket.fail("delete", [503, Lost()])
    for step in (2, 3):
        one.save(state(step), 1, step)
    assert [name[:22] for name in kept(bucket.uri("lab/a"))] == [
        "epoch-0001-step-000002",
        "epoch-0001-step-000003",
    ]


def test_a_save_that_fails_leaves_the_others_and_no_manifest(
    bucket: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_for(monkeypatch, 0.2, quick=False)
    one = store(bucket.uri("lab/a"))
    for step in (1, 2):
        one.save(state(step), 1, step)
    for name in ("weights.pt", MANIFEST):
        bucket.fail("upload", repeat(503), name)
        with pytest.raises(InputError, match=r"checkpoints .*://lab/a: HTTP 503") as error:
            one.save(state(3), 1, 3)
        one_line(error)
        bucket.mend()
        assert number_of(store(bucket.uri("lab/a")).load()) == 2
    one.save(state(4), 1, 4)
    assert [name[:22] for name in kept(bucket.uri("lab/a"))] == [
        "epoch-0001-step-000002",
        "epoch-0001-step-000004",
    ]


def test_a_bucket_that_fails_when_it_is_read_is_an_error_not_a_new_beginning(
    bucket: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_for(monkeypatch, 0.2, quick=False)
    store(bucket.uri("lab/a")).save(state(1), 1, 1)
    bucket.fail("download", repeat(503))
    with pytest.raises(InputError, match=r"checkpoints .*://lab/a: HTTP 503") as error:
        store(bucket.uri("lab/a")).load()
    one_line(error)


def test_an_older_one_that_cannot_be_deleted_is_only_told(
    bucket: AnyStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    try_for(monkeypatch, 0.2, quick=False)
    one = store(bucket.uri("lab/a"))
    for step in (1, 2):
        one.save(state(step), 1, step)
    bucket.fail("delete", repeat(503))
    one.save(state(3), 1, 3)
    bucket.mend()
    assert "WARNING: checkpoint: an older one could not be deleted" in capsys.readouterr().err
    assert number_of(store(bucket.uri("lab/a")).load()) == 3


def test_a_folder_needs_nothing_but_torch(tmp_path: Path) -> None:
    code = """
import sys
for name in ("google", "boto3", "requests", "huggingface_hub", "numpy", "pandas", "kfp", "yaml"):
    sys.modules[name] = None
from components.finetune.checkpoints import Checkpoints
from components.finetune.places import open_place
Checkpoints(open_place(sys.argv[1]), {}).save({"progress": 1}, 1, 1)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(kept(str(tmp_path))) == 1


@pytest.fixture
def little_room() -> Iterator[None]:
    """Let no file grow beyond 64 KiB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_the_others_and_nothing_half_written(
    tmp_path: Path, little_room: None
) -> None:
    one = store(str(tmp_path))
    one.save(state(1), 1, 1)
    with pytest.raises(InputError, match=f"checkpoints {tmp_path}: File too large") as error:
        one.save({"weights": torch.zeros(2**20)}, 1, 2)
    one_line(error)
    assert [path.name[:22] for path in tmp_path.iterdir()] == ["epoch-0001-step-000001"]
    assert number_of(store(str(tmp_path)).load()) == 1


def test_every_file_of_a_checkpoint_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}
    sync = os.fsync

    def watched(descriptor: int) -> None:
        facts = os.fstat(descriptor)
        synced[facts.st_ino] = facts.st_size
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    written = Path(store(str(tmp_path)).save(state(1), 1, 0))
    files = {path.name: path.stat() for path in written.iterdir()}
    assert set(files) == {MANIFEST, "weights.pt", "progress.pt"}
    assert all(synced[facts.st_ino] == facts.st_size for facts in files.values())
