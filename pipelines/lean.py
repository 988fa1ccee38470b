"""Fewer words in a compiled pipeline: those that only its readers need stay in the repository.

KFP puts a component's interface, with every description, and the whole command, with the source of
the component's function, into each pod's own patch. Argo keeps that patch six times a task in the
workflow's object, which may hold 1 MiB: of a comparison that is the bound. The images have the
source anyway, at the very version that their name stands for.
"""

from kfp.pipeline_spec import pipeline_spec_pb2

IMPORTED = """
import kfp.dsl
kfp.dsl.component = lambda **_: lambda function: function
from components.{stage}.component import {function}
"""
"""A component as KFP's executor reads it: inside a pod kfp has no decorator, so it is given one."""


def make_lean(spec: pipeline_spec_pb2.PipelineSpec) -> None:
    """Drop the descriptions of a pipeline's components, and import their functions from the images.

    What a person fills in, the pipeline's own parameters, keeps its descriptions.
    """
    for component in spec.components.values():
        for definitions in (component.input_definitions, component.output_definitions):
            for defined in (*definitions.parameters.values(), *definitions.artifacts.values()):
                defined.ClearField("description")
    for label, executor in spec.deployment_spec["executors"].items():
        command, arguments = executor["container"]["command"], list(executor["container"]["args"])
        function = arguments[arguments.index("--function_to_execute") + 1]
        command[len(command) - 1] = IMPORTED.format(stage=stage_of(label), function=function)


def stage_of(executor: str) -> str:
    """Return the stage of an executor: the first word of its component, as check of check-grid."""
    return executor.removeprefix("exec-").partition("-")[0]
