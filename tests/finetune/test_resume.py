"""A fine-tune that is stopped, however it is, ends as if it had not been."""

import json
import math
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from kfp import dsl

from components.finetune import checkpoint_manager, training, validation
from components.finetune.component import finetune as task
from components.finetune.finetune import finetune
from components.finetune.workers import Workers
from components.shared.telling.errors import InputError
from tests.finetune.finetune_process import FineTune, Position
from tests.finetune.interrupted import EPOCHS, SETTINGS, arguments, divide, interrupted_world
from tests.finetune.screens import VOCABULARY, write_prior
from tests.helpers import cells_artifact, one_line, screen
from tests.servers.faults import Cut
from tests.servers.stores import AnyStore, serving, try_for

STEPS = 8
"""Of an epoch."""
WALL_CLOCK = ("seconds", "cells_per_second")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def _as_in_the_processes() -> Iterator[None]:
    """One thread, since their number changes the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> Path:
    finetune(**arguments(world, world / "undisturbed", ""))
    stats = json.loads((world / "undisturbed" / "training_stats.json").read_text())
    assert math.ceil(stats["cells_per_epoch"] / SETTINGS["batch_size"]) == STEPS
    return world / "undisturbed"


def assert_same(model: Path, other: Path) -> None:
    """Compare weights bit for bit, and the history but for the clock."""
    one, two = (torch.load(m / "best_model.pt", weights_only=True) for m in (model, other))
    assert list(one) == list(two)
    for name in one:
        assert torch.equal(one[name], two[name]), name
    stats = [json.loads((m / "training_stats.json").read_text()) for m in (model, other)]
    for each in stats:
        for epoch in each["history"]:
            for key in WALL_CLOCK:
                epoch.pop(key)
    for key in ("history", "best_epoch", "best_val_pearson_delta", "stop_reason", "cells_seen"):
        assert stats[0][key] == stats[1][key], key


def count(position: Position) -> int:
    """Return the number of steps done at epoch under way and steps done in it."""
    epoch, step = position
    return (epoch - 1) * STEPS + step


@pytest.mark.parametrize(("minutes", "most_repeated"), [(0, 1), (10, STEPS)])
def test_killed_many_times_at_random_moments_it_ends_with_the_same_weights(
    world: Path, undisturbed: Path, tmp_path: Path, minutes: float, most_repeated: int
) -> None:
    moments = random.Random(f"{minutes}")
    given = arguments(world, tmp_path / "model", tmp_path / "checkpoints")
    begun: list[Position] = []
    kills = 0
    for attempt in range(40):
        wait = moments.randint(0, 2 if minutes == 0 else STEPS + 3)
        run = FineTune(
            tmp_path / f"{attempt}", given, minutes=minutes, most=wait if kills < 7 else None
        )
        if kills < 7:
            run.wait_for_steps(wait)
            time.sleep(moments.uniform(0, 0.1))
            run.process.kill()
        code = run.end()
        if run.begun and begun:
            repeated = count(begun[-1]) - count(run.begun[0]) + 1
            assert repeated <= most_repeated
        begun = run.begun or begun
        if code == 0:
            break
        assert code == -signal.SIGKILL, run.said
        kills += 1
    assert kills >= 5
    assert_same(tmp_path / "model", undisturbed)
    left = list((tmp_path / "checkpoints").iterdir())
    assert [path.name[:22] for path in left] == [f"epoch-{EPOCHS + 1:04d}-step-000000"]


def test_sigterm_keeps_the_step_under_way_and_says_how_to_go_on(
    world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    place = tmp_path / "checkpoints"
    given = arguments(world, tmp_path / "out" / "model", place)
    run = FineTune(tmp_path / "first", given, minutes=10)
    run.wait_for_steps(STEPS + 3)
    run.process.terminate()
    assert run.end() == 143
    epoch, step = run.saved[-1]
    assert run.begun[-1] == (epoch, step)
    (line,) = [line for line in run.said.split("\n") if "stopped at" in line]
    assert re.fullmatch(
        rf"finetune: stopped at epoch {epoch}, step {step}; the last good checkpoint is "
        rf"{place}/epoch-000{epoch}-step-00000{step}-[0-9a-f]{{8}}; run it again with "
        rf"checkpoints={place} to resume",
        line,
    )
    assert list((tmp_path / "out").iterdir()) == []
    again = FineTune(tmp_path / "second", given, minutes=10)
    assert again.end() == 0, again.said
    assert f"finetune: resuming from epoch {epoch}, step {step}: {place}/epoch-000" in again.said
    assert count(again.begun[0]) == count((epoch, step)) + 1
    assert_same(tmp_path / "out" / "model", undisturbed)


def test_a_bucket_serves_as_well_as_a_folder(
    world: Path, undisturbed: Path, tmp_path: Path, bucket: AnyStore
) -> None:
    given = arguments(world, tmp_path / "model", bucket.uri("lab/runs/model.checkpoints"))
    run = FineTune(tmp_path / "first", given, minutes=0)
    run.wait_for_steps(4)
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    _, step = run.begun[-1]
    bucket.fail("download", [503, None, Cut(1000)])
    run = FineTune(tmp_path / "second", given, minutes=10)
    assert run.end() == 0, run.said
    assert run.begun[0] in ((1, step), (1, step + 1))
    assert_same(tmp_path / "model", undisturbed)


# In this process from here on: what interrupts is put between two steps.


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyStore]:
    with serving(request.param, monkeypatch, "lab") as bucket:
        yield bucket


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Position], None]], None]:
    """Let a function be called as each step begins, with its epoch and number."""
    drawn = training.steps

    def install(call: Callable[[Position], None]) -> None:
        def watched(*place: Any, first: int) -> Iterator[Any]:
            for step, batch in enumerate(drawn(*place, first=first), start=first + 1):
                call((place[4], step))
                yield batch

        monkeypatch.setattr(training, "steps", watched)

    return install


def terminate_at(place: Position) -> Callable[[Position], None]:
    def call(begun: Position) -> None:
        if begun == place:
            signal.raise_signal(signal.SIGTERM)

    return call


@pytest.fixture
def stopped(world: Path, tmp_path: Path, at_step: Callable) -> Path:
    """The checkpoints of a fine-tune that got SIGTERM in the second epoch."""
    kept = world / "stopped"
    if not kept.exists():
        at_step(terminate_at((2, 4)))
        with pytest.raises(SystemExit) as error:
            finetune(**arguments(world, tmp_path / "model", kept))
        assert error.value.code == 143
        at_step(lambda begun: None)
    return Path(shutil.copytree(kept, tmp_path / "checkpoints"))


def newest(checkpoints: Path) -> Path:
    return sorted(checkpoints.iterdir())[-1]


def test_sigterm_ends_it_after_the_very_step_and_then_means_what_it_did(stopped: Path) -> None:
    assert newest(stopped).name.startswith("epoch-0002-step-000004-")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_thread_which_may_not_hear_signals_trains_and_keeps_too(
    world: Path, tmp_path: Path
) -> None:
    given = arguments(world, tmp_path / "model", tmp_path / "kept", overrides={"epochs": 1})
    thread = threading.Thread(target=lambda: finetune(**given))
    thread.start()
    thread.join(60)
    assert (tmp_path / "model").exists()
    assert newest(tmp_path / "kept").name.startswith("epoch-0002-step-000000-")


def stop_in_validation(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tune until the first validation, where SIGTERM comes."""
    predict = validation.predict_cells

    def interrupted(*some: Any, **more: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return predict(*some, **more)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "predict_cells", interrupted)
        with pytest.raises(SystemExit):
            finetune(**given)


