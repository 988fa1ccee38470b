"""Where the cells that train are kept, by how much memory there is."""

import tempfile

import numpy as np
import pytest
import torch

from components.finetune.loading import room_for
from components.shared.storage import machine
from components.shared.telling.errors import InputError

CPU = torch.device("cpu")


def test_cells_that_take_more_than_half_the_memory_are_mapped_from_a_file(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "memory", lambda: 2 * 4 * 30 * 7 - 1)
    mapped = []
    real = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *a, **k: mapped.append(a) or real(*a, **k))
    room = room_for(30, 7, CPU)
    values = np.random.default_rng(0).random((30, 7), np.float32)
    room[:] = torch.from_numpy(values)
    np.testing.assert_array_equal(room.numpy(), values)
    assert len(mapped) == 1 and list(tmp_path.iterdir()) == []
    room_for(29, 7, CPU)
    assert len(mapped) == 1


def test_a_disk_without_room_for_the_cells_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 0)
    with pytest.raises(InputError, match=r"no room for .* GiB of training cells"):
        room_for(2**40, 2**10, CPU)
