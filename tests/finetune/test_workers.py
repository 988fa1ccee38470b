"""A fine-tune by several processes, or in several parts, is the fine-tune of one in one."""

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from components.finetune import training
from components.finetune.finetune import finetune
from components.finetune.training import one_ahead
from components.shared.telling.errors import InputError
from tests.finetune.interrupted import arguments, interrupted_world
from tests.forkserver import Forked
from tests.helpers import one_line

TINY = {"epochs": 2, "batch_size": 24, "learning_rate": 1e-3}
SCORES = (
    "train_loss",
    "train_delta_loss",
    "val_loss",
    "val_pearson_delta",
    "val_pearson_delta_seen",
    "val_discrimination",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted_world(tmp_path_factory.mktemp("world"))


def history(model: Path) -> list[dict[str, Any]]:
    return json.loads((model / "training_stats.json").read_text())["history"]


def train(world: Path, target: Path, **changes: Any) -> Path:
    """Train a model without dropout, whose masks do depend on how a batch is divided."""
    overrides = TINY | changes.pop("overrides", {})
    pretrained = f"random://tiny?vocabulary={world / 'vocab.json'}"
    changes = {"pretrained": pretrained, "overrides": overrides} | changes
    finetune(**arguments(world, target, changes.pop("checkpoints", ""), **changes))
    return target


@pytest.fixture(scope="module")
def alone(world: Path) -> Path:
    return train(world, world / "alone")


def assert_close(model: Path, other: Path) -> None:
    """Compare scores and weights as far as sums in another order allow."""
    for one, two in zip(history(model), history(other), strict=True):
        for name in SCORES:
            assert one[name] == pytest.approx(two[name], abs=2e-4), name
        assert one["cells"] == two["cells"]
    states = [torch.load(m / "best_model.pt", weights_only=True) for m in (model, other)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=2e-3, rtol=1e-3, msg=name)


def test_two_processes_give_the_scores_of_one_at_the_same_batch(
    world: Path,
    alone: Path,
    tmp_path: Path,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    two = train(world, tmp_path / "two", processes=2)
    assert signal.getsignal(signal.SIGTERM) == before
    assert_close(alone, two)
    stats = json.loads((two / "training_stats.json").read_text())
    assert stats["processes"] == 2


BY_TWO = """
import functools, os, signal, torch
from pathlib import Path
from components.finetune import validation
from components.finetune.checkpoints import Checkpoints
from components.finetune.finetune import finetune
from components.shared.artifacts.failure import errors_of
from torch.distributed.launcher import api
torch.set_num_threads(1)
# spawned, as users' are, each would import all anew: that is one test's
api.LaunchConfig = functools.partial(api.LaunchConfig, start_method="fork")
{before}
with errors_of("finetune", {target!r}, in_grid={in_grid}):
    finetune(**{given!r})
"""


IN_VALIDATION = """
predict = validation.predict_cells
def interrupted(*some, **more):
    if os.environ.get("RANK") == "{rank}":
        os.kill(os.getpid(), signal.{signal})
    return predict(*some, **more)
validation.predict_cells = interrupted
"""


def by_two(world: Path, target: Path, checkpoints: Path | str) -> dict[str, Any]:
    pretrained = f"random://tiny?vocabulary={world / 'vocab.json'}"
    given = {"pretrained": pretrained, "overrides": TINY, "processes": 2}
    return arguments(world, target, checkpoints, **given)


def started(given: dict[str, Any], before: str = "", *, in_grid: bool = False) -> Forked:
    """Start a fine-tune; ``before`` is executed first, and what it changes each process has."""
    given = {name: str(x) if isinstance(x, Path) else x for name, x in given.items()}
    code = BY_TWO.format(before=before, target=given["target"], in_grid=in_grid, given=given)
    return Forked(code)


def test_what_two_processes_left_one_goes_on_with(
    world: Path,
    tmp_path: Path,
) -> None:
    """SIGTERM to the process that started them stops both after the same step, its state kept."""
    place = tmp_path / "kept"
    given = arguments(
        world,
        tmp_path / "model",
        place,
        pretrained=f"random://tiny?vocabulary={world / 'vocab.json'}",
        overrides=TINY | {"epochs": 40, "early_stop_after": 40},
        processes=2,
    )
    process = started(given)
    deadline = time.monotonic() + 90
    while not list(place.glob("epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.end() == 128 + signal.SIGTERM, process.said
    said = process.said
    assert said.count("finetune: stopped at") == 1, said
    kept = sorted(path.name for path in place.glob("epoch-*"))
    epoch = int(kept[-1].split("-")[1])
    settings = TINY | {"epochs": 40, "early_stop_after": 40}
    done = train(world, tmp_path / "model", checkpoints=place, overrides=settings)
    assert len(history(done)) > epoch - 1
    assert not list(tmp_path.glob(".model.*.partial"))


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_process_lets_both_leave_a_validation(
    world: Path,
    tmp_path: Path,
    rank: int,
) -> None:
    given = by_two(world, tmp_path / "model", tmp_path / "kept")
    before = IN_VALIDATION.format(rank=rank, signal="SIGTERM")
    process = started(given, before)
    assert process.end() == 128 + signal.SIGTERM, process.said
    said = process.said
    assert said.count("finetune: stopped at epoch 1, step 7") == 1, said
    (kept,) = (tmp_path / "kept").glob("epoch-*")
    assert kept.name.startswith("epoch-0001-step-000007-")
    assert not (tmp_path / "model").exists()


def test_a_process_that_is_killed_fails_the_task_of_a_grid_so_that_it_is_tried_again(
    world: Path,
    tmp_path: Path,
) -> None:
    given = by_two(world, tmp_path / "model", tmp_path / "kept")
    before = IN_VALIDATION.format(rank=1, signal="SIGKILL")
    process = started(given, before, in_grid=True)
    assert process.end() == 128 + signal.SIGKILL, process.said
    said = process.said
    assert "finetune: note: one of 2 processes ended, exit code -9" in said
    assert not (tmp_path / "model").exists()


def test_processes_that_would_go_on_from_different_checkpoints_do_not_start(
    world: Path,
    tmp_path: Path,
) -> None:
    place = tmp_path / "kept"
    train(world, tmp_path / "first", checkpoints=place)
    shutil.rmtree(tmp_path / "first")
    given = by_two(world, tmp_path / "model", place)
    before = """
load = Checkpoints.load
Checkpoints.load = lambda self: None if os.environ.get("RANK") == "1" else load(self)
"""
    process = started(given, before)
    assert process.end() == 1, process.said
    said = process.said
    assert re.search(
        r"process 1 would start from pretrained weights (\w{12}) and no checkpoint, process 0 from "
        r"pretrained weights \1 and checkpoint \S+/epoch-0003-step-000000-\w+; one could not read",
        said,
    ), said
    assert not (tmp_path / "model").exists()


MAPPED = """
import mmap, tempfile
from components.shared.storage import machine
machine.memory = lambda: 0
tempfile.tempdir = {folder!r}
made = mmap.mmap

def mapping(file, size):
    os.write(2, b"maps file %d, " % os.fstat(file).st_ino)
    return made(file, size)

mmap.mmap = mapping
"""


def test_cells_too_large_for_the_memory_are_one_file_that_two_processes_fill_and_map(
    world: Path, alone: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = started(by_two(world, tmp_path / "model", ""), MAPPED.format(folder=str(temporary)))
    assert process.end() == 0, process.said
    one, two = re.findall(r"maps file (\d+)", process.said)
    assert one == two
    assert not [path for path in temporary.iterdir() if path.is_file()]
    assert_close(alone, tmp_path / "model")


FULL = """
import errno
from components.finetune import room

def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

room.reserve = full
"""


def test_an_error_of_one_process_is_told_once_and_nothing_is_written(
    world: Path, tmp_path: Path
) -> None:
    """The other waits for it then, and fails in turn."""
    given = by_two(world, tmp_path / "model", "")
    process = started(given, MAPPED.format(folder=str(tmp_path)) + FULL)
    assert process.end() == 1, process.said
    assert [line.partition(" (")[0] for line in process.said.splitlines()] == [
        f"finetune: error: {tmp_path}: no room for 0.0 GiB of training cells",
        "finetune: error: 1 of 2 processes ended early, exit code 1; the line above says why",
    ]
    assert not (tmp_path / "model").exists()


class Memory:
    """A device that holds so many cells at once: what a GPU says when they are more."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.refused = 0

    def forward(self, model: Any, batch: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(batch.values) > self.cells:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return model(batch.ids, batch.values, batch.flags)


def test_out_of_memory_a_step_is_computed_in_parts_with_the_same_result(
    world: Path,
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    memory = Memory(cells=12)
    monkeypatch.setattr(training, "forward", memory.forward)
    assert_close(alone, train(world, tmp_path / "model"))
    said = capsys.readouterr().err
    assert "Lower batch_size=24 or max_genes=16 to avoid it" in said
    assert memory.refused == said.count("out of memory") <= 2  # not once a step


def test_a_single_set_that_does_not_fit_is_refused_by_the_settings_to_lower(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "forward", Memory(cells=0).forward)
    with pytest.raises(InputError, match="lower max_genes=16 or set_size=8") as error:
        train(world, tmp_path / "model")
    one_line(error)
    assert not (tmp_path / "model").exists()


def test_the_next_item_is_made_while_one_is_used_and_all_come_in_order() -> None:
    made: list[int] = []

    def making() -> Any:
        for number in range(5):
            made.append(number)
            yield number

    items = one_ahead(making())
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]
    assert list(items) == [1, 2, 3, 4]


def test_an_error_in_making_an_item_reaches_the_one_who_asks() -> None:
    def making() -> Any:
        yield 1
        raise InputError("no more")

    items = one_ahead(making())
    assert next(items) == 1
    with pytest.raises(InputError, match="no more"):
        next(items)
