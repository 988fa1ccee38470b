"""The pipeline that compares priors: one screen and one split, then a run a prior and seed."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_channel import PipelineChannel

from components.check.component import check_grid
from components.compare.component import compare
from components.conclude.component import conclude
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.predict.component import predict
from components.prior.component import prior as gene_prior
from components.publish.component import publish_best
from components.split.component import split
from pipelines.scheduling import LIFETIME, LOCAL, Profile, on_a_pod

NAME = "compare-priors"


def comparison_on(profile: Profile, images: Mapping[str, str]) -> Any:
    """Return the pipeline for a kind of cluster: the same tasks, other nodes and images.

    Args:
        profile: what each task asks of its node, how many runs go on at a time, and the defaults
            of the GPU parameters.
        images: the image of each stage; those that are not named keep their component's.
    """

    @dsl.pipeline(
        name=NAME,
        pipeline_config=LIFETIME,
        description="Fine-tune scGPT with several priors and seeds, and tell which prior helps",
    )
    def compare_priors(
        dataset: str,
        train_lines: list,
        test_line: str,
        pretrained: str,
        priors: list,
        seeds: list,
        recipe: str = "default",
        perturbations: list = [],  # noqa: B006
        cells_per_perturbation: int = 0,
        split_seed: int = 0,
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
        """Fine-tune scGPT with several gene priors and seeds, and tell which prior helps.

        Args:
            dataset: h5ad of screens: path, gs://, s3://, hf://datasets/, https:// or sim:// (made);
                or several, ["a.h5ad", {"file": "b.h5ad", "cell_line_column": "=rpe1"}].
            train_lines: cell lines to train on.
            test_line: cell line to predict; control cells of it are enough.
            pretrained: folder or URI of an scGPT checkpoint, or random://tiny, small, whole-human.
            priors: list of priors: none, effects, scgpt, random:64, table:<uri>, graph:<uri>,
                annotation:<uri>, esm2:<checkpoint>?fasta=<uri>, shuffled:<prior> or
                concat(<prior>, <prior>). With none, and the shuffled twin of each, the report can
                say what helped.
            seeds: list of seeds; each prior is run with each. Two or more, or nothing is sure.
            recipe: training settings: default, reference or smoke.
            perturbations: what to predict: genes (A+B = two at once), or one file (path or URI)
                that lists them; empty = what was measured in the test line, else what trains.
            cells_per_perturbation: predicted cells of each that was not measured; 0 = as many as
                the line has basal controls, at most 200.
            split_seed: draws what split draws, once for all runs.
            publish_to: gs:// or s3://bucket/prefix, hf://owner/name, a folder (local only) for the
                run that is best in validation; empty = it stays in the pipeline's own storage.
            checkpoints: gs:// or s3://bucket/prefix, or folder, to resume from; empty = their own.
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

        concluded = conclude(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, checkpoints=checkpoints)
        place(concluded, "conclude").set_caching_options(enable_caching=False)
        with dsl.ExitHandler(concluded, name="run"):
            checked = check_grid(
                package=profile.package(NAME),
                checkpoints=checkpoints,
                dataset=dataset,
                train_lines=train_lines,
                test_line=test_line,
                pretrained=pretrained,
                priors=priors,
                recipe=recipe,
                seeds=seeds,
                split_seed=split_seed,
                perturbation_column=perturbation_column,
                cell_line_column=cell_line_column,
                control_label=control_label,
                ingest_options=ingest_options,
                split_options=split_options,
                overrides=overrides,
                perturbations=perturbations,
                cells_per_perturbation=cells_per_perturbation,
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
                train_lines=train_lines,
                test_line=test_line,
                perturbations=perturbations,
                options=split_options,
                seed=split_seed,
            )
            place(checked, "check")
            place(ingested, "ingest")
            place(divided, "split")
            with dsl.ParallelFor(checked.outputs["Output"], parallelism=profile.runs) as cell:
                aligned = gene_prior(
                    uri=cell.prior, pretrained=pretrained, seed=cell.seed, in_grid=True
                )
                tuned = finetune(
                    cells=ingested.outputs["cells"],
                    splits=divided.outputs["splits"],
                    gene_prior=aligned.outputs["gene_prior"],
                    pretrained=pretrained,
                    recipe=recipe,
                    overrides=overrides,
                    seed=cell.seed,
                    gpus=gpus,
                    checkpoints=cell.checkpoints,
                    in_grid=True,
                )
                predicted = predict(
                    model=tuned.outputs["model"],
                    cells=ingested.outputs["cells"],
                    splits=divided.outputs["splits"],
                    cells_per_perturbation=cells_per_perturbation,
                    seed=cell.seed,
                    gpus=gpus,
                    in_grid=True,
                )
                evaluated = evaluate(
                    predictions=predicted.outputs["predictions"],
                    cells=ingested.outputs["cells"],
                    splits=divided.outputs["splits"],
                    gene_prior=aligned.outputs["gene_prior"],
                    repeat=cell.repeat,
                    in_grid=True,
                )
                place(aligned, "prior")
                place(tuned, "finetune", checked.outputs["gpu_count"])
                place(predicted, "predict", checked.outputs["gpu_count"])
                place(evaluated, "evaluate")
            compared = compare(
                evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
                stats=dsl.Collected(tuned.outputs["stats"]),
                cells=checked.outputs["runs"],
                repeat=checked.outputs["repeat"],
            )
            # What a task tells in its log is read for the run's last page; the cache has no log.
            compared.set_caching_options(enable_caching=False)
            place(compared, "compare")
            shared = publish_best(
                models=dsl.Collected(tuned.outputs["model"]),
                predictions=dsl.Collected(predicted.outputs["predictions"]),
                evaluation=compared.outputs["best_evaluation"],
                splits=divided.outputs["splits"],
                best=compared.outputs["Output"],
                publish_to=publish_to,
            )
            # A cached publish would claim to have written a folder it did not touch.
            shared.set_caching_options(enable_caching=False)
            place(shared, "publish")

    return compare_priors


compare_priors = comparison_on(LOCAL, images={})
"""The pipeline as this machine runs it."""
