"""The form in KFP's UI that a compiled pipeline becomes: lists to choose from, fields filled in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.parameters.recipe import recipe_names
from pipelines.scheduling import Profile

PARAMS = Path(__file__).parent / "params"
CHOICES = {"recipe": recipe_names()}
"""Parameters of which every value is known: a dropdown, and KFP refuses any other value when the
run is created. `prior` is none of them: `table:<uri>` and `concat(…)` are as good as `effects`, a
closed list would refuse them, and a second parameter beside it could say otherwise than the first.
Its field stays text, its kinds are in the manual and `check` names the nearest."""
EXAMPLE = {"scgpt-perturb": "demo.yaml", "compare-priors": "compare-demo.yaml"}
"""The parameter file whose small data a pipeline for small clusters starts from."""
FROM_EXAMPLE = ("dataset", "train_lines", "test_line", "pretrained", "priors", "seeds")
"""What it takes of it: what has no default otherwise. Settings of training are not among it: who
puts in cells of her own must not train by a demo's settings unseen."""


def make_form(spec: pipeline_spec_pb2.PipelineSpec, profile: Profile) -> None:
    """Write into a pipeline what KFP's compiler does not: choices, and defaults that run.

    For a cluster for small data the defaults are small data.
    """
    parameters = spec.root.input_definitions.parameters
    for name, values in CHOICES.items():
        if name in parameters:
            for value in values:
                parameters[name].literals.add().string_value = value
    for name, value in _defaults(spec.pipeline_info.name, profile).items():
        json_format.ParseDict(value, parameters[name].default_value)
        parameters[name].is_optional = True


def _defaults(pipeline: str, profile: Profile) -> Mapping[str, Any]:
    if profile.gpus or pipeline not in EXAMPLE:
        return {}
    given = yaml.safe_load((PARAMS / EXAMPLE[pipeline]).read_text())
    return {name: given[name] for name in FROM_EXAMPLE if name in given}
