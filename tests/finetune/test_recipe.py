from dataclasses import asdict

import pytest

from benchmarks.ablation import MENDS, NOT_TRIED, Size, ladder
from benchmarks.staged_run import SMALL
from components.shared.parameters.recipe import Recipe, load_recipe, recipe_names
from components.shared.telling.errors import InputError


def test_every_recipe_has_every_setting_and_is_read():
    assert recipe_names() == ["default", "reference", "smoke"]
    for name in recipe_names():
        assert isinstance(load_recipe(name, {}), Recipe)


def test_the_reference_recipe_is_the_reference_run():
    recipe = load_recipe("reference", {})
    assert (recipe.epochs, recipe.early_stop_after, recipe.batch_size) == (30, 10, 192)
    assert (recipe.max_genes, recipe.predict_window) == (1536, 0)
    assert (recipe.learning_rate, recipe.learning_rate_decay) == (1e-4, 0.9)
    assert (recipe.precision, recipe.gradient_clip) == ("fp16", 1.0)
    assert not (recipe.targets_in_window or recipe.redraw_controls or recipe.zero_no_flag)
    assert not recipe.contrast
    assert recipe.control_partner == "self"
    assert (recipe.set_size, recipe.delta_weight) == (0, 0)


def test_single_cells_can_be_asked_for():
    recipe = load_recipe("default", {"set_size": 0, "delta_weight": 0})
    assert (recipe.set_size, recipe.delta_weight) == (0, 0.0)


def test_whole_numbers_that_kfp_turned_into_floats_come_back_whole():
    assert load_recipe("default", {"epochs": 3.0, "learning_rate": 1}).epochs == 3


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"epoch": 3}, r"'epoch' is not a setting.*nearest: 'epochs'"),
        ({"version": 2}, "not a setting"),
        ({"epochs": 2.5}, "type int"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": "many"}, "type int"),
        ({"redraw_controls": 1}, "type bool"),
        ({2: 3}, "override '2' is not a setting"),
        ({"epochs": True}, "type int"),
        ({"precision": "fp8"}, "allowed: fp16, bf16, fp32"),
        ({"learning_rate": -1}, "above 0"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"gradient_clip": float("inf")}, "finite"),
        ({"epochs": float("inf")}, "type int"),
        ({"learning_rate_decay": 5.0}, "at most 1"),
        ({"delta_weight": -1}, "at least 0"),
        ({"set_size": 0}, "delta_weight=.* needs sets of cells"),
    ],
)
def test_a_bad_override_is_one_line(overrides, says):
    with pytest.raises(InputError, match=says):
        load_recipe("default", overrides)


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(InputError, match="allowed: default, reference, smoke"):
        load_recipe("quick", {})


def test_the_ablation_goes_from_the_reference_recipe_to_the_default_one():
    runs = [run for run in ladder(Size(epochs=2), 1) if run.prior == "none"]
    first, *_, last = (asdict(load_recipe("reference", run.overrides)) for run in runs)
    reference, default = (asdict(load_recipe(name, {})) for name in ("reference", "default"))
    of_size = {*SMALL, "epochs", "early_stop_after", "version"}
    assert {name for name in last if last[name] != default[name]} - of_size <= set(NOT_TRIED)
    assert {name for name in first if first[name] != reference[name]} <= of_size
    taken = [name for mend in MENDS for name in mend.settings]
    assert set(taken) | of_size | set(NOT_TRIED) >= {
        name for name in default if default[name] != reference[name]
    }


def test_the_default_recipe_is_what_its_results_were_reached_with():
    assert asdict(load_recipe("default", {})) == {
        "version": 3,
        "epochs": 30,
        "early_stop_after": 10,
        "batch_size": 192,
        "max_genes": 1536,
        "learning_rate": 1e-4,
        "learning_rate_decay": 0.9,
        "gradient_clip": 1.0,
        "precision": "bf16",
        "implementation": "ours",
        "targets_in_window": True,
        "token_for_unmeasured": True,
        "zero_no_flag": True,
        "redraw_controls": True,
        "control_partner": "other",
        "set_size": 16,
        "delta_weight": 50.0,
        "predict_window": 1536,
        "contrast": True,
        "predicted_cells": "rank",
        "validation_cells": 32,
        "selection": "reliable",
        "prior_neutral": True,
        "scale_effects": True,
        "match_batches": False,
        "centre_lines": False,
    }
