"""Recipes: versioned YAML files of training settings, and overrides of single settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from components.shared.artifacts.settings import IMPLEMENTATIONS, PRECISIONS
from components.shared.model.rank_cells import PREDICTED_CELLS
from components.shared.telling.errors import InputError, nearest

FOLDER = Path(__file__).parent / "recipes"
RELIABLE, BEST = "reliable", "best"
SELECTIONS = (RELIABLE, BEST)
CONTROL_PARTNERS = ("other", "self", "none")


@dataclass(frozen=True)
class Recipe:
    """Settings of one fine-tune; `recipes/default.yaml` says what each means."""

    version: int
    epochs: int
    early_stop_after: int
    batch_size: int
    max_genes: int
    learning_rate: float
    learning_rate_decay: float
    gradient_clip: float
    precision: str
    implementation: str
    targets_in_window: bool
    token_for_unmeasured: bool
    zero_no_flag: bool
    redraw_controls: bool
    control_partner: str
    set_size: int
    delta_weight: float
    predict_window: int
    contrast: bool
    predicted_cells: str
    validation_cells: int
    selection: str
    prior_neutral: bool
    scale_effects: bool
    match_batches: bool
    centre_lines: bool


ALLOWED = {
    "precision": PRECISIONS,
    "implementation": IMPLEMENTATIONS,
    "control_partner": CONTROL_PARTNERS,
    "predicted_cells": PREDICTED_CELLS,
    "selection": SELECTIONS,
}
MOST = {"learning_rate_decay": 1.0}
LEAST = {
    "epochs": 1,
    "early_stop_after": 1,
    "batch_size": 1,
    "max_genes": 0,
    "set_size": 0,
    "delta_weight": 0,
    "predict_window": 0,
    "validation_cells": 0,
}


def recipe_names() -> list[str]:
    """Return the names of the recipes that exist."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """Read a recipe and apply overrides, each checked against the recipe's own type.

    KFP's local runner hands whole numbers inside a dict over as floats, so 3.0 is taken for 3.
    """
    if name not in recipe_names():
        raise InputError(f"recipe '{name}' is unknown; allowed: {', '.join(recipe_names())}")
    import yaml  # here, so that training itself needs nothing but torch and numpy

    settings = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    types = {field.name: type(settings[field.name]) for field in fields(Recipe)}
    for key, value in overrides.items():
        if key not in types or key == "version":
            raise InputError(
                f"override '{key}' is not a setting of a recipe{nearest(key, types)}; "
                f"settings: {', '.join(types)}"
            )
        settings[key] = _checked(key, value, types[key])
    recipe = Recipe(**settings)
    if recipe.delta_weight and not recipe.set_size:
        raise InputError(
            f"delta_weight={recipe.delta_weight}: needs sets of cells; give set_size, or "
            "delta_weight 0"
        )
    return recipe


def _checked(key: str, value: Any, kind: type) -> Any:
    wrong = InputError(f"override {key}={value!r}: expected a value of type {kind.__name__}")
    if kind is bool or isinstance(value, bool):
        if kind is not type(value):
            raise wrong
        return value
    try:
        converted = kind(value)
        finite = kind is str or math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not finite:
        raise InputError(f"override {key}={value!r}: expected a finite number")
    if kind is int and converted != float(value):
        raise wrong
    if key in ALLOWED and converted not in ALLOWED[key]:
        raise InputError(f"override {key}={value!r}: allowed: {', '.join(ALLOWED[key])}")
    if key in LEAST and converted < LEAST[key]:
        raise InputError(f"override {key}={value!r}: expected at least {LEAST[key]}")
    if kind is float and key not in LEAST and not 0 < converted <= MOST.get(key, math.inf):
        most = f", at most {MOST[key]}" if key in MOST else ""
        raise InputError(f"override {key}={value!r}: expected a number above 0{most}")
    return converted
