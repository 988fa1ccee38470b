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
    explorer: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    repeat: str,
    in_grid: bool,
    gene_prior: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Score the predictions with cell-eval, beside baselines and the ceiling of the data.

    Args:
        predictions: the predictions artifact of the predict task.
        cells: the cells artifact of the ingest task.
        splits: the splits artifact of the split task.
        evaluation: the evaluation artifact (format evaluation/v1).
        metrics: means over perturbations, for the comparison of runs.
        report: the report with plots.
        explorer: the page to look a gene up in: what its knock-down does, and what moves it.
        summary: the main numbers.
        repeat: the commands that repeat the run, which the report ends with.
        in_grid: whether a failure is a result, so that the other runs of a grid continue.
        gene_prior: the gene prior artifact of the prior task, for the baseline that knows only it;
            none where a finished model is applied.
    """
    import os
    import shutil
    from pathlib import Path

    from components.evaluate.evaluate import evaluate as run
    from components.evaluate.pages.summary import compared
    from components.shared.artifacts.artifact import describe
    from components.shared.artifacts.evaluation import (
        EXPLORER_FILE,
        METRICS_FILE,
        REPORT_FILE,
        SUMMARY_PAGE,
        read_numbers,
    )
    from components.shared.artifacts.failure import errors_of

    with errors_of("evaluate", evaluation.path, in_grid=in_grid):
        run(
            predictions.path,
            cells.path,
            splits.path,
            evaluation.path,
            prior=gene_prior.path if gene_prior else None,
            # It changes no result, and no pod sees it: KFP's cache must not depend on it.
            cache=os.environ.get("SCGPT_PERTURB_EVALUATION_CACHE"),
            repeat=repeat,
        )
        evaluation.metadata.update(describe(evaluation.path))
        shutil.copyfile(f"{evaluation.path}/{REPORT_FILE}", report.path)
        shutil.copyfile(f"{evaluation.path}/{EXPLORER_FILE}", explorer.path)
        shutil.copyfile(f"{evaluation.path}/{SUMMARY_PAGE}", summary.path)
        for name, value in compared(read_numbers(Path(evaluation.path))):
            metrics.log_metric(name, value)
        # KFP's local cache takes an output without a file for one that was lost.
        shutil.copyfile(f"{evaluation.path}/{METRICS_FILE}", metrics.path)
