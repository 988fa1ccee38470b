"""The pipeline that applies a finished model to other cells: no training."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_channel import PipelineChannel

from components.check.component import check_model
from components.conclude.component import conclude
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.predict.component import predict
from components.publish.component import publish
from components.split.component import split
from pipelines.scheduling import LIFETIME, LOCAL, Profile, on_a_pod

NAME = "predict-line"


def prediction_on(profile: Profile, images: Mapping[str, str]) -> Any:
    """Return the pipeline for a kind of cluster: the same tasks, other nodes and images.

    Args:
        profile: what each task asks of its node, and the defaults of the GPU parameters.
        images: the image of each stage; those that are not named keep their component's.
    """

    @dsl.pipeline(
        name=NAME,
        pipeline_config=LIFETIME,
        description="Apply a published model to a cell line of which there are control cells",
    )
    def predict_line(
        model: str,
        dataset: str,
        cell_line: str = "",
        perturbations: list = [],  # noqa: B006
        cells_per_perturbation: int = 0,
        perturbation_column: str = "gene",
        cell_line_column: str = "cell_line",
        control_label: str = "non-targeting",
        ingest_options: dict = {},  # noqa: B006
        split_options: dict = {},  # noqa: B006
        seed: int = 0,
        publish_to: str = "",
        gpus: int = profile.gpus,
        node_selector: dict = dict(profile.node_selector),  # noqa: B006
        tolerations: list = list(profile.tolerations),  # noqa: B006
    ) -> None:
        """Apply a published model to a cell line of which there are control cells.

        Args:
            model: folder that publish wrote: path, gs://, s3://, hf://models/<owner>/<name> or
                https://.
            dataset: h5ad of control cells, perturbed ones beside them or not: path, gs://, s3://,
                hf://datasets/, https://, or sim:// (generated).
            cell_line: cell line to predict; empty = the only one there is.
            perturbations: what to predict: genes (A+B = two at once), or one file (path or URI)
                that lists them; empty = what was measured, else all that the model was trained on.
            cells_per_perturbation: predicted cells of each that was not measured; 0 = as many as
                there are controls, at most 200.
            perturbation_column: column of obs with the perturbed gene, or =non-targeting if all
                cells are controls.
            cell_line_column: column of obs with the cell line, or =name if there is only one.
            control_label: label of control cells; several with commas between, or a pattern (NT-*).
            ingest_options: layer, gene_column, label_separator, obs_filter, … (ingest's README).
            split_options: halve_controls, aliases; see split's README.
            seed: of the draws of split and predict; others are always the same.
            publish_to: gs://bucket/prefix, hf://owner/name, a folder (local runs only), or empty.
            gpus: GPUs of predict, which uses one; 0 = none.
            node_selector: labels of the nodes for predict; {} = any.
            tolerations: tolerations of predict for the taints of those nodes.
        """

        def place(
            task: dsl.PipelineTask, stage: str, gpu_count: str | PipelineChannel = "0"
        ) -> dsl.PipelineTask:
            if stage in images:
                task.set_container_image(images[stage])
            on_a_pod(
                task,
                stage,
                profile,
                gpu_count=gpu_count,
                node_selector=node_selector,
                tolerations=tolerations,
            )
            return task

        concluded = conclude(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, checkpoints="")
        place(concluded, "conclude").set_caching_options(enable_caching=False)
        with dsl.ExitHandler(concluded, name="run"):
            checked = check_model(
                package=profile.package(NAME),
                model=model,
                dataset=dataset,
                cell_line=cell_line,
                perturbations=perturbations,
                cells_per_perturbation=cells_per_perturbation,
                perturbation_column=perturbation_column,
                cell_line_column=cell_line_column,
                control_label=control_label,
                ingest_options=ingest_options,
                split_options=split_options,
                seed=seed,
                gpus=gpus,
                publish_to=publish_to,
            )
            ingested = ingest(
                dataset=dataset,
                perturbation_column=perturbation_column,
                cell_line_column=cell_line_column,
                control_label=control_label,
                options=ingest_options,
            ).after(checked)
            divided = split(
                cells=ingested.outputs["cells"],
                train_lines=[],
                test_line=cell_line,
                perturbations=perturbations,
                options=split_options,
                seed=seed,
            )
            predicted = predict(
                model=checked.outputs["taken"],
                cells=ingested.outputs["cells"],
                splits=divided.outputs["splits"],
                cells_per_perturbation=cells_per_perturbation,
                seed=seed,
                gpus=gpus,
                in_grid=False,
            )
            evaluated = evaluate(
                predictions=predicted.outputs["predictions"],
                cells=ingested.outputs["cells"],
                splits=divided.outputs["splits"],
                repeat=checked.outputs["Output"],
                in_grid=False,
            )
            shared = publish(
                model=checked.outputs["taken"],
                predictions=predicted.outputs["predictions"],
                evaluation=evaluated.outputs["evaluation"],
                splits=divided.outputs["splits"],
                publish_to=publish_to,
            )
            # A cached publish would claim to have written a folder it did not touch.
            shared.set_caching_options(enable_caching=False)
            place(checked, "check")
            place(ingested, "ingest")
            place(divided, "split")
            place(predicted, "predict", checked.outputs["gpu_count"])
            place(evaluated, "evaluate")
            place(shared, "publish")

    return predict_line


predict_line = prediction_on(LOCAL, images={})
"""The pipeline as this machine runs it."""
