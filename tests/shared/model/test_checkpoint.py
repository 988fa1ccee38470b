"""Weights as people save them: wrapped in a dict of more, and named by what trained them."""

from pathlib import Path

import pytest
import torch

from components.shared.model.checkpoint import read_weights
from components.shared.telling.errors import InputError

WEIGHTS = {"encoder.weight": torch.ones(2, 3), "layers.0.Wqkv.weight": torch.zeros(6, 2)}
NAMES = ["encoder.weight", "layers.0.in_proj_weight"]


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "best_model.pt")
    return folder / "best_model.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model"])
def test_weights_are_found_in_what_was_saved_under_their_own_names(tmp_path, prefix, key) -> None:
    named = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    found = read_weights(saved({key: named, "epoch": 3} if key else named, tmp_path))
    assert list(found) == NAMES
    for tensor, wanted in zip(found.values(), WEIGHTS.values(), strict=True):
        assert torch.equal(tensor, wanted)


def test_a_prefix_that_some_names_lack_is_a_part_of_a_name(tmp_path) -> None:
    some = {"module.encoder.weight": torch.ones(1), "decoder.weight": torch.ones(1)}
    assert list(read_weights(saved(some, tmp_path))) == list(some)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 3}, 7])
def test_what_holds_no_weights_is_one_line(tmp_path, content) -> None:
    with pytest.raises(InputError, match="expected a state_dict"):
        read_weights(saved(content, tmp_path))
