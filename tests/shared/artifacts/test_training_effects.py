"""What the training lines measured, written beside a model and read back."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE, TrainingEffects
from components.shared.telling.errors import InputError

EFFECTS = TrainingEffects(
    ["a", "b"],
    ["G1", "G2"],
    ["G1", "G2", "G3"],
    np.array([[[1.0, 2, 3], [4, 5, 6]], [[7, 8, 9], [np.nan] * 3]]),
    np.array([[3, 4], [5, 0]]),
    np.array([[0.5, 0, 1], [0, 0, 2]]),
)


def test_effects_are_read_back_as_written(tmp_path):
    EFFECTS.write(tmp_path / TRAINING_EFFECTS_FILE)
    found = TrainingEffects.read(tmp_path / TRAINING_EFFECTS_FILE)
    assert (found.lines, found.perturbations, found.genes) == (
        EFFECTS.lines,
        EFFECTS.perturbations,
        EFFECTS.genes,
    )
    for name in ("change", "cells", "control"):
        np.testing.assert_array_equal(getattr(found, name), getattr(EFFECTS, name))


def test_a_perturbation_has_the_lines_with_cells_of_it():
    assert EFFECTS.lines_of("G1") == ["a", "b"]
    assert EFFECTS.lines_of("G2") == ["a"]
    assert EFFECTS.lines_of("G9") == []


def test_a_file_that_is_no_table_of_effects_is_refused_in_one_line(tmp_path):
    path = tmp_path / TRAINING_EFFECTS_FILE
    with pytest.raises(InputError, match="fine-tune again"):
        TrainingEffects.read(path)
    save_file({"change": np.zeros((1, 1, 1), np.float32)}, path)
    with pytest.raises(InputError, match="fine-tune again"):
        TrainingEffects.read(path)


def test_names_that_do_not_fit_the_tensors_are_refused(tmp_path):
    path = tmp_path / TRAINING_EFFECTS_FILE
    wrong = TrainingEffects(
        EFFECTS.lines, ["G1"], EFFECTS.genes, EFFECTS.change, EFFECTS.cells, EFFECTS.control
    )
    wrong.write(path)
    with pytest.raises(InputError, match="names do not fit"):
        TrainingEffects.read(path)
