"""The pipeline: check, ingest, split, prior, finetune, predict, evaluate, publish; conclude."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.check.component import check
from pipelines.scheduling import LIFETIME, LOCAL, Profile
from pipelines.stages import Stages

NAME = "scgpt-perturb"


def pipeline_on(profile: Profile, images: Mapping[str, str]) -> Any:
    """Return the pipeline for a kind of cluster: the same tasks, other nodes and images.

    Stages whose image is not named keep their component's.
    """

    @dsl.pipeline(
        name=NAME,
        pipeline_config=LIFETIME,
        description="Fine-tune scGPT on CRISPRi screens in some cell lines, predict another line",
    )
    def scgpt_perturb(
        dataset: str,
        train_lines: list,
        test_line: str,
        pretrained: str,
        prior: str = "none",
        recipe: str = "default",
        perturbations: list = [],  # noqa: B006
        cells_per_perturbation: int = 0,
        seed: int = 0,
        publish_to: str = "",
        checkpoints: str = "",
        perturbation_column: str = "gene",
        cell_line_column: str = "cell_line",
        control_label: str = "non-targeting",
        ingest_options: dict = {},  # noqa: B006
        split_options: dict = {},  # noqa: B006
        overrides: dict = {},  # noqa: B006
        gpus: int = profile.gpus,
        node_selector: dict = dict(profile.node_selector),  # noqa: B006
        tolerations: list = list(profile.tolerations),  # noqa: B006
    ) -> None:
        """Fine-tune scGPT on screens in some cell lines and predict the screen in another.

        Args:
            dataset: h5ad of screens: path, gs://, s3://, hf://datasets/, https:// or sim:// (made);
                or several, ["a.h5ad", {"file": "b.h5ad", "cell_line_column": "=rpe1"}].
            train_lines: cell lines to train on.
            test_line: cell line to predict; control cells of it are enough.
            pretrained: folder or URI of an scGPT checkpoint, or random://tiny, small, whole-human.
            prior: none, effects, scgpt, random:64, table:<uri>, graph:<uri>, annotation:<uri>,
                esm2:<checkpoint>?fasta=<uri>, shuffled:<prior> or concat(<prior>, <prior>).
            recipe: training settings: default, reference or smoke.
            perturbations: what to predict: genes (A+B = two at once), or one file (path or URI)
                that lists them; empty = what was measured in the test line, else what trains.
            cells_per_perturbation: predicted cells of each that was not measured; 0 = as many as
                the line has basal controls, at most 200.
            seed: of the draws of split, prior, finetune and predict; others are always the same.
            publish_to: gs:// or s3://bucket/prefix, hf://owner/name, folder (local only), or empty.
            checkpoints: gs:// or s3://bucket/prefix, or folder, to resume from; empty = its own.
            perturbation_column: column of obs with the perturbed gene.
            cell_line_column: column of obs with the cell line, or =name if there is only one.
            control_label: label of control cells; several with commas between, or a pattern (NT-*).
            ingest_options: layer, gene_column, label_separator, obs_filter, … (ingest's README).
            split_options: val_line, val_fraction, halve_controls, split_file, aliases (its README).
            overrides: single settings of the recipe to replace.
            gpus: GPUs of finetune, which trains on all of them, and predict (on one); 0 = none.
            node_selector: labels of the nodes for finetune and predict; {} = any.
            tolerations: tolerations of finetune and predict for the taints of those nodes.
        """
        stages = Stages(profile, images, locals())
        with stages.until_concluded(checkpoints):
            checked = stages.add(check, package=profile.package(NAME))
            data = stages.read(checked)
            made, _ = stages.run(
                data,
                prior=prior,
                seed=seed,
                checkpoints=checkpoints,
                repeat=checked.outputs["Output"],
                gpu_count=checked.outputs["gpu_count"],
                in_grid=False,
                after=checked,
            )
            stages.publish(data, made)

    return scgpt_perturb


scgpt_perturb = pipeline_on(LOCAL, images={})
"""The pipeline as this machine runs it."""
