"""The publish stage: model, predictions, evaluation and a card in one folder others can use."""

import shutil
from pathlib import Path

from components.publish.card import result, write_card
from components.publish.chain import check_chain
from components.publish.published_files import CARD_FILE, check_files, collect
from components.publish.targets import check_target, upload
from components.shared.artifacts import artifact
from components.shared.artifacts.artifact import MODEL, PUBLISHED, SPLITS, opening, writing
from components.shared.findings.results import RESULT, tell_result
from components.shared.storage.files import local_path
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError


def publish(
    model: Path | str,
    predictions: Path | str,
    evaluation: Path | str,
    splits: Path | str,
    publish_to: str,
    target: Path | str,
) -> None:
    """Assemble what a run publishes, with its model card, and copy it to ``publish_to``.

    Args:
        model: model artifact.
        predictions: predictions artifact made with it.
        evaluation: evaluation artifact of those predictions.
        splits: splits artifact the model was trained on.
        publish_to: a folder, ``gs://`` or ``s3://bucket/prefix``,
            ``hf://<owner>/<name>[@branch]``, or empty for the artifact alone.
        target: folder of the published artifact; it is not left behind if the copy fails.

    Raises:
        InputError: an artifact that cannot be used or is of another run, a ``publish_to`` that is
            taken, not allowed or not accessible, or a transfer that failed.
    """
    target = Path(target)
    check_target(publish_to)
    if publish_to and scheme_of(publish_to) in ("", "file"):
        _check_apart(local_path(publish_to), target)
    artifacts = {
        "model": opening(model, MODEL),
        "predictions": opening(predictions, artifact.PREDICTIONS),
        "evaluation": opening(evaluation, artifact.EVALUATION),
        "splits": opening(splits, SPLITS),
    }
    check_chain(artifacts)
    check_files(artifacts)
    with writing(
        target, PUBLISHED, parameters={"publish_to": publish_to}, inputs=artifacts
    ) as draft:
        files = collect(artifacts, draft.path)
        draft.summary |= write_card(artifacts, files, draft.path / CARD_FILE)
        draft.summary[RESULT] = result(artifacts)
    where = str(target)
    if publish_to:
        try:
            where = upload(target, publish_to)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    there = f", published at {where}" if publish_to else ""
    print(
        f"publish: wrote {target}: {len(files)} files and the card{there}; open "
        f"{target / CARD_FILE}"
    )
    tell_result("publish", draft.summary[RESULT])


def _check_apart(publish_to: Path, target: Path) -> None:
    there, here = publish_to.resolve(), target.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise InputError(
            f"publish_to {publish_to}: is, holds or lies in the task's own output folder {target}; "
            "give another folder"
        )
