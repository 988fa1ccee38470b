"""The check stage: what can be known to be wrong before anything heavy runs, and the grid."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.check.bounds import check_argument
from components.shared.parameters.conditions import check_parameters
from components.shared.parameters.numbers import whole_number
from components.shared.parameters.perturbation_list import read_perturbations
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.prior_grammar import parse_prior
from components.shared.parameters.publish_to import check_target_form
from components.shared.parameters.recipe import load_recipe
from components.shared.parameters.repeat import commands
from components.shared.telling.errors import InputError


def check(parameters: Mapping[str, Any], package: str) -> str:
    """Check a run's parameters, those that the result depends on, and return what repeats it.

    The ``package`` is the compiled pipeline, as a path in the repository.
    """
    _check_all(parameters)
    _prior(parameters["prior"])
    parse_pretrained(parameters["pretrained"])
    return commands("run", package, {**parameters, "prior": _shown(parameters["prior"])})


def check_prediction(parameters: Mapping[str, Any], package: str) -> str:
    """Check the parameters of a prediction by a finished model, as `check`."""
    _check_all(parameters)
    return commands("predict", package, parameters)


def grid(parameters: Mapping[str, Any], package: str, checkpoints: str) -> list[dict[str, Any]]:
    """Check a comparison's parameters, as `check`, and return the cells of its grid, priors first.

    Each is a dict: prior, seed, checkpoints, and repeat, the commands that make this cell alone. A
    fine-tune keeps its checkpoints in a folder below ``checkpoints``; empty = beside its model.
    """
    _check_all(parameters)
    priors = _distinct("priors", [_prior(text) for text in parameters["priors"]])
    _distinct("priors", [_shown(prior) for prior in priors], "as it is shown, without its query")
    seeds = _distinct("seeds", [whole_number("seeds", seed) for seed in parameters["seeds"]])
    parse_pretrained(parameters["pretrained"])
    cells = [
        {
            "prior": prior,
            "seed": seed,
            "checkpoints": _folder(checkpoints, prior, seed),
            "repeat": commands(
                "compare", package, {**parameters, "priors": [_shown(prior)], "seeds": [seed]}
            ),
        }
        for prior in priors
        for seed in seeds
    ]
    check_argument(cells, repeat_comparison(parameters, package))
    return cells


def repeat_comparison(parameters: Mapping[str, Any], package: str) -> str:
    """Return the commands that repeat a whole comparison."""
    priors = [_shown(prior) for prior in parameters["priors"]]
    return commands("compare", package, {**parameters, "priors": priors})


def _check_all(parameters: Mapping[str, Any]) -> None:
    """Check what every pipeline has; what one lacks is not checked."""
    check_parameters(parameters)
    if "recipe" in parameters:
        load_recipe(parameters["recipe"], parameters.get("overrides") or {})
    check_target_form(parameters.get("publish_to", ""))
    # The list of perturbations is read now rather than after the cells were read.
    read_perturbations(parameters.get("perturbations") or ())


def give_out(target: str, value: Any) -> None:
    """Write what a task gives out, as text: KFP drops an accelerator whose count is a number."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(str(value))


def _prior(text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"priors: {text!r} is not text; expected a list of priors, as in [none]")
    return str(parse_prior(text))


def _distinct(name: str, values: Sequence[Any], how: str = "") -> Sequence[Any]:
    if not values:
        raise InputError(f"{name}: is empty; expected a list of one or more")
    for number, value in enumerate(values):
        if value in values[:number]:
            raise InputError(
                f"{name}: '{value}' is given twice{f' {how}' if how else ''}; give it once"
            )
    return values


def _shown(prior: str) -> str:
    return parse_prior(prior).shown


def _folder(checkpoints: str, prior: str, seed: int) -> str:
    """Return a run's own place: no two priors share one, however long and alike they are."""
    shown = _shown(prior)
    name = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[-48:].strip("-")
    of_all = hashlib.sha256(shown.encode()).hexdigest()[:8]
    return f"{checkpoints.rstrip('/')}/{name}-{of_all}-seed-{seed}" if checkpoints else ""
