"""The stages of a run, chained once for every pipeline: read, train, score, publish.

Only what a task takes from other tasks, or what differs between the runs of a comparison, is
written out here. What a person gives reaches a task by its name: an input `recipe` takes the
pipeline parameter `recipe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_channel import PipelineChannel

from components.conclude.component import conclude
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.predict.component import predict
from components.prior.component import prior as gene_prior
from components.publish.component import publish
from components.split.component import split
from pipelines.lean import stage_of
from pipelines.scheduling import Profile, on_a_pod

Artifacts = Mapping[str, PipelineChannel]
"""Artifacts by the name under which the next stages take them."""


@dataclass(frozen=True)
class Stages:
    """Adds tasks to the pipeline that is being made."""

    profile: Profile
    """Resources that each task requests."""
    images: Mapping[str, str]
    """The image of each stage; those that are not named keep their component's."""
    parameters: Mapping[str, Any]
    """The pipeline's parameters by name."""

    def add(
        self, component: Any, *, gpu_count: str | PipelineChannel = "0", **inputs: Any
    ) -> dsl.PipelineTask:
        """Return a new task, placed where its stage runs; ``gpu_count`` is text.

        The ``inputs`` are what it does not take from the pipeline parameters of its inputs' names.
        """
        named = self.parameters.keys() & (component.component_spec.inputs or {}).keys()
        task = component(**({name: self.parameters[name] for name in named} | inputs))
        stage = stage_of(component.name)
        if stage in self.images:
            task.set_container_image(self.images[stage])
        on_a_pod(
            task,
            stage,
            self.profile,
            gpu_count=gpu_count,
            node_selector=self.parameters["node_selector"],
            tolerations=self.parameters["tolerations"],
        )
        return task

    def add_uncached(self, component: Any, **inputs: Any) -> dsl.PipelineTask:
        """Return a new task whose result lies, or is read, outside KFP's cache."""
        return self.add(component, **inputs).set_caching_options(enable_caching=False)

    def until_concluded(self, checkpoints: Any) -> dsl.ExitHandler:
        """Return what the other tasks are added in: whatever becomes of them, the run concludes."""
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        concluded = self.add_uncached(conclude, run_id=run_id, checkpoints=checkpoints)
        return dsl.ExitHandler(concluded, name="run")

    def read(self, checked: dsl.PipelineTask, **of_split: Any) -> Artifacts:
        """Add ingest, once ``checked`` is done, and split; return cells and splits."""
        options = self.parameters["ingest_options"]
        ingested = self.add(ingest, options=options).after(checked)
        cells = ingested.outputs["cells"]
        options = self.parameters["split_options"]
        divided = self.add(split, cells=cells, options=options, **of_split)
        return {"cells": cells, "splits": divided.outputs["splits"]}

    def score(
        self,
        data: Artifacts,
        model: PipelineChannel,
        *,
        gpu_count: PipelineChannel,
        seed: Any,
        in_grid: bool,
        **of_evaluate: Any,
    ) -> Artifacts:
        """Add predict with a model, and evaluate; return model, predictions and evaluation."""
        predicted = self.add(
            predict, model=model, **data, gpu_count=gpu_count, seed=seed, in_grid=in_grid
        )
        made = predicted.outputs["predictions"]
        scored = self.add(evaluate, predictions=made, **data, in_grid=in_grid, **of_evaluate)
        return {"model": model, "predictions": made, "evaluation": scored.outputs["evaluation"]}

    def run(
        self,
        data: Artifacts,
        *,
        prior: Any,
        seed: Any,
        checkpoints: Any,
        repeat: PipelineChannel,
        gpu_count: PipelineChannel,
        in_grid: bool,
        after: dsl.PipelineTask | None = None,
    ) -> tuple[Artifacts, PipelineChannel]:
        """Add all of one run from its prior to its evaluation; return what it made, and its stats.

        The seed reaches prior, finetune and predict; a stopped fine-tune resumes from
        ``checkpoints``. In a grid, of a comparison, other runs continue when this fails. The prior
        waits for ``after``.
        """
        aligned = self.add(gene_prior, uri=prior, seed=seed, in_grid=in_grid)
        if after:
            aligned.after(after)
        table = aligned.outputs["gene_prior"]
        tuned = self.add(
            finetune,
            **data,
            gene_prior=table,
            seed=seed,
            checkpoints=checkpoints,
            gpu_count=gpu_count,
            in_grid=in_grid,
        )
        scored = self.score(
            data,
            tuned.outputs["model"],
            gpu_count=gpu_count,
            seed=seed,
            repeat=repeat,
            gene_prior=table,
            in_grid=in_grid,
        )
        return scored, tuned.outputs["stats"]

    def publish(self, data: Artifacts, scored: Artifacts) -> None:
        """Add publish; a cached one would claim to have written a folder it did not touch."""
        self.add_uncached(publish, splits=data["splits"], **scored)
