"""The check tasks: a run's parameters, or a grid's, before anything heavy runs."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/check", install_kfp_package=False)
def check(
    gpu_count: dsl.OutputPath(str),  # type: ignore[valid-type]
    package: str,
    dataset: str,
    train_lines: list,
    test_line: str,
    pretrained: str,
    prior: str,
    recipe: str,
    seed: int,
    perturbation_column: str,
    cell_line_column: str,
    control_label: str,
    ingest_options: dict,
    split_options: dict,
    overrides: dict,
    perturbations: list,
    cells_per_perturbation: int,
    gpus: int,
    publish_to: str,
) -> str:
    """Check the prior and the checkpoint's name, and return the commands that repeat the run.

    ``package`` is the compiled pipeline, as a path in the repository; the other parameters are the
    pipeline's of these names. ``gpu_count`` gets the value of gpus as text: KFP drops an
    accelerator whose count is a number.
    """
    parameters = dict(locals())
    from components.check.check import check as run
    from components.check.check import give_out
    from components.check.look import print_look
    from components.shared.parameters.publish_to import check_target_form
    from components.shared.telling.errors import one_line_errors

    for own in ("gpu_count", "package", "publish_to"):
        del parameters[own]
    with one_line_errors("check"):
        check_target_form(publish_to)
        repeat = run(parameters, package)
        print_look(parameters)
        give_out(gpu_count, gpus)
        return repeat


@dsl.component(base_image="scgpt-perturb/check", install_kfp_package=False)
def check_grid(
    repeat: dsl.OutputPath(str),  # type: ignore[valid-type]
    runs: dsl.OutputPath(list),  # type: ignore[valid-type]
    gpu_count: dsl.OutputPath(str),  # type: ignore[valid-type]
    package: str,
    checkpoints: str,
    dataset: str,
    train_lines: list,
    test_line: str,
    pretrained: str,
    priors: list,
    recipe: str,
    seeds: list,
    split_seed: int,
    perturbation_column: str,
    cell_line_column: str,
    control_label: str,
    ingest_options: dict,
    split_options: dict,
    overrides: dict,
    perturbations: list,
    cells_per_perturbation: int,
    gpus: int,
    publish_to: str,
) -> list:
    """Check priors and seeds, and return the grid, one dict per run.

    Parameters are as in `check`. ``repeat`` gets the commands that repeat the comparison, ``runs``
    prior and seed of each run, without the commands: what compare takes is one argument.
    """
    parameters = dict(locals())
    import json

    from components.check.bounds import room_in_workflow
    from components.check.check import give_out, grid, repeat_comparison
    from components.check.look import print_look
    from components.shared.parameters.publish_to import check_target_form
    from components.shared.telling.errors import one_line_errors

    for own in ("repeat", "runs", "gpu_count", "package", "checkpoints", "publish_to"):
        del parameters[own]
    with one_line_errors("check"):
        check_target_form(publish_to)
        cells = grid(parameters, package, checkpoints)
        if note := room_in_workflow(cells):
            print(f"check: note: {note}", flush=True)
        print_look(parameters)
        short = [{"prior": cell["prior"], "seed": cell["seed"]} for cell in cells]
        give_out(repeat, repeat_comparison(parameters, package))
        give_out(runs, json.dumps(short))
        give_out(gpu_count, gpus)
        return cells


@dsl.component(base_image="scgpt-perturb/check", install_kfp_package=False)
def check_model(
    taken: dsl.Output[dsl.Model],
    gpu_count: dsl.OutputPath(str),  # type: ignore[valid-type]
    package: str,
    model: str,
    dataset: str,
    cell_line: str,
    perturbations: list,
    cells_per_perturbation: int,
    perturbation_column: str,
    cell_line_column: str,
    control_label: str,
    ingest_options: dict,
    split_options: dict,
    seed: int,
    gpus: int,
    publish_to: str,
) -> str:
    """Check a finished model and what is asked of it, and return the commands that repeat this.

    Parameters are as in `check`. ``taken`` gets the model artifact (format scgpt-checkpoint/v1), a
    checked copy of the finished one.
    """
    parameters = dict(locals())
    from components.check.check import check_prediction, give_out
    from components.check.look import print_look
    from components.shared.artifacts.artifact import describe
    from components.shared.artifacts.finished import take_model
    from components.shared.artifacts.normalisation import check_asked
    from components.shared.parameters.publish_to import check_target_form
    from components.shared.storage.downloads import shown
    from components.shared.telling.errors import one_line_errors

    for own in ("taken", "gpu_count", "package", "publish_to"):
        del parameters[own]
    with one_line_errors("check"):
        check_target_form(publish_to)
        repeat = check_prediction(parameters, package)
        check_asked(ingest_options, take_model(model, taken.path), shown(model))
        print_look(parameters)
        taken.metadata.update(describe(taken.path))
        give_out(gpu_count, gpus)
        return repeat
