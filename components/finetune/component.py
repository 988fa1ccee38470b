"""The finetune task: scGPT learns from the training lines."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/finetune", install_kfp_package=False)
def finetune(
    cells: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Dataset],
    gene_prior: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    curves: dsl.Output[dsl.HTML],
    stats: dsl.Output[dsl.Metrics],
    pretrained: str,
    recipe: str,
    overrides: dict,
    seed: int,
    gpus: int,
    checkpoints: str,
    in_grid: bool,
) -> None:
    """Fine-tune scGPT's perturbation model; the weights of the best validation epoch are kept.

    Args:
        cells: the cells artifact of the ingest task.
        splits: the splits artifact of the split task.
        gene_prior: the gene prior artifact of the prior task.
        model: the checkpoint (format scgpt-checkpoint/v1).
        curves: loss and validation curves.
        stats: what training took and reached; its file is the model's training_stats.json.
        pretrained: a folder or URI with best_model.pt, args.json, vocab.json, or random://<size>.
        recipe: default, reference or smoke.
        overrides: settings of the recipe to replace.
        seed: reaches every random draw of the fine-tune.
        gpus: GPUs that must be there and train together; 0: one is used if there is one.
        checkpoints: a folder or URI (gs://, s3://, minio://); empty: beside the model's URI.
        in_grid: whether a failure is a result, so that the other runs of a grid continue.
    """
    import json
    import shutil
    from pathlib import Path

    from components.finetune.finetune import finetune as run
    from components.finetune.model_files import CURVES_FILE
    from components.finetune.places import own_place
    from components.shared.artifacts.artifact import describe
    from components.shared.artifacts.failure import errors_of
    from components.shared.model.checkpoint_files import STATS_FILE
    from components.shared.model.devices import check_gpus

    Path(stats.path).write_text("{}\n")  # whoever collects a grid reads a failed fine-tune's too
    with errors_of("finetune", model.path, in_grid=in_grid):
        check_gpus(gpus)
        prior = str(gene_prior.metadata.get("sha256", ""))
        run(
            cells.path,
            splits.path,
            gene_prior.path,
            model.path,
            pretrained=pretrained,
            recipe=recipe,
            overrides=overrides,
            seed=seed,
            processes=max(gpus, 1),
            checkpoints=checkpoints
            or own_place(model.uri, model.path, name=f"{prior[:12]}-{seed}"),
        )
        model.metadata.update(describe(model.path))
        shutil.copyfile(f"{model.path}/{CURVES_FILE}", curves.path)
        shutil.copyfile(f"{model.path}/{STATS_FILE}", stats.path)
        facts = json.loads(Path(stats.path).read_text())
        for name in ("best_val_pearson_delta", "cells_per_second", "wall_clock_seconds"):
            if facts[name] is not None:
                stats.log_metric(name, facts[name])
