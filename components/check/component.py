"""The check tasks: a run's parameters, or a grid's, before anything heavy runs."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/check", install_kfp_package=False)
def check(
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
    gpus: int,
) -> str:
    """Check the prior and the checkpoint's name, and return the commands that repeat the run.

    Args:
        package: the compiled pipeline, as a path in the repository.
        dataset: this and the others: the pipeline parameters of these names.
        train_lines: see dataset.
        test_line: see dataset.
        pretrained: see dataset.
        prior: see dataset.
        recipe: see dataset.
        seed: see dataset.
        perturbation_column: see dataset.
        cell_line_column: see dataset.
        control_label: see dataset.
        ingest_options: see dataset.
        split_options: see dataset.
        overrides: see dataset.
        gpus: see dataset.
    """
    parameters = dict(locals())
    from components.check.check import check as run
    from components.shared.errors import one_line_errors

    del parameters["package"]
    with one_line_errors("check"):
        return run(parameters, package)


@dsl.component(base_image="scgpt-perturb/check", install_kfp_package=False)
def check_grid(
    repeat: dsl.OutputPath(str),  # type: ignore[valid-type]
    runs: dsl.OutputPath(list),  # type: ignore[valid-type]
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
    gpus: int,
) -> list:
    """Check priors and seeds, and return the grid, a dict a run.

    Args:
        repeat: the commands that repeat the comparison.
        runs: prior and seed of each run, without the commands: what compare takes is one argument.
        package: the compiled pipeline, as a path in the repository.
        checkpoints: this and the others: the pipeline parameters of these names.
        dataset: see checkpoints.
        train_lines: see checkpoints.
        test_line: see checkpoints.
        pretrained: see checkpoints.
        priors: see checkpoints.
        recipe: see checkpoints.
        seeds: see checkpoints.
        split_seed: see checkpoints.
        perturbation_column: see checkpoints.
        cell_line_column: see checkpoints.
        control_label: see checkpoints.
        ingest_options: see checkpoints.
        split_options: see checkpoints.
        overrides: see checkpoints.
        gpus: see checkpoints.
    """
    parameters = dict(locals())
    import json
    from pathlib import Path

    from components.check.bounds import room_in_workflow
    from components.check.check import grid, repeat_comparison
    from components.shared.errors import one_line_errors

    for own in ("repeat", "runs", "package", "checkpoints"):
        del parameters[own]
    with one_line_errors("check"):
        cells = grid(parameters, package, checkpoints)
        if note := room_in_workflow(cells):
            print(f"check: note: {note}", flush=True)
        Path(repeat).parent.mkdir(parents=True, exist_ok=True)
        Path(repeat).write_text(repeat_comparison(parameters, package))
        Path(runs).parent.mkdir(parents=True, exist_ok=True)
        short = [{"prior": cell["prior"], "seed": cell["seed"]} for cell in cells]
        Path(runs).write_text(json.dumps(short))
        return cells
