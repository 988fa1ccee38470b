"""The form in KFP's UI that a compiled pipeline becomes: lists to choose from, fields filled in."""

from pathlib import Path

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
    example = EXAMPLE.get(spec.pipeline_info.name)
    if example and not profile.gpus:
        given = yaml.safe_load((PARAMS / example).read_text())
        for name in FROM_EXAMPLE:
            if name in given:
                json_format.ParseDict(given[name], parameters[name].default_value)
                parameters[name].is_optional = True