def test_a_validation_is_left_at_sigterm_and_done_again(
    world: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(world, tmp_path / "model", tmp_path / "checkpoints")
    stop_in_validation(given, monkeypatch)
    assert f"epoch-0001-step-{STEPS:06d}" in newest(tmp_path / "checkpoints").name
    finetune(**given)
    assert_same(tmp_path / "model", undisturbed)


def test_a_validation_before_training_is_done_again_too_for_what_is_to_be_beaten(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(world, tmp_path / "model", tmp_path / "kept", prior=world / "effects")
    finetune(**given | {"target": tmp_path / "whole", "checkpoints": ""})
    stop_in_validation(given, monkeypatch)
    assert "epoch-0001-step-000000" in newest(tmp_path / "kept").name
    finetune(**given)
    history = json.loads((tmp_path / "model" / "training_stats.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [*range(EPOCHS + 1)]
    assert_same(tmp_path / "model", tmp_path / "whole")


def test_sigterm_while_processes_agree_whether_to_leave_is_not_lost(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree, calls = Workers.any, []

    def interrupted(workers: Workers, flag: bool) -> bool:
        calls.append(flag)
        if len(calls) == 4:  # what is agreed on is fixed already; the first is where cells are
            signal.raise_signal(signal.SIGTERM)
        return agree(workers, flag)

    monkeypatch.setattr(Workers, "any", interrupted)
    with pytest.raises(SystemExit) as error:
        finetune(**arguments(world, tmp_path / "model", tmp_path / "checkpoints"))
    assert error.value.code == 143
    assert calls == [False, False, False, False, True]
    assert newest(tmp_path / "checkpoints").name.startswith("epoch-0001-step-000004-")


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    world: Path, undisturbed: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before, last = sorted(stopped.iterdir())
    weights = bytearray((last / "weights.pt").read_bytes())
    weights[len(weights) // 2] ^= 1
    (last / "weights.pt").write_bytes(weights)
    finetune(**arguments(world, tmp_path / "model", stopped))
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.split("\n") if " is damaged (" in line]
    assert line == (
        f"finetune: WARNING: checkpoint: {last} is damaged (sha256 of weights.pt is not the one in "
        f"manifest.json); going back to {before.name}"
    )
    assert "resuming from epoch 2, step 0" in printed.out
    assert_same(tmp_path / "model", undisturbed)
    assert not last.exists()


def test_with_all_damaged_it_begins_again(
    world: Path, undisturbed: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for checkpoint in stopped.iterdir():
        (checkpoint / "progress.pt").unlink()
    finetune(**arguments(world, tmp_path / "model", stopped))
    printed = capsys.readouterr()
    assert "going back to the beginning" in printed.err
    assert "going on from" not in printed.out
    assert_same(tmp_path / "model", undisturbed)


def test_a_finished_fine_tune_is_written_again_without_a_step(
    world: Path, undisturbed: Path, tmp_path: Path, at_step: Callable
) -> None:
    place = tmp_path / "checkpoints"
    finetune(**arguments(world, tmp_path / "first", place))
    begun: list[Position] = []
    at_step(begun.append)
    finetune(**arguments(world, tmp_path / "second", place))
    assert begun == []
    assert_same(tmp_path / "second", undisturbed)


def test_the_tracker_is_told_of_every_epoch_of_a_resumed_run(
    world: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    log = training_tracker().log
    monkeypatch.setattr(
        training_tracker(), "log", lambda self, facts: (told.append(facts), log(self, facts))
    )
    finetune(**arguments(world, tmp_path / "model", stopped))
    history = json.loads((tmp_path / "model" / "training_stats.json").read_text())["history"]
    assert told == history


def training_tracker() -> Any:
    from components.finetune.tracking import Tracker

    return Tracker


def other_cells(world: Path, folder: Path) -> dict[str, Any]:
    obs, X, genes = screen(cells_each=8, controls_each=16, seed=1)  # noqa: N806
    cells_artifact(folder / "cells", obs, X, genes)
    divide(folder, "splits", val_fraction=0.3)
    return {"cells": folder / "cells", "splits": folder / "splits"}


def other_splits(world: Path, folder: Path) -> dict[str, Any]:
    shutil.copytree(world / "cells", folder / "cells")
    divide(folder, "splits", val_fraction=0.5)
    return {"splits": folder / "splits"}


def other_prior(world: Path, folder: Path) -> dict[str, Any]:
    write_prior(folder / "prior", torch.ones(len(VOCABULARY), 8))
    return {"prior": folder / "prior"}


OTHERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "cells was sha256 .* and is sha256 .*, splits was": other_cells,
    "splits was sha256 .* and is sha256": other_splits,
    "prior was sha256 .* and is sha256": other_prior,
    "pretrained was sha256 .* and is sha256": lambda world, folder: {
        "pretrained": f"random://tiny?vocabulary={world / 'vocab.json'}"
    },
    "batch_size was 20 and is 12, learning_rate was 0.001 and is 0.01;": lambda world, folder: {
        "overrides": {"batch_size": 12, "learning_rate": 0.01}
    },
    "recipe": lambda world, folder: {"recipe": "default"},
    "seed was 5 and is 6": lambda world, folder: {"seed": 6},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_the_checkpoint_of_another_fine_tune_is_refused_by_the_difference(
    world: Path, stopped: Path, tmp_path: Path, difference: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kept = sorted(stopped.rglob("*"))
    with pytest.raises(InputError) as error:
        finetune(
            **arguments(world, tmp_path / "model", stopped, **OTHERS[difference](world, other))
        )
    expected = "is of another fine-tune: " + ("" if difference == "recipe" else difference)
    assert re.search(expected, one_line(error)), error.value
    assert "give another checkpoints= or remove it" in str(error.value)
    assert sorted(stopped.rglob("*")) == kept
    assert not (tmp_path / "model").exists()


def test_the_weights_of_a_pretrained_folder_count_not_where_it_is(
    world: Path, undisturbed: Path, tmp_path: Path, at_step: Callable
) -> None:
    shutil.copytree(undisturbed, tmp_path / "one")
    given = arguments(world, tmp_path / "model", tmp_path / "checkpoints")
    at_step(terminate_at((1, 2)))
    with pytest.raises(SystemExit):
        finetune(**given | {"pretrained": str(tmp_path / "one")})
    (tmp_path / "one").rename(tmp_path / "two")
    at_step(terminate_at((1, 4)))
    with pytest.raises(SystemExit):
        finetune(**given | {"pretrained": str(tmp_path / "two")})
    weights = torch.load(tmp_path / "two" / "best_model.pt", weights_only=True)
    weights["encoder.embedding.weight"] += 1
    torch.save(weights, tmp_path / "two" / "best_model.pt")
    with pytest.raises(InputError, match="pretrained was sha256"):
        finetune(**given | {"pretrained": str(tmp_path / "two")})


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_manager, "CHECKPOINT_MINUTES", 0)
    given = arguments(
        world, tmp_path / "model", tmp_path / "checkpoints", overrides={"learning_rate": 1e30}
    )
    with pytest.raises(InputError) as error:
        finetune(**given)
    last = newest(tmp_path / "checkpoints")
    assert last.name.startswith("epoch-0001-step-000001-")
    assert re.search(r"loss is (nan|inf) at epoch 1, step 2 \(perturbations '", one_line(error))
    assert str(error.value).endswith(f"; the last good checkpoint is {last}")


def test_a_checkpoint_is_written_every_interval_and_after_each_epoch(
    world: Path, tmp_path: Path, at_step: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()

    def tick(begun: Position) -> None:
        clock.now += 60

    written: list[Position] = []
    save = checkpoint_manager.Checkpoints.save

    def noted(self: Any, parts: Any, epoch: int, step: int) -> str:
        written.append((epoch, step))
        return save(self, parts, epoch, step)

    monkeypatch.setattr(checkpoint_manager, "time", clock)
    monkeypatch.setattr(checkpoint_manager, "CHECKPOINT_MINUTES", 4)
    monkeypatch.setattr(checkpoint_manager.Checkpoints, "save", noted)
    at_step(tick)
    finetune(
        **arguments(world, tmp_path / "model", tmp_path / "checkpoints", overrides={"epochs": 2})
    )
    assert written == [(1, 4), (1, 8), (2, 0), (2, 4), (2, 8), (3, 0)]


def test_a_bucket_that_fails_on_the_way_costs_checkpoints_not_the_run(
    world: Path,
    undisturbed: Path,
    tmp_path: Path,
    bucket: AnyStore,
    at_step: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    try_for(monkeypatch, 0.2, quick=False)

    def break_and_mend(begun: Position) -> None:
        if begun == (1, 2):
            bucket.fail("upload", repeat(503))
        if begun == (2, 2):
            bucket.mend()

    at_step(break_and_mend)
    finetune(**arguments(world, tmp_path / "model", bucket.uri("lab/checkpoints")))
    printed = capsys.readouterr()
    (warning,) = [line for line in printed.err.split("\n") if "WARNING: no checkpoint" in line]
    place = bucket.uri("lab/checkpoints")
    assert f"no checkpoint of epoch 2, step 0: checkpoints {place}: HTTP 503" in warning
    assert "training continues" in warning
    assert printed.out.count("finetune: checkpoint epoch-") == 2
    assert_same(tmp_path / "model", undisturbed)
    assert {name.split("/")[1][:22] for name in bucket.names("lab")} == {"epoch-0004-step-000000"}


@pytest.mark.parametrize("where", ["ftp://lab/checkpoints", "STORE://nowhere/checkpoints"])
def test_a_place_that_cannot_be_used_is_refused_before_anything_is_read(
    tmp_path: Path, bucket: AnyStore, where: str
) -> None:
    where = where.replace("STORE", bucket.scheme)
    with pytest.raises(InputError, match=where) as error:
        finetune(**arguments(tmp_path / "nothing", tmp_path / "model", where))
    one_line(error)


@pytest.mark.parametrize("root", ["gs://lab/run", "s3://lab/run", "minio://lab/run", ""])
def test_the_task_keeps_its_checkpoints_beside_the_uri_of_its_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """Whatever the scheme of the pipeline root is, minio:// (KFP's own store) among them."""
    scheme, uri = root.partition("://")[0], f"{root}/model" if root else ""
    with serving("gs" if scheme == "gs" else "s3", monkeypatch, "lab") as bucket:
        run_task(world, tmp_path, uri)
        assert getattr(bucket, "keys", set()) <= {"of-kfp" if scheme == "minio" else "of-aws"}
        if uri:
            assert {name[:44] for name in bucket.names("lab")} == {
                "run/model.checkpoints/epoch-0002-step-000000"
            }
            assert not (tmp_path / "model.checkpoints").exists()
        else:
            assert newest(tmp_path / "model.checkpoints").name.startswith("epoch-0002-step-000000-")


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_without_credentials_the_task_goes_on_with_checkpoints_on_its_own_disk(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    scheme: str,
) -> None:
    with serving("s3", monkeypatch, "lab") as bucket:
        for name in bucket.environment:
            if "KEY" in name:
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        run_task(world, tmp_path, f"{scheme}://lab/run/model")
        assert bucket.requests == []
    assert newest(tmp_path / "model.checkpoints").name.startswith("epoch-0002-step-000000-")
    assert f"WARNING: checkpoints: no credentials for {scheme}://" in capsys.readouterr().err


def run_task(world: Path, tmp_path: Path, uri: str) -> None:
    """Run the task as KFP does, its model at a URI."""
    model = dsl.Model(uri=uri or str(tmp_path / "model"))
    model.set_path(str(tmp_path / "model"))  # for gs:// KFP has one in /gcs
    given = arguments(world, tmp_path / "model", "", overrides={"epochs": 1})
    task.python_func(
        *(dsl.Dataset(uri=str(given[name])) for name in ("cells", "splits", "prior")),
        model,
        dsl.HTML(uri=str(tmp_path / "curves.html")),
        dsl.Metrics(uri=str(tmp_path / "stats")),
        given["pretrained"],
        given["recipe"],
        given["overrides"],
        given["seed"],
        gpus=0,
        checkpoints="",
        in_grid=False,
    )
