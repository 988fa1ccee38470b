"""A finished model taken from where it lies: whole, checked, or refused in one line."""

import json
from pathlib import Path

import pytest

from components.shared.artifacts.artifact import MODEL, PREDICTIONS, PUBLISHED, opening, writing
from components.shared.artifacts.finished import NEEDED, take_model
from components.shared.artifacts.settings import settings_of
from components.shared.telling.errors import InputError

SETTINGS = {
    "predicted_cells": "rank",
    "precision": "fp32",
    "batch_size": 8,
    "predict_window": 0,
    "contrast": True,
    "token_for_unmeasured": True,
}


def published(folder: Path, *, format: str = PUBLISHED, without: str = "", **files: str) -> Path:
    """Write a folder with the files of a model and one of an evaluation."""
    content = dict.fromkeys((*NEEDED, "effects.safetensors", "eval.csv"), "x")
    content["args.json"] = json.dumps({"scgpt_perturb": {"settings": SETTINGS}})
    content["training_stats.json"] = json.dumps({"seed": 3, "history": [1, 2]})
    content |= {name.replace("__", "."): text for name, text in files.items()}
    content.pop(without, None)
    with writing(folder, format, parameters={}) as draft:
        for name, text in content.items():
            (draft.path / name).write_text(text)
    return folder


@pytest.mark.parametrize("format", [PUBLISHED, MODEL])
def test_a_finished_model_becomes_a_model_artifact_with_its_own_files_alone(tmp_path, format):
    folder = published(tmp_path / "published", format=format)
    summary = take_model(str(folder), tmp_path / "model")
    found = opening(tmp_path / "model", MODEL)
    assert set(found.provenance["files"]) == {*NEEDED, "effects.safetensors"}
    assert found.summary == summary
    assert summary["seed"] == 3 and "history" not in summary
    assert summary["published_at"] == str(folder)
    assert summary["published_sha256"] == opening(folder, format).digest


def test_the_weights_inside_a_folder_stand_for_the_folder(tmp_path):
    folder = published(tmp_path / "published")
    take_model(f"{folder}/best_model.pt", tmp_path / "model")
    opening(tmp_path / "model", MODEL)


@pytest.mark.parametrize("name", NEEDED)
def test_a_model_without_what_a_prediction_needs_is_refused(tmp_path, name):
    folder = published(tmp_path / "published", without=name)
    with pytest.raises(InputError, match=f"has no {name}, which a prediction needs"):
        take_model(str(folder), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", [*NEEDED, "effects.safetensors"])
def test_a_file_that_was_lost_or_changed_is_refused(tmp_path, name):
    folder = published(tmp_path / "published")
    (folder / name).write_text("changed")
    with pytest.raises(InputError, match=rf"{name}: sha256 is not the one in provenance.json"):
        take_model(str(folder), tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        take_model(str(folder), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"provenance.json: no such file.*an scGPT checkpoint has to be fine-tuned first"),
        ("{", r"not JSON"),
        ("[" * 100_000, r"not JSON"),
        ("[]", r"is not a JSON object"),
        ('{"format": "published/v1"}', r"not a model"),
        ('{"format": 7, "files": {}}', r"is '7', not a model"),
        ('{"format": "published/v1", "files": {"args.json": {}}}', r"has no best_model.pt"),
    ],
)
def test_a_folder_that_is_no_finished_model_is_refused_in_one_line(tmp_path, content, says):
    folder = published(tmp_path / "published")
    (folder / "provenance.json").unlink()
    if content is not None:
        (folder / "provenance.json").write_text(content)
    with pytest.raises(InputError, match=says) as error:
        take_model(str(folder), tmp_path / "model")
    assert "\n" not in str(error.value)


def test_another_artifact_is_refused_by_its_name(tmp_path):
    folder = published(tmp_path / "predictions", format=PREDICTIONS)
    with pytest.raises(InputError, match="is 'predictions/v1', not a model"):
        take_model(str(folder), tmp_path / "model")


def test_a_folder_that_is_not_there_names_the_nearest(tmp_path):
    published(tmp_path / "published")
    with pytest.raises(InputError, match="no such folder, nearest: 'published'"):
        take_model(str(tmp_path / "publishd"), tmp_path / "model")


@pytest.mark.parametrize("args", [{}, {"scgpt_perturb": None}, {"scgpt_perturb": {}}])
def test_a_checkpoint_that_was_never_fine_tuned_here_says_so(tmp_path, args):
    with pytest.raises(InputError, match="never fine-tuned here; fine-tune it first"):
        settings_of(args, "folder")
    folder = published(tmp_path / "published", args__json=json.dumps(args))
    with pytest.raises(InputError, match="never fine-tuned here"):
        take_model(str(folder), tmp_path / "model")
