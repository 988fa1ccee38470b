"""The pipeline that applies a finished model to other cells: no training."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.check.component import check_model
from pipelines.scheduling import LIFETIME, LOCAL, Profile
from pipelines.stages import Stages

NAME = "predict-line"


def prediction_on(profile: Profile, images: Mapping[str, str]) -> Any:
    """Return the pipeline for a kind of cluster: the same tasks, other nodes and images.

    Stages whose image is not named keep their component's.
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
        stages = Stages(profile, images, locals())
        with stages.until_concluded(checkpoints=""):
            checked = stages.add(check_model, package=profile.package(NAME))
            data = stages.read(checked, train_lines=[], test_line=cell_line)
            scored = stages.score(
                data,
                checked.outputs["taken"],
                seed=seed,
                repeat=checked.outputs["Output"],
                gpu_count=checked.outputs["gpu_count"],
                in_grid=False,
            )
            stages.publish(data, scored)

    return predict_line


predict_line = prediction_on(LOCAL, images={})
"""The pipeline as this machine runs it."""
