"""The publish task: model, predictions, evaluation and a card in one folder others can use."""

from typing import List  # noqa: UP035  KFP reads List[Dataset] alone

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/publish", install_kfp_package=False)
def publish(
    model: dsl.Input[dsl.Model],
    predictions: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Dataset],
    published: dsl.Output[dsl.Dataset],
    card: dsl.Output[dsl.Markdown],
    publish_to: str,
) -> None:
    """Assemble what the run publishes, with its model card, and copy it where the user wants it.

    Args:
        model: the checkpoint of the finetune task.
        predictions: the predictions artifact of the predict task.
        evaluation: the evaluation artifact of the evaluate task.
        splits: the splits artifact of the split task.
        published: the published folder (format published/v1).
        card: the model card.
        publish_to: gs:// or s3://bucket/prefix, hf://owner/name, a lasting folder, or empty.
    """
    import shutil

    from components.publish.publish import publish as run
    from components.shared.artifacts.artifact import describe
    from components.shared.telling.errors import one_line_errors

    with one_line_errors("publish"):
        run(model.path, predictions.path, evaluation.path, splits.path, publish_to, published.path)
        published.metadata.update(describe(published.path))
        shutil.copyfile(f"{published.path}/README.md", card.path)


@dsl.component(base_image="scgpt-perturb/publish", install_kfp_package=False)
def publish_best(
    models: dsl.Input[List[dsl.Model]],  # noqa: UP006
    predictions: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    evaluation: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Dataset],
    published: dsl.Output[dsl.Dataset],
    card: dsl.Output[dsl.Markdown],
    best: int,
    publish_to: str,
) -> None:
    """Publish one run of a grid, as the publish task does.

    Args:
        models: the checkpoints of the grid's finetune tasks.
        predictions: the predictions artifacts of its predict tasks, in the same order.
        evaluation: the evaluation artifact of the run to publish.
        splits: the splits artifact of the split task.
        published: the published folder (format published/v1).
        card: the model card.
        best: the place of the run to publish in these lists.
        publish_to: gs:// or s3://bucket/prefix, hf://owner/name, or a lasting folder.
    """
    import shutil

    from components.publish.publish import publish as run
    from components.shared.artifacts.artifact import describe
    from components.shared.telling.errors import one_line_errors

    with one_line_errors("publish"):
        run(
            models[best].path,
            predictions[best].path,
            evaluation.path,
            splits.path,
            publish_to,
            published.path,
        )
        published.metadata.update(describe(published.path))
        shutil.copyfile(f"{published.path}/README.md", card.path)
