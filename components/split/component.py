"""The split task: a role for every cell."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/split", install_kfp_package=False)
def split(
    cells: dsl.Input[dsl.Dataset],
    splits: dsl.Output[dsl.Dataset],
    train_lines: list,
    test_line: str,
    perturbations: list,
    options: dict,
    seed: int,
) -> None:
    """Give every cell one role: train, val, test, a control pool, or unused.

    Args:
        cells: the cells artifact of the ingest task.
        splits: the splits artifact (format splits/v1).
        train_lines: cell lines to train on.
        test_line: the cell line to predict.
        perturbations: what to predict there; empty = what was measured, else what trains.
        options: val_line, val_fraction, restrict_test_to_training, halve_controls, split_file,
            aliases.
        seed: draws validation perturbations and control halves.
    """
    from components.shared.artifacts.artifact import describe
    from components.shared.parameters.stage_options import SPLIT_OPTIONS, checked_options
    from components.shared.telling.errors import one_line_errors
    from components.split.split import split as run

    with one_line_errors("split"):
        keywords = checked_options(SPLIT_OPTIONS, options, name="split_options")
        run(
            cells.path,
            splits.path,
            train_lines=train_lines,
            test_line=test_line,
            perturbations=perturbations,
            seed=seed,
            **keywords,
        )
        splits.metadata.update(describe(splits.path))
