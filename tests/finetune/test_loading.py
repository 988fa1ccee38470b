"""Where the cells that train are kept, by how much memory there is."""

import mmap
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from components.finetune import loading
from components.finetune.data import TrainingData
from components.finetune.loading import load_training_data, read_dense
from components.finetune.room import Room, room_for
from components.finetune.workers import Workers
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.splits import Splits
from components.shared.model.tokens import GeneTokens
from components.shared.model.vocabulary import read_vocabulary
from components.shared.storage import machine
from components.shared.telling.errors import InputError
from tests.finetune.interrupted import interrupted_world

CPU = torch.device("cpu")


class Advised(mmap.mmap):
    """A mapped file that notes what the system is told of it."""

    advice: list[tuple[int, ...]]

    def madvise(self, *advice: int) -> None:
        """Note it, and pass it on."""
        self.advice = [*getattr(self, "advice", []), advice]
        super().madvise(*advice)


class Beside(Workers):
    """One of several processes, that waits for no other and hears of none."""

    def meet(self) -> None:
        """Go on."""

    def any(self, flag: bool) -> bool:
        """Return its own."""
        return flag

    def told(self, text: str = "") -> str:
        """Return its own."""
        return text


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Advised]:
    """Return the files that get mapped, in a folder for temporary files that is the test's."""
    made: list[Advised] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mmap, "mmap", lambda *of: made.append(Advised(*of)) or made[-1])
    return made


def test_cells_that_take_more_than_half_the_memory_are_mapped_from_a_file(
    tmp_path, monkeypatch, mapped
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 2 * 4 * 30 * 7 - 1)
    room = room_for(30, 7, CPU)
    values = np.random.default_rng(0).random((30, 7), np.float32)
    room.cells[:] = torch.from_numpy(values)
    np.testing.assert_array_equal(room.cells.numpy(), values)
    np.testing.assert_array_equal(np.frombuffer(mapped[0], np.float32).reshape(30, 7), values)
    assert len(mapped) == 1 and list(tmp_path.iterdir()) == []
    room_for(29, 7, CPU)
    assert len(mapped) == 1
    room_for(15, 7, CPU, Beside(0, 2))  # each would hold them
    assert len(mapped) == 2


def test_rows_of_a_mapped_file_are_read_before_they_are_used_and_no_others(
    monkeypatch, mapped
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 0)
    width = mmap.PAGESIZE + 4
    room = room_for(64, width // 4, CPU)
    (file,) = mapped
    assert file.advice == [(mmap.MADV_RANDOM,)]
    room.will_read(np.array([3, 40, 0]))
    for row, (advice, start, length) in zip((3, 40, 0), file.advice[1:], strict=True):
        assert advice == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert row * width - mmap.PAGESIZE < start <= row * width
        assert start + length == (row + 1) * width


def test_training_data_that_are_mapped_are_the_same_and_their_rows_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: list[Advised]
) -> None:
    (tmp_path / "world").mkdir()
    world = interrupted_world(tmp_path / "world")
    cells = Cells.open(world / "cells")
    splits = Splits.open(world / "splits", cells)
    tokens = GeneTokens.of(cells.genes, read_vocabulary(world / "vocab.json"))

    def loaded(memory: int) -> TrainingData:
        monkeypatch.setattr(machine, "memory", lambda: memory)
        return load_training_data(cells, splits, tokens, CPU, token_for_unmeasured=True)

    held, large = loaded(10**12), loaded(0)
    assert len(mapped) == 1
    torch.testing.assert_close(large.expression, held.expression, rtol=0, atol=0)
    assert large.reference_mean["k562"].tolist() == held.reference_mean["k562"].tolist()
    asked = len(mapped[0].advice)
    rows = held.train_rows[:3]
    torch.testing.assert_close(large.cells(rows), held.cells(rows), rtol=0, atol=0)
    assert len(mapped[0].advice) == asked + 3


def test_processes_that_share_a_room_each_fill_their_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Cells.open(interrupted_world(tmp_path) / "cells")
    rows, columns = np.arange(5, len(cells.obs), 3), np.array([4, 0, 2])
    whole = cells.rows(rows)[:, columns].toarray()
    shared = torch.full((len(rows), len(columns)), torch.nan)
    for rank in range(3):
        room = Room(shared, filled_by=Beside(rank, 3))
        monkeypatch.setattr(loading, "room_for", lambda *_, room=room: room)
        assert torch.isnan(shared).any()
        read_dense(cells, rows, columns, CPU)
    np.testing.assert_array_equal(shared.numpy(), whole)


def test_a_disk_without_room_for_the_cells_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 0)
    with pytest.raises(InputError, match=r"no room for .* GiB of training cells"):
        room_for(2**40, 2**10, CPU)
