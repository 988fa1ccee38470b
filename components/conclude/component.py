"""The conclude task: runs when all others are done or one has failed, and says how to continue."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/conclude", install_kfp_package=False)
def conclude(
    status: dsl.PipelineTaskFinalStatus,
    outcome: dsl.Output[dsl.Markdown],
    run_id: str,
    checkpoints: str,
) -> None:
    """Write how the run ended: what came of it, or what failed and how to resume it.

    Args:
        status: the state of the tasks before; KFP fills it in.
        outcome: a page that says it.
        run_id: KFP's id of the run.
        checkpoints: the pipeline parameter of this name.
    """
    from components.conclude.conclude import conclude as run
    from components.shared.telling.errors import one_line_errors

    with one_line_errors("conclude"):
        run(status.state, status.error_message or "", run_id, checkpoints, outcome.path)
