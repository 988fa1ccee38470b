"""The pipeline: ingest, split, prior, finetune, predict, evaluate, publish."""

from typing import NamedTuple

from kfp import dsl

from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.predict.component import predict
from components.prior.component import prior as gene_prior
from components.publish.component import publish
from components.split.component import split
from pipelines.scheduling import on_cpu, on_h100

NAME = "scgpt-perturb"


class Outputs(NamedTuple):
    """What a run leaves behind."""

    published: dsl.Dataset
    evaluation: dsl.Dataset
    report: dsl.HTML


@dsl.pipeline(
    name=NAME,
    description="Fine-tune scGPT on CRISPRi screens in some cell lines and predict another line",
)
def scgpt_perturb(
    dataset: str,
    train_lines: list,
    test_line: str,
    pretrained: str,
    prior: str = "none",
    recipe: str = "default",
    seed: int = 0,
    publish_to: str = "",
    perturbation_column: str = "gene",
    cell_line_column: str = "cell_line",
    control_label: str = "non-targeting",
    ingest_options: dict = {},  # noqa: B006
    split_options: dict = {},  # noqa: B006
    overrides: dict = {},  # noqa: B006
) -> Outputs:
    """Fine-tune scGPT on screens in some cell lines and predict the screen in another.

    Args:
        dataset: h5ad of screens: a path, gs://, hf://datasets/, https://, or sim:// (generated).
        train_lines: cell lines to train on.
        test_line: cell line to predict.
        pretrained: folder or URI of an scGPT checkpoint, or random://tiny, small or whole-human.
        prior: none, or the URI of a table with one vector a gene.
        recipe: training settings: default, reference or smoke.
        seed: reaches every random draw.
        publish_to: gs://bucket/prefix, hf://owner/name, a folder (local runs only), or empty.
        perturbation_column: column of obs with the perturbed gene.
        cell_line_column: column of obs with the cell line, or =name if there is only one.
        control_label: label of control cells.
        ingest_options: batch_column, expression, obs_filter.
        split_options: val_line, val_fraction, halve_controls, split_file, and more (split README).
        overrides: single settings of the recipe to replace.
    """
    ingested = ingest(
        dataset=dataset,
        perturbation_column=perturbation_column,
        cell_line_column=cell_line_column,
        control_label=control_label,
        options=ingest_options,
    )
    divided = split(
        cells=ingested.outputs["cells"],
        train_lines=train_lines,
        test_line=test_line,
        options=split_options,
        seed=seed,
    )
    aligned = gene_prior(uri=prior, pretrained=pretrained, seed=seed)
    tuned = finetune(
        cells=ingested.outputs["cells"],
        splits=divided.outputs["splits"],
        gene_prior=aligned.outputs["gene_prior"],
        pretrained=pretrained,
        recipe=recipe,
        overrides=overrides,
        seed=seed,
    )
    predicted = predict(
        model=tuned.outputs["model"],
        cells=ingested.outputs["cells"],
        splits=divided.outputs["splits"],
        seed=seed,
    )
    evaluated = evaluate(
        predictions=predicted.outputs["predictions"],
        cells=ingested.outputs["cells"],
        splits=divided.outputs["splits"],
    )
    shared = publish(
        model=tuned.outputs["model"],
        predictions=predicted.outputs["predictions"],
        evaluation=evaluated.outputs["evaluation"],
        splits=divided.outputs["splits"],
        publish_to=publish_to,
    )
    # A cached publish would claim to have written a folder it did not touch.
    shared.set_caching_options(enable_caching=False)
    for task in (ingested, divided, aligned, shared):
        on_cpu(task, cpu="2", memory="8G")
    on_cpu(evaluated, cpu="8", memory="32G")  # cell-eval peaks at 18 GB on the full test set
    on_h100(tuned, cpu="8", memory="64G")  # the training cells are held as dense float32, 10 GB
    on_h100(predicted, cpu="4", memory="32G")
    return Outputs(
        published=shared.outputs["published"],
        evaluation=evaluated.outputs["evaluation"],
        report=evaluated.outputs["report"],
    )
