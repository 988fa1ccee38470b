"""Weights & Biases: complete and syncable offline, sent online, and no outage stops a run."""

import getpass
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.finetune import tracking
from components.finetune.tracking import Tracker, without_paths
from tests.servers.wandb_server import KEY, Service, serving_wandb

CONFIG = {"recipe": "default", "seed": 3, "settings": {"learning_rate": 1e-4, "epochs": 3}}
EPOCHS = [
    {"epoch": epoch, "train_loss": 1 / epoch, "val_pearson_delta": epoch / 10}
    for epoch in (1, 2, 3)
]


@pytest.fixture
def service() -> Iterator[Service]:
    with serving_wandb() as service:
        yield service


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without a key, and times that a test can wait for."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tracking, "START_SECONDS", 0.5)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)


@pytest.fixture
def online(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "START_SECONDS", 30.0)
    return service


def track(folder: Path, before_finish: Callable[[], object] = lambda: None) -> str:
    with Tracker(CONFIG) as tracker:
        for epoch in EPOCHS:
            tracker.log(epoch)
        before_finish()
        return tracker.finish(folder)


def sync(run: Path) -> Service:
    """Send a kept run with the real client, as its message says; return what arrived."""
    with serving_wandb() as service:
        access = {"WANDB_BASE_URL": service.url, "WANDB_API_KEY": KEY}
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--include-online", str(run)],
            cwd=run.parent,  # the client keeps a log of its own there
            env=os.environ | access | {"WANDB_ERROR_REPORTING": "false"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    return service


def assert_complete(service: Service, exit_code: int = 0) -> None:
    assert service.config.items() >= CONFIG.items()
    rows = [service.history[place] for place in sorted(service.history)]
    assert [row.items() >= epoch.items() for row, epoch in zip(rows, EPOCHS, strict=True)] == (
        [True] * len(EPOCHS)
    )
    assert service.summary.items() >= EPOCHS[-1].items()
    assert service.exit_code == exit_code


def kept_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_without_a_key_sends_nothing_and_is_kept_whole(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    run = track(tmp_path / "model")
    assert run.startswith("wandb/offline-run-")
    assert service.requests == []
    assert capfd.readouterr() == ("", "")
    before = kept_in(tmp_path / "model")
    assert_complete(sync(tmp_path / "model" / run))
    # Files of an artifact that changed would no longer be the ones in its provenance.
    assert kept_in(tmp_path / "model").items() >= before.items()


def test_a_run_with_a_key_is_sent_as_it_goes_and_kept(
    online: Service, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run = track(tmp_path / "model")
    assert re.fullmatch(f"{online.url}/lab/scgpt-perturb/runs/[a-z0-9]+", run)
    assert_complete(online)
    assert {"config.yaml", "wandb-summary.json"} == set(online.files)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    kept = kept_in(tmp_path / "model")
    assert [path.suffix for path in kept] == [".wandb"]
    assert not any(KEY.encode() in content for content in kept.values())
    assert not any(KEY in request for request in online.requests)


def test_a_mode_that_sends_needs_no_other_word_than_wandbs(
    online: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "run")  # wandb's older name of online
    assert track(tmp_path / "model").startswith(online.url)


def test_no_run_is_kept_where_it_is_disabled(
    online: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(tracking, "PROCESS", tmp_path / "is not started")
    (tmp_path / "model").mkdir()
    assert track(tmp_path / "model") == ""
    assert list((tmp_path / "model").iterdir()) == online.requests == []
    assert capfd.readouterr() == ("", "")


def test_a_key_alone_does_not_send_what_the_mode_forbids(
    online: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert track(tmp_path / "model").startswith("wandb/offline-run-")
    assert online.requests == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "ofline", "WANDB_MODE is 'ofline', nearest: 'offline'"),
        ("WANDB_MODE", "yes", "WANDB_MODE is 'yes'"),
        ("WANDB_BASE_URL", "wandb.example.org", "Weights & Biases: "),
        ("WANDB_CONSOLE", "of", ""),
        ("WANDB_START_METHOD", "tread", ""),
        ("WANDB_PROJECT", "a/b:c", ""),
        ("WANDB_RUN_ID", "a/b", ""),
        ("WANDB__SERVICE_WAIT", "long", ""),
    ],
)
def test_a_typing_error_in_the_environment_does_not_cost_the_record(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 10.0)
    assert track(tmp_path / "model").startswith("wandb/offline-run-")
    assert [path.suffix for path in kept_in(tmp_path / "model")] == [".wandb"]
    told = capfd.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_a_run_whose_training_fails_is_marked_as_failed(online: Service, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Tracker(CONFIG) as tracker:
        tracker.log(EPOCHS[0])
        raise RuntimeError
    assert online.exit_code == 1
    assert online.history[0].items() >= EPOCHS[0].items()


TRAIN_AND_WAIT = """
import time
from components.finetune.tracking import Tracker
with Tracker({"recipe": "default"}) as tracker:
    tracker.log({"epoch": 1, "train_loss": 1.0, "val_pearson_delta": 0.1})
    time.sleep(60)
"""


def test_a_run_whose_training_is_killed_is_marked_as_failed_and_leaves_nothing(
    online: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    training = subprocess.Popen([sys.executable, "-c", TRAIN_AND_WAIT])
    assert online.started.wait(30)
    training.kill()
    training.wait()
    wait_until(lambda: online.exit_code is not None)
    assert online.exit_code == 1
    assert online.history[0].items() >= EPOCHS[0].items()
    wait_until(lambda: not list(scratch.iterdir()))


@pytest.mark.parametrize("outage", ["refuses", "hangs", "fails", "denies"])
def test_without_the_service_a_run_is_kept_offline_and_training_does_not_wait(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    outage: str,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY[::-1] if outage == "denies" else KEY)
    service.hangs = outage == "hangs"
    service.status = 500 if outage == "fails" else 200
    if outage == "refuses":
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
    started = time.monotonic()
    with Tracker(CONFIG) as tracker:
        for epoch in EPOCHS:
            tracker.log(epoch)
        # The client alone takes half a second to start, and as long again to give up.
        assert time.monotonic() - started < 1
        run = tracker.finish(tmp_path / "model")
    line = only_line(capfd)
    assert line.endswith(
        f"the run is kept, `wandb sync --include-online {run}` in the model's folder sends it"
    )
    assert KEY not in line and KEY[::-1] not in line
    assert_complete(sync(tmp_path / "model" / run))


def only_line(capfd: pytest.CaptureFixture) -> str:
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("finetune: note: Weights & Biases: ")
    return err.strip()


@pytest.mark.parametrize(
    ("outage", "said"),
    [
        ("hangs", "Timed out finishing run"),
        ("fails", "Timed out finishing run"),
        ("denies", "Fatal error while uploading data"),
    ],
)
def test_an_outage_in_the_middle_ends_in_time_and_loses_nothing(
    online: Service, tmp_path: Path, capfd: pytest.CaptureFixture, outage: str, said: str
) -> None:
    with Tracker(CONFIG) as tracker:
        tracker.log(EPOCHS[0])
        assert online.started.wait(30)
        online.hangs = outage == "hangs"
        online.status = {"fails": 500, "denies": 403}.get(outage, 200)
        for epoch in EPOCHS[1:]:
            tracker.log(epoch)
        started = time.monotonic()
        url = tracker.finish(tmp_path / "model")
        assert time.monotonic() - started < tracking.FINISH_SECONDS + 10
    assert url.startswith(online.url)
    line = only_line(capfd)
    assert said in line
    (run,) = (tmp_path / "model" / "wandb").iterdir()
    assert f"wandb/{run.name}" in line
    assert_complete(sync(run))


def test_a_service_that_dies_in_the_middle_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving_wandb() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        monkeypatch.setattr(tracking, "START_SECONDS", 30.0)
        tracker = Tracker(CONFIG)
        tracker.log(EPOCHS[0])
        assert service.started.wait(30)
    with tracker:
        for epoch in EPOCHS[1:]:
            tracker.log(epoch)
        tracker.finish(tmp_path / "model")
    assert "Timed out finishing run" in only_line(capfd)
    (run,) = (tmp_path / "model" / "wandb").iterdir()
    assert_complete(sync(run))


def test_a_process_that_stands_still_holds_nothing_up(
    online: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 1.0)
    with Tracker(CONFIG) as tracker:
        for epoch in EPOCHS:
            tracker.log(epoch)
        assert online.started.wait(30)
        os.kill(tracker._process.pid, signal.SIGSTOP)
        started = time.monotonic()
        for _ in range(2000):  # more than a pipe takes
            tracker.log(EPOCHS[-1])
        tracker.finish(tmp_path / "model")
        assert time.monotonic() - started < tracking.END_SECONDS + 5
    assert "not done within 1 s" in only_line(capfd)


def test_a_process_that_is_killed_fails_no_run_and_keeps_what_it_had(
    online: Service, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    with Tracker(CONFIG) as tracker:
        for epoch in EPOCHS:
            tracker.log(epoch)
        assert online.started.wait(30)
        (log,) = tracker._scratch.rglob("*.wandb")
        # It is written out each second.
        wait_until(lambda: log.read_bytes().count(b"train_loss") >= len(EPOCHS))
        tracker._process.kill()
        for epoch in EPOCHS:
            tracker.log(epoch)
        tracker.finish(tmp_path / "model")
    assert "its process failed" in only_line(capfd)
    (run,) = (tmp_path / "model" / "wandb").iterdir()
    assert_complete(sync(run), exit_code=1)


def test_nothing_of_the_machine_is_kept_or_sent(
    online: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "checkout"
    repository.mkdir()
    for command in (["init", "-q"], ["remote", "add", "origin", "https://example.org/secret.git"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    monkeypatch.chdir(repository)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "marie-curie")
    assert getpass.getuser() == "marie-curie"
    monkeypatch.setattr(sys, "argv", ["--argument-of-somebody"])
    home = os.environ["HOME"]
    with Tracker(CONFIG | {"pretrained": f"{home}/scgpt_human"}) as tracker:
        tracker.log(EPOCHS[0])
        tracker.finish(tmp_path / "model")
    assert online.exit_code == 0
    assert online.config["pretrained"] == "scgpt_human"
    # No metrics of the client itself, no reports of its crashes, no look at who the user is.
    assert {request.split()[1].split("/")[1] for request in online.requests} == {
        "graphql",
        "files",
        "upload",
    }
    kept = [content.decode(errors="replace") for content in kept_in(tmp_path / "model").values()]
    assert kept
    for text in [*kept, *online.requests]:
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), text
        code = str(Path(tracking.__file__).parent)
        for told in ("marie-curie", str(tmp_path), code, sys.prefix, "secret.git", "argument-of"):
            assert told not in text, (told, text)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/home/me/scgpt human/", "scgpt human/"),
        ("file:///home/me/best.pt", "best.pt"),
        ("random://tiny?vocabulary=/home/me/vocab.json", "random://tiny?vocabulary=vocab.json"),
        ("gs://bucket/a/b.h5ad", "gs://bucket/a/b.h5ad"),
        ("hf://models/lab/model", "hf://models/lab/model"),
        ("CC BY-NC 4.0 / see the paper", "CC BY-NC 4.0 / see the paper"),
        ([{"source": "/data/esm2.parquet"}, 3, None], [{"source": "esm2.parquet"}, 3, None]),
    ],
)
def test_local_paths_are_told_by_their_last_part(said: object, kept: object) -> None:
    assert without_paths(said) == kept
