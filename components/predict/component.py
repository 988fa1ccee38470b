"""The predict task: the test line under every requested perturbation."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/predict", install_kfp_package=False)
def predict(
    model: dsl.Input[dsl.Model],
    cells: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Dataset],
    predictions: dsl.Output[dsl.Dataset],
    cells_per_perturbation: int,
    seed: int,
    gpus: int,
    in_grid: bool,
) -> None:
    """Predict the requested perturbations, each cell from a basal control cell of the test line.

    Args:
        model: the checkpoint of the finetune task.
        cells: the cells artifact of the ingest task.
        splits: the splits artifact of the split task.
        predictions: the predictions artifact (format predictions/v1), one self-contained h5ad.
        cells_per_perturbation: cells of each perturbation that was not measured; 0 = as many as
            there are basal controls, at most 200.
        seed: draws the control partners.
        gpus: GPUs that must be there; 0: one is used if there is one.
        in_grid: whether a failure is a result, so that the other runs of a grid continue.
    """
    from components.predict.predict import predict as run
    from components.shared.artifacts.artifact import describe
    from components.shared.artifacts.failure import errors_of
    from components.shared.model.devices import check_gpus

    with errors_of("predict", predictions.path, in_grid=in_grid):
        check_gpus(gpus)
        run(
            model.path,
            cells.path,
            splits.path,
            predictions.path,
            cells_per_perturbation=cells_per_perturbation,
            seed=seed,
        )
        predictions.metadata.update(describe(predictions.path))
