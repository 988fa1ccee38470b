"""The evaluate task: cell-eval's metrics, the baselines to beat, and the report."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/evaluate", install_kfp_package=False)
def evaluate(
    predictions: dsl.Input[dsl.Dataset],
    cells: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score the predictions with cell-eval, beside baselines and the ceiling of the data.

    Args:
        predictions: the predictions artifact of the predict task.
        cells: the cells artifact of the ingest task.
        splits: the splits artifact of the split task.
        evaluation: the evaluation artifact (format evaluation/v1).
        metrics: means over perturbations, the model's and the baselines'.
        report: the report with plots.
    """
    import json
    import shutil
    from pathlib import Path

    from components.evaluate.evaluate import evaluate as run
    from components.shared.artifact import describe
    from components.shared.errors import one_line_errors

    with one_line_errors("evaluate"):
        run(predictions.path, cells.path, splits.path, evaluation.path)
        evaluation.metadata.update(describe(evaluation.path))
        shutil.copyfile(f"{evaluation.path}/report.html", report.path)
        scores = json.loads(Path(evaluation.path, "metrics.json").read_text())
        for name, values in {"model": scores["model"], **scores["baselines"]}.items():
            for metric, value in values.items():
                if value is not None:  # KFP's Metrics cannot hold NaN
                    metrics.log_metric(f"{name}/{metric}", value)
        # KFP's local cache takes an output without a file for one that was lost.
        shutil.copyfile(f"{evaluation.path}/metrics.json", metrics.path)
