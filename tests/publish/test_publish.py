"""Publishing a finished run: the files, the checks before, and nothing by halves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.publish.publish import publish
from components.publish.targets import check_target
from components.shared.artifacts.artifact import PUBLISHED, opening
from components.shared.findings.results import kept_results, told_results
from components.shared.telling.errors import InputError
from tests.helpers import one_line
from tests.publish.publish_run import FILES, Run, finished_run, tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(tmp_path_factory.mktemp("run"))


def test_the_published_artifact_has_the_reference_layout(run: Run, tmp_path: Path) -> None:
    publish(*run.folders(), "", tmp_path / "published")
    assert set(tree(tmp_path / "published")) == FILES
    artifact = opening(tmp_path / "published", PUBLISHED)
    assert set(artifact.provenance["inputs"]) == {"model", "predictions", "evaluation", "splits"}
    assert artifact.summary["pearson_delta"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_what_came_of_the_run_is_told_in_the_log_and_kept(run: Run, tmp_path: Path, capsys) -> None:
    publish(*run.folders(), "", tmp_path / "publish" / "published")
    told = told_results(capsys.readouterr().out)
    assert told == kept_results(tmp_path)
    assert told[0].startswith("**Over 2 perturbations the model is worse than copying")
    assert told[1] == "Published: the model with prior none, seed 7, tested on rpe1."
    assert told[-1].endswith("perturbations: pearson_delta 0.2500, mae_delta 0.1250, roc_auc -.")


def test_the_prior_of_a_model_is_published_with_it(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", gene_prior=True)
    publish(*run.folders(), "", tmp_path / "published")
    assert set(tree(tmp_path / "published")) == FILES | {"gene_prior.json"}


def test_a_local_publication_is_the_same_tree_but_not_the_same_files(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    publish(*run.folders(), f"file://{out}", tmp_path / "published")
    assert tree(out) == tree(tmp_path / "published")
    opening(out, PUBLISHED)
    # Who edits what was published must not change the artifacts of the run.
    for name in FILES:
        assert not (out / name).samefile(tmp_path / "published" / name)


def test_big_files_are_linked_into_the_artifact_not_copied(run: Run, tmp_path: Path) -> None:
    publish(*run.folders(), "", tmp_path / "published")
    assert (tmp_path / "published" / "best_model.pt").samefile(run.model / "best_model.pt")


def test_files_are_copied_where_links_cannot_be(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    publish(*run.folders(), "", tmp_path / "published")
    assert set(tree(tmp_path / "published")) == FILES


def test_a_folder_that_exists_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError) as error:
        publish(*run.folders(), str(out), tmp_path / "published")
    assert "exists already" in one_line(error)
    assert tree(out) == {"mine.txt": b"mine"}
    assert not (tmp_path / "published").exists()


def test_an_empty_folder_is_filled(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(*run.folders(), str(tmp_path / "out"), tmp_path / "published")
    assert set(tree(tmp_path / "out")) == FILES


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as error:
        check_target(str(tmp_path / "file" / "out"))
    assert "not a writable folder" in one_line(error)


@pytest.mark.parametrize("inside", ["published", "published/out", "."])
def test_the_tasks_own_folder_is_refused(run: Run, tmp_path: Path, inside: str) -> None:
    out = tmp_path / "empty" / inside
    with pytest.raises(InputError) as error:
        publish(*run.folders(), str(out), tmp_path / "empty" / "published")
    assert "own output folder" in one_line(error)


@pytest.mark.parametrize("uri", ["az://bucket/x", "https://host/x", "hff://a/b"])
def test_an_unknown_scheme_lists_the_allowed_ones(run: Run, uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        publish(*run.folders(), uri, tmp_path / "published")
    text = one_line(error)
    for allowed in ("file://", "gs://bucket/prefix", "s3://bucket/prefix", "hf://<owner>/<name>"):
        assert allowed in text
    assert not (tmp_path / "published").exists()


def test_an_artifact_of_the_wrong_format_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        publish(run.splits, run.predictions, run.evaluation, run.splits, "", tmp_path / "p")
    text = one_line(error)
    assert "splits/v1" in text and "finetune" in text
    assert not (tmp_path / "p").exists()


def test_artifacts_of_two_runs_are_not_published_together(run: Run, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other", stats={"seed": 8})
    with pytest.raises(InputError) as error:
        publish(
            other.model, run.predictions, run.evaluation, run.splits, "", tmp_path / "published"
        )
    assert "made from other" in one_line(error)
    assert not (tmp_path / "published").exists()


def test_a_file_that_changed_since_is_refused(run: Run, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    shutil.copytree(run.evaluation, evaluation)
    with (evaluation / "results.csv").open("a") as file:
        file.write("G2,1,1,1\n")
    with pytest.raises(InputError) as error:
        publish(run.model, run.predictions, evaluation, run.splits, "", tmp_path / "published")
    assert "results.csv: sha256" in one_line(error)


def test_a_file_its_task_did_not_write_is_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    provenance = json.loads((run.evaluation / "provenance.json").read_text())
    del provenance["files"]["summary.csv"]
    (run.evaluation / "provenance.json").write_text(json.dumps(provenance))
    (run.evaluation / "summary.csv").unlink()
    with pytest.raises(InputError) as error:
        publish(*run.folders(), "", tmp_path / "published")
    assert "summary.csv" in one_line(error) and "evaluate" in one_line(error)
    assert not (tmp_path / "published").exists()


def test_a_transfer_that_fails_leaves_no_artifact_either(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(OSError, match="No space"):
        publish(*run.folders(), str(tmp_path / "out"), tmp_path / "published")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from components.publish.publish import publish
seen = []
def pause(event, _):
    if event == sys.argv[1]:
        seen.append(event)
        if len(seen) == 4:
            print("in the middle", flush=True)
            time.sleep(60)
sys.addaudithook(pause)
publish(*sys.argv[2:])
"""


@pytest.mark.parametrize("event", ["os.link", "shutil.copyfile"])
def test_a_publish_killed_in_the_middle_leaves_no_target(
    run: Run, tmp_path: Path, event: str
) -> None:
    out, target = tmp_path / "out", tmp_path / "published"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, event, *map(str, run.folders()), str(out), str(target)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    partial = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert len(partial) == 1 and tree(partial[0])
    assert not out.exists()
    assert target.exists() == (event == "shutil.copyfile")
    publish(*run.folders(), str(out), tmp_path / "again")
    assert set(tree(out)) == FILES


ALONE = """
import sys
for name in ("numpy", "pandas", "scipy", "torch", "anndata", "h5py"):
    sys.modules[name] = None
from components.publish.publish import publish
publish(*sys.argv[1:])
"""


def test_publish_needs_none_of_the_heavy_packages(run: Run, tmp_path: Path) -> None:
    out, target = tmp_path / "out", tmp_path / "published"
    arguments = [*map(str, run.folders()), str(out), str(target)]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True)
    assert set(tree(out)) == FILES


def test_it_says_what_was_written_where(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(*run.folders(), str(tmp_path / "out"), tmp_path / "published")
    said = capsys.readouterr().out
    assert str(tmp_path / "published" / "README.md") in said
    assert f"published at {tmp_path / 'out'}" in said
