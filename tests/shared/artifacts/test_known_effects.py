"""The table of known effects that a model artifact brings along."""

from pathlib import Path

import numpy as np

from components.shared.artifacts.known_effects import EffectTable


def test_a_table_is_read_as_it_was_written_in_32_bits(tmp_path: Path) -> None:
    change = np.random.default_rng(0).normal(size=(2, 3))  # of 64 bits
    table = EffectTable(["A", "B"], ["x", "y", "z"], change, ["measured", "mean"])
    table.write(tmp_path / "effects.safetensors")
    found = EffectTable.read(tmp_path / "effects.safetensors")
    assert found.change.dtype == np.float32
    np.testing.assert_array_equal(found.change, change.astype(np.float32))
    assert (found.perturbations, found.genes) == (["A", "B"], ["x", "y", "z"])
    assert found.origin == ["measured", "mean"] and found.near is None
