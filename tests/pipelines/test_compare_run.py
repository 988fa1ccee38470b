"""The comparison of priors through KFP's local runner, as `make compare` does it."""

import json

import pandas as pd
import pytest

from components.shared.artifacts.artifact import COMPARISON, EVALUATION, PUBLISHED, opening
from tests.helpers import bare_names
from tests.pipelines.runs import path_after, run, tasks_told

GRID = """
dataset: sim://screen?cells=800&genes=60&perturbations=8&lines=4&seed=3
train_lines: [k562, jurkat, hepg2]
test_line: rpe1
pretrained: random://tiny
priors: [none, table:RUNS/broken.parquet, "random:8"]
seeds: [5]
recipe: smoke
overrides: {epochs: 1, batch_size: 16, early_stop_after: 1, learning_rate: 0.001}
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    (runs / "broken.parquet").write_text("no table")
    (runs / "grid.yaml").write_text(GRID.replace("RUNS", str(runs)))
    done = run(runs, str(runs / "grid.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    return runs, done.stdout


def test_a_prior_that_fails_is_missing_and_the_others_are_compared(grid):
    comparison = path_after("report", grid[1]).parent
    assert opening(comparison, COMPARISON).summary["runs"] == 2
    table = pd.read_csv(comparison / "runs.csv").set_index("prior")
    [broken] = [prior for prior in table.index if "broken.parquet" in prior]
    assert table.loc[broken, "failed_in"] == "prior"
    assert "broken.parquet" in table.loc[broken, "reason"]
    assert table.loc[["none", "random:8"], "pearson_delta"].notna().all()
    said = " ".join(grid[1].split())
    assert "1 runs are missing" in said
    assert "There is no evidence" in said  # one seed never is


def test_each_line_of_a_run_carries_the_run_that_it_is_of(grid):
    lines = grid[1].splitlines()
    for label in ("[none seed 5] ", "[random:8 seed 5] "):
        told = [line.removeprefix(label) for line in lines if line.startswith(label)]
        assert any(line.startswith("finetune    best epoch ") for line in told)
    assert not [line for line in lines if line.lstrip().startswith(("finetune", "predict"))]
    assert "[table:" in next(line for line in lines if "prior: error: " in line)


def test_screen_split_and_measured_cells_are_worked_on_once(grid):
    root = path_after("report", grid[1]).parents[2]
    assert len(list(root.rglob("ingest/cells"))) == len(list(root.rglob("split/splits"))) == 1
    digests = {
        json.loads(file.read_text())["inputs"]["cells"]["sha256"]
        for file in root.rglob("evaluation/provenance.json")
        if json.loads(file.read_text())["format"] == EVALUATION
    }
    assert len(digests) == 1
    assert any((grid[0] / ".cache" / "evaluate").rglob("*"))


def test_the_run_that_is_best_in_validation_is_published(grid):
    published = path_after("published", grid[1])
    stats = json.loads((published / "training_stats.json").read_text())
    numbers = json.loads((path_after("report", grid[1]).parent / "metrics.json").read_text())
    assert opening(published, PUBLISHED)
    assert stats["best_val_pearson_delta"] == numbers["best"]["validation"]
    assert stats["seed"] == 5


def test_every_report_ends_with_the_commands_of_its_run(grid):
    comparison = path_after("report", grid[1]).parent
    pages = [comparison, *comparison.parents[1].glob("for-loop-*/evaluate/evaluation")]
    for page in pages:
        if (page / "summary.md").exists():
            *_, make, kfp, _ = (page / "summary.md").read_text().splitlines()
            assert make.startswith('make compare ARGS="')
            assert kfp.startswith("kfp run create ")
            assert "compiled/compare-priors.yaml" in kfp


def test_the_last_page_says_what_came_of_the_comparison_and_what_was_published(grid):
    root = path_after("report", grid[1]).parents[2]
    page = (root / "conclude" / "outcome").read_text()
    assert "- There is no evidence that any of these priors helps" in page
    assert "Missing runs: 1." in page and "Published: the model with prior" in page
    for shown in (page, (root / "compare" / "summary").read_text()):
        assert not bare_names(shown)


def test_the_same_comparison_again_ends_with_a_report_and_a_model_of_its_own(grid):
    again = run(grid[0], str(grid[0] / "grid.yaml"))
    assert again.returncode == 0, again.stdout + again.stderr
    told = tasks_told(again.stdout)
    scored = {what for task, what in told if task == "evaluate"}
    assert scored == {"from the cache", "failed"}
    report, published = (path_after(word, again.stdout) for word in ("report", "published"))
    assert published.parents[1] == report.parents[2]  # the folder of one run
    assert report != path_after("report", grid[1])


def test_a_grid_with_other_priors_makes_only_what_is_new(grid):
    again = run(grid[0], str(grid[0] / "grid.yaml"), 'priors=[none, "random:8"]')
    assert again.returncode == 0, again.stdout + again.stderr
    told = tasks_told(again.stdout)
    for task in ("ingest", "split", "prior", "finetune", "predict", "evaluate"):
        assert (task, "from the cache") in told, task
    assert dict(told)["compare"] == "2 runs"
    assert "runs are missing" not in " ".join(again.stdout.split())


def test_a_misspelt_prior_is_refused_before_anything_runs(grid):
    done = run(grid[0], str(grid[0] / "grid.yaml"), "priors=[none, efects]")
    assert done.returncode == 1
    assert "nearest: 'effects'" in done.stderr
    assert tasks_told(done.stdout) == []


def test_a_prior_whose_file_is_not_there_is_refused_before_anything_runs(grid):
    done = run(grid[0], str(grid[0] / "grid.yaml"), "priors=[none, table:nowhere.parquet]")
    assert done.returncode == 1
    assert "prior=nowhere.parquet: no such file" in done.stderr
    assert tasks_told(done.stdout) == []
