"""The whole pipeline by KFP's Docker runner, every task in its image as a cluster runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import docker
import pandas as pd
import pytest

from components.shared.artifacts.artifact import MODEL, PUBLISHED, opening
from components.shared.storage.buckets import open_bucket
from pipelines.containers import ENVIRONMENT
from pipelines.scheduling import USER
from pipelines.task_containers import TaskContainers
from tests.pipelines.runs import PUBLISHED_FILES, interrupt, path_after, started, wait_for
from tests.servers.stores import serving

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["recipe=smoke", "overrides={epochs: 2}", "prior=none"]
SCREEN = "sim://screen?cells=800&genes=60&perturbations=8&lines=4&seed=3"


@pytest.fixture(scope="module")
def runs(built: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are kept; containers of another user must be able to come here."""
    folder = tmp_path_factory.mktemp("runs")
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)
    return folder


def run(runs: Path, params: str, *assignments: str, **environment: str) -> str:
    """Return what a run prints; it must succeed."""
    done = attempt(runs, params, *assignments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(runs: Path, params: str, *assignments: str, **environment: str):
    kept = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    command = [sys.executable, "-m", "pipelines.run", params, *assignments]
    return subprocess.run(
        [*command, "--runs", str(runs), "--containers"],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(runs: Path) -> Path:
    """The published folder of the demo, run without a network."""
    return path_after("published", run(runs, "demo"))


def test_the_demo_publishes_everything_from_containers(demo: Path) -> None:
    artifact = opening(demo, PUBLISHED)
    assert PUBLISHED_FILES - {"provenance.json"} <= set(artifact.provenance["files"])
    scores = json.loads((demo / "eval" / "metrics.json").read_text())
    assert scores["model"]["pearson_delta"] > scores["baselines"]["control_mean"]["pearson_delta"]


def test_every_artifact_names_the_image_that_made_it(demo: Path, built: dict[str, str]) -> None:
    root = demo.parents[1]
    made = {path.parent.parent.name: path for path in root.glob("*/*/provenance.json")}
    assert set(made) == set(built) - {"check", "compare", "conclude"}
    for stage, path in made.items():
        provenance = json.loads(path.read_text())
        assert provenance["image"] == built[stage]
        assert provenance["code"]["revision"] != "none"


def test_what_is_made_in_containers_is_not_roots(demo: Path) -> None:
    owners = {path.stat().st_uid for path in demo.rglob("*")}
    assert owners == {os.getuid() or USER}


def test_four_real_lines_go_all_the_way_in_containers(runs: Path, shared_data: Path) -> None:
    vocabulary = shared_data / "scgpt_human" / "vocab.json"
    output = run(
        runs,
        "four-lines",
        f"dataset={shared_data / 'norman2019_mcfaline2023_devel.h5ad'}",
        f"pretrained=random://tiny?vocabulary={vocabulary}",
    )
    published = path_after("published", output)
    summary = json.loads((published.parents[1] / "split" / "splits" / "summary.json").read_text())
    assert summary["test_cells"] == 765
    adata = anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")
    assert adata.shape == (765 + summary["test_controls_reference"], 500)
    assert opening(published, PUBLISHED)


def test_containers_publish_to_a_folder_and_keep_checkpoints_in_one(
    runs: Path, tmp_path: Path
) -> None:
    for above in tmp_path.parents[:3]:
        above.chmod(0o755)
    mine, kept = tmp_path / "results" / "mine", tmp_path / "kept"
    published = path_after(
        "published",
        run(runs, "demo", f"dataset={SCREEN}", *SMALL, f"publish_to={mine}", f"checkpoints={kept}"),
    )
    there = {str(path.relative_to(mine)) for path in mine.rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert there == wanted
    assert list(kept.glob("epoch-*"))


def test_a_bad_parameter_fails_its_container_in_one_line_and_conclude_says_how_to_go_on(
    runs: Path,
) -> None:
    wrong = "ingest_options={scale: fractions}"  # which the values alone tell
    done = attempt(runs, "demo", f"dataset={SCREEN}", *SMALL, wrong)
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1 and "ingest: error: " in errors[0]
    assert "Traceback" not in done.stdout + done.stderr
    newest = max(runs.glob("2*/*"), key=lambda path: path.name)
    assert "same command again" in (newest / "conclude" / "outcome").read_text()
    assert not (newest / "ingest" / "cells").exists()


def test_a_task_that_fails_at_once_is_no_success_and_leaves_no_container(built: dict) -> None:
    """KFP's own function takes it for one where the engine has removed the container by then."""
    client = docker.from_env()
    tasks = TaskContainers()
    command = ["sh", "-c", "exit 3"]
    codes = {tasks.start(client, built["split"], command, {}, labels=["fails"]) for _ in range(20)}
    assert codes == {3}
    assert not client.containers.list(all=True, filters={"label": "fails"})


def test_a_container_that_cannot_start_is_an_error_and_is_not_left(built: dict) -> None:
    client = docker.from_env()
    tasks = TaskContainers()
    with pytest.raises(docker.errors.APIError, match="no such file or directory"):
        tasks.start(client, built["split"], ["/nowhere"], {}, labels=["cannot start"])
    assert not client.containers.list(all=True, filters={"label": "cannot start"})


def test_ctrl_c_ends_containers_and_the_same_command_resumes_from_a_checkpoint(
    runs: Path, tmp_path: Path, built: dict
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with started(runs, first, "--containers") as process:
        wait_for(r"epoch [23]/400", runs, process.poll)
        assert interrupt(process) == 130
    assert not docker.from_env().containers.list(filters={"ancestor": built["finetune"]})
    said = first.read_text()
    assert "Traceback" not in said and "Skipping" not in said
    assert re.search(r"finetune +stopped at epoch (\d+), step \d+; .*same command resumes", said)
    assert said.rstrip().splitlines()[-1].startswith("run: stopped; the same command continues")
    with started(runs, second, "--containers") as process:
        wait_for(r"finetune: resuming from epoch ([2-9]|\d\d)", runs, process.poll)
        assert interrupt(process) == 130


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
def test_cells_come_from_a_bucket_and_everything_is_published_to_one(
    runs: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The store is a server of this process, which containers reach by the host's network."""
    cells = next(demo.parents[1].glob("ingest/cells/*.h5ad"))
    of_server = "gs" if scheme == "gs" else "s3"
    with serving(of_server, monkeypatch, "screens", "models") as store:
        open_bucket(f"{scheme}://screens").upload(cells, "x.h5ad")
        output = run(
            runs,
            "demo",
            *SMALL,
            f"dataset={scheme}://screens/x.h5ad",
            "perturbation_column=perturbation",
            f"publish_to={scheme}://models/mine",
            f"checkpoints={scheme}://models/kept",
            **store.environment,
        )
        names = store.names("models")
    published = path_after("published", output)
    wanted = {
        f"mine/{path.relative_to(published)}" for path in published.rglob("*") if path.is_file()
    }
    assert wanted == {name for name in names if name.startswith("mine/")}
    assert [name for name in names if name.startswith("kept/")]
    printed = output + "".join(
        path.read_text(errors="ignore") for path in published.parents[1].rglob("*.json")
    )
    assert not any(
        value in printed for name, value in store.environment.items() if "SECRET" in name
    )


def test_a_line_with_controls_alone_goes_all_the_way_in_containers(runs: Path) -> None:
    dataset = f"dataset={SCREEN}&controls_only=rpe1"
    published = path_after("published", run(runs, "demo", dataset, *SMALL))
    assert not json.loads((published / "eval" / "metrics.json").read_text())["scored"]
    assert "no perturbed cell of rpe1 was measured" in (published / "README.md").read_text()
    assert opening(published, PUBLISHED)


def test_a_published_model_is_applied_to_other_cells_in_containers(
    runs: Path, demo: Path, tmp_path: Path
) -> None:
    for above in tmp_path.parents[:3]:
        above.chmod(0o755)
    model = opening(demo, PUBLISHED)
    wanted = pd.read_csv(demo / "predictions" / "perturbations.csv")["perturbation"][:3].tolist()
    (tmp_path / "genes.txt").write_text("\n".join(wanted))
    output = run(
        runs,
        "predict-line",
        f"model={demo}",
        # Another screen: its controls, and genes of which the model knows some.
        "dataset=sim://screen?cells=800&genes=300&perturbations=8&lines=4&seed=9",
        "cell_line=hepg2",
        f"perturbations={tmp_path / 'genes.txt'}",
    )
    published = path_after("published", output)
    adata = anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")
    assert set(adata.uns["perturbations"]) == set(wanted)
    assert 0 < len(adata.uns["genes_not_predicted"]) < 300
    made_with = json.loads((published / "provenance.json").read_text())["inputs"]["model"]
    taken = opening(published.parents[1] / "check-model" / "taken", MODEL)
    assert made_with["sha256"] == taken.digest
    assert taken.summary["published_sha256"] == model.digest
