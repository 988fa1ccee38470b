"""The compare task: one report of the many runs of a grid."""

from typing import List  # noqa: UP035  KFP reads List[Dataset] alone

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/compare", install_kfp_package=False)
def compare(
    evaluations: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    stats: dsl.Input[List[dsl.Metrics]],  # noqa: UP006
    comparison: dsl.Output[dsl.Dataset],
    best_evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    cells: list,
    repeat: str,
) -> int:
    """Compare the priors of a grid of runs, and return the place of the best run in it.

    Args:
        evaluations: the evaluation artifacts of the grid's evaluate tasks, in its order; a run
            that failed has one that says why.
        stats: what its finetune tasks took, in the same order.
        comparison: the comparison artifact (format comparison/v1).
        best_evaluation: the evaluation of the best run, so that publish-best takes one and not all.
        metrics: means by prior, for the comparison of runs.
        report: the report with plots.
        summary: the verdict and the main table.
        cells: the grid: one dict per run with prior and seed.
        repeat: the commands that repeat the comparison, for the report.
    """
    import json
    import shutil
    from pathlib import Path

    from components.compare.compare import compare as run
    from components.shared.artifacts.artifact import describe
    from components.shared.telling.errors import one_line_errors

    with one_line_errors("compare"):
        run(
            [evaluation.path for evaluation in evaluations],
            [one.path for one in stats],
            cells,
            comparison.path,
            repeat=repeat,
        )
        comparison.metadata.update(describe(comparison.path))
        folder = Path(comparison.path)
        shutil.copyfile(folder / "report.html", report.path)
        shutil.copyfile(folder / "summary.md", summary.path)
        shutil.copyfile(folder / "metrics.json", metrics.path)
        numbers = json.loads((folder / "metrics.json").read_text())
        for name, value in numbers["metrics"].items():
            metrics.log_metric(name, value)
        best = numbers["best"]["cell"]
        shutil.copytree(evaluations[best].path, best_evaluation.path, dirs_exist_ok=True)
        best_evaluation.metadata.update(describe(best_evaluation.path))
        return best
