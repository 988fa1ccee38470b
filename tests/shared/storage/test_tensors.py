"""Files of tensors: equal tables are equal bytes."""

import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from components.shared.storage.tensors import order_metadata

NAMES = {f"key {i} é\u2028\x7f\n": json.dumps([f'G"{i}', "\\"]) for i in range(12)}
TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}


def test_metadata_are_in_order_and_the_rest_of_the_file_is_as_it_was(tmp_path):
    path, other = tmp_path / "t.safetensors", tmp_path / "other.safetensors"
    save_file(TENSORS, path, metadata=NAMES)
    before = path.read_bytes()
    order_metadata(path)
    size = 8 + int.from_bytes(before[:8], "little")
    assert path.read_bytes()[size:] == before[size:]
    found = json.loads(path.read_bytes()[8:size])["__metadata__"]
    assert list(found) == sorted(NAMES)
    with safe_open(path, "np") as file:
        assert file.metadata() == NAMES
    for name, tensor in load_file(path).items():
        np.testing.assert_array_equal(tensor, TENSORS[name])
    save_file(TENSORS, other, metadata=dict(reversed(NAMES.items())))
    order_metadata(other)
    assert other.read_bytes() == path.read_bytes()
