"""The whole pipeline through KFP's local runner, as `make run` does it."""

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from components.ingest.generator import write_raw
from components.shared.artifacts.artifact import PUBLISHED, opening
from components.shared.artifacts.splits import Splits
from components.shared.findings.verdict import verdict
from components.shared.telling.markdown import names_as_code
from pipelines.history import LATEST, PARAMETERS
from pipelines.run import read_params
from tests.helpers import bare_names
from tests.pipelines.runs import PUBLISHED_FILES, log_of, path_after, run, tasks_told

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "dataset=sim://screen?cells=800&genes=60&perturbations=8&lines=4&seed=3",
    "recipe=smoke",
    "overrides={epochs: 2}",
    "prior=none",
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    done = run(runs, "demo", *SMALL, f"publish_to={runs / 'mine'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return runs, done


def test_a_run_publishes_every_file_of_the_reference_and_its_own(first):
    runs, done = first
    published = path_after("published", done.stdout)
    artifact = opening(published, PUBLISHED)
    assert PUBLISHED_FILES - {"provenance.json"} <= set(artifact.provenance["files"])
    assert {
        str(path.relative_to(runs / "mine")) for path in (runs / "mine").rglob("*")
    } >= PUBLISHED_FILES
    assert path_after("report", done.stdout).is_file()


def test_the_pages_that_kfp_shows_are_the_published_ones(first):
    published = path_after("published", first[1].stdout)
    for page in ("report", "explorer"):
        shown = published.parents[1] / "evaluate" / page
        assert shown.read_bytes() == (published / "eval" / f"{page}.html").read_bytes()


def test_a_run_ends_with_the_headline_beside_the_baselines(first):
    _, _, end = first[1].stdout.partition("\npublish ")
    lines = end.splitlines()[2:]
    wide = [line for line in lines if len(line) > 80 and not line.split()[-1].startswith("/")]
    assert [line for line in wide if "make " not in line] == []
    assert " ".join(lines[:2]).startswith("These data cannot tell: 7 perturbations are too few")
    assert next(x for x in lines if x.startswith("metric")).split() == [
        "metric",
        "model",
        *("best", "baseline"),
        "ceiling",
    ]
    row = next(line for line in lines if line.startswith("pearson_delta ")).split()
    assert len([float(row[i]) for i in (1, 2, 4)]) == 3
    assert row[3] in {"control_cells", "control_mean", "mean_delta", "same_perturbation_delta"}
    assert any(line.startswith("mae_delta (lower is better)") for line in lines)
    assert "make predict MODEL=" in lines[-1]


def test_a_run_begins_with_what_it_is_about(first):
    names = [line.split()[0] for line in first[1].stdout.splitlines()[:6]]
    assert names == ["dataset", "lines", "pretrained", "prior", "recipe", "seed"]


def test_each_task_is_a_line_that_says_what_it_made(first):
    told = tasks_told(first[1].stdout)
    assert sorted(task for task, _ in told) == sorted(
        ("check", "ingest", "split", "prior", "finetune", "predict", "evaluate", "publish")
    )
    made = dict(told)
    assert re.fullmatch(r"[\d,]+ cells x 60 genes, \d+ perturbations in 4 lines", made["ingest"])
    assert made["finetune"].startswith("best epoch ")
    assert re.fullmatch(rf"\d+ files and the card, published at {first[0]}/mine", made["publish"])
    assert [task for task, made in told if made == "done"] == ["check"]
    assert "finetune: epoch 1: " not in first[1].stdout  # which came within ten seconds
    assert "finetune: epoch 1: " in log_of(first[1].stdout)


def test_what_only_kfp_reads_is_in_the_log_and_not_on_the_screen(first):
    screen = first[1].stdout
    log = log_of(screen)
    for words in ("kfp run create", "metadata={", "Streamed logs", "publish: result: "):
        assert words in log, words
        assert words not in screen, words
    assert "executor_input" not in log + screen


def test_a_runs_folder_is_named_by_what_it_is_and_holds_its_parameters(first):
    root = path_after("published", first[1].stdout).parents[2]
    assert re.fullmatch(r"\d{8}-\d{6}-demo-none", root.name)
    kept = read_params(root / PARAMETERS, [])
    assert kept["recipe"] == "smoke" and kept["dataset"] == SMALL[0].partition("=")[2]
    assert (root.parent / LATEST).is_symlink()


def test_everything_published_is_finite(first):
    published = path_after("published", first[1].stdout)
    adata = anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")
    assert np.isfinite(adata.X.data).all()
    for tensor in torch.load(published / "best_model.pt", weights_only=True).values():
        assert torch.isfinite(tensor).all()
    results = pd.read_csv(published / "eval" / "results.csv")
    assert np.isfinite(results["mae_delta"]).all()
    assert len(results) == len(set(adata.obs["perturbation"])) - 1 > 5


def test_digests_lead_from_what_is_published_back_to_the_source(first):
    published = path_after("published", first[1].stdout)
    root = published.parents[1]
    wanted = json.loads((published / "provenance.json").read_text())["inputs"]
    for name, task in (("model", "finetune"), ("predictions", "predict"), ("splits", "split")):
        found = json.loads((root / task / name / "provenance.json").read_text())
        assert opening(root / task / name, found["format"]).digest == wanted[name]["sha256"]
    assert "sim://screen" in (published / "README.md").read_text()


def test_a_rerun_with_another_prior_takes_ingest_and_split_from_the_cache(first, tmp_path):
    runs, done = first
    published = path_after("published", done.stdout)
    genes = [
        str(gene)
        for gene in anndata.read_h5ad(
            published / "predictions" / "scgpt_replogle_test.h5ad"
        ).var_names
    ]
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(len(genes), 8)))
    table.columns = [f"d{i}" for i in table.columns]
    table.insert(0, "gene", genes)
    table.to_parquet(tmp_path / "prior.parquet")
    again = run(runs, "demo", *SMALL, f"prior={tmp_path / 'prior.parquet'}")
    assert again.returncode == 0, again.stdout + again.stderr
    told = dict(tasks_told(again.stdout))
    for task, cached in (("ingest", True), ("split", True), ("prior", False), ("finetune", False)):
        assert (told[task] == "from the cache") == cached, task
    prior = json.loads((path_after("published", again.stdout) / "gene_prior.json").read_text())
    assert prior["kind"] == "table"
    assert prior["width"] == 8


def test_a_target_folder_that_exists_stops_the_run_in_one_line(first):
    runs, _ = first
    done = run(runs, "demo", *SMALL, f"publish_to={runs / 'mine'}")
    assert done.returncode == 1
    assert "exists" in done.stderr
    assert tasks_told(done.stdout) == []  # said before the work, not after it
    assert "Traceback" not in done.stdout + done.stderr


def test_a_report_ends_with_the_commands_that_repeat_its_run(first):
    root = path_after("published", first[1].stdout).parents[1]
    summary = (root / "evaluate" / "evaluation" / "summary.md").read_text()
    *_, make, kfp, _ = summary.splitlines()
    assert make.startswith('make run ARGS="')
    assert kfp.startswith(
        "kfp run create -e scgpt-perturb -f pipelines/compiled/scgpt-perturb.yaml"
    )
    for word in (SMALL[0], "recipe=smoke", "seed=0", "prior=none", "test_line=rpe1"):
        assert word in make and word in kfp
    assert "'overrides={epochs: 2}'" in make and "'overrides={\"epochs\": 2}'" in kfp


def test_the_last_page_says_what_came_of_the_run(first):
    root = path_after("published", first[1].stdout).parents[1]
    page = (root / "conclude" / "outcome").read_text()
    assert page.startswith("# Run succeeded\n")
    assert "Published: the model with prior none, seed 0, tested on rpe1." in page
    numbers = json.loads((root / "publish/published/eval/metrics.json").read_text())
    assert names_as_code(verdict(numbers)) in page and "`discrimination_score_l1` " in page


def test_every_page_in_markdown_shows_the_underscores_of_names(first):
    root = path_after("published", first[1].stdout).parents[1]
    pages = [root / "evaluate/summary", root / "publish/card", root / "conclude/outcome"]
    for page in pages:
        assert not bare_names(re.sub(r"\A---.*?^---", "", page.read_text(), flags=re.M | re.S))


@pytest.mark.parametrize("prior", ["best", "efects", "anotation:x.parquet"])
def test_a_misspelt_prior_stops_the_run_in_one_line(first, prior):
    done = run(first[0], "demo", *SMALL, f"prior={prior}")
    assert done.returncode == 1
    assert "allowed: none, table:<uri>" in done.stderr
    assert tasks_told(done.stdout) == []
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("dataset=nowhere.h5ad", "dataset=nowhere.h5ad: no such file"),
        ("dataset=[sim://screen, nowhere.h5ad]", "dataset=nowhere.h5ad: no such file"),
        ("test_line=k562", "test_line 'k562' is one of train_lines"),
        ("prior=table:nowhere.parquet", "prior=nowhere.parquet: no such file"),
        ("split_options={val_fraction: 2.0}", "val_fraction=2.0: expected"),
        ("train_lines=[k562, jurkatt]", "nearest: 'jurkat'"),
        ("control_label=control", "nearest: 'non-targeting'"),
    ],
)
def test_what_parameters_and_labels_alone_can_tell_stops_the_run_before_the_first_task(
    first, assignment, says
):
    done = run(first[0], "demo", *SMALL, assignment)
    assert done.returncode == 1
    assert tasks_told(done.stdout) == []
    [line] = done.stderr.splitlines()
    assert says in line


def test_bad_input_fails_its_task_in_one_line_and_leaves_no_output(first):
    done = run(first[0], "demo", *SMALL, "ingest_options={scale: fractions}")
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1
    assert "ingest: error: " in errors[0]
    assert "Traceback" not in done.stdout + done.stderr


def one_file_a_line(folder: Path) -> list[dict[str, str]]:
    """Write raw counts as Replogle's files have them: Ensembl ids, symbols beside, no line."""
    write_raw(
        "sim://screen?cells=500&genes=60&perturbations=8&lines=2&seed=3", folder / "both.h5ad"
    )
    both = anndata.read_h5ad(folder / "both.h5ad")
    both.var["gene_name"] = both.var_names
    both.var.index = pd.Index([f"ENSG{i:011d}" for i in range(both.n_vars)], name="gene_id")
    both.obs["gem_group"] = np.arange(both.n_obs) % 3 + 1
    listed = []
    for number, line in enumerate(("k562", "jurkat")):
        adata = both[both.obs["cell_line"] == line, number * 3 :].copy()
        del adata.obs["cell_line"]
        adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
        adata.write_h5ad(folder / f"{line}_raw_singlecell_01.h5ad")
        file = str(folder / f"{line}_raw_singlecell_01.h5ad")
        listed.append({"file": file, "cell_line_column": f"={line}"})
    return listed


def test_one_file_a_line_goes_all_the_way(tmp_path):
    params = {
        "dataset": one_file_a_line(tmp_path),
        "ingest_options": {"gene_column": "gene_name", "batch_column": "gem_group"},
        "train_lines": ["k562"],
        "test_line": "jurkat",
        "pretrained": "random://tiny",
        "recipe": "smoke",
        "split_options": {"val_fraction": 0.25},
        "overrides": {"epochs": 1},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    done = run(tmp_path / "runs", str(tmp_path / "params.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    published = path_after("published", done.stdout)
    cells = anndata.read_h5ad(published.parents[1] / "ingest" / "cells" / "cells.h5ad")
    assert cells.n_vars == 57
    assert not cells.var_names.str.startswith("ENSG").any()
    assert set(cells.obs["cell_line"]) == {"k562", "jurkat"}
    assert cells.obs["batch"].nunique() == 6
    predicted = anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")
    assert list(predicted.var_names) == list(cells.var_names)
    card = (published / "README.md").read_text()
    assert all(f"{line}_raw_singlecell_01.h5ad" in card for line in ("k562", "jurkat"))
    report = (published / "eval" / "report.html").read_text()
    assert "gene_column: gene_name" in report


def test_four_real_lines_go_all_the_way(shared_data, tmp_path):
    vocabulary = shared_data / "scgpt_human" / "vocab.json"
    done = run(
        tmp_path / "runs",
        "four-lines",
        f"dataset={shared_data / 'norman2019_mcfaline2023_devel.h5ad'}",
        f"pretrained=random://tiny?vocabulary={vocabulary}",
        "overrides.epochs=1",
        "overrides.max_genes=64",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    published = path_after("published", done.stdout)
    summary = json.loads((published.parents[1] / "split" / "splits" / "summary.json").read_text())
    # Counts of the file: 3,375 + 850 + 871 cells less 100 controls a line; 865 less 100.
    assert summary["training_cells"] + summary["validation_cells"] == 3275 + 750 + 771
    assert summary["test_cells"] == 765
    assert summary["test_perturbations"] == 9
    assert summary["test_controls_basal"] == summary["test_controls_reference"] == 100
    assert summary["training_doubles"] + summary["validation_doubles"] >= 15
    stats = json.loads((published / "training_stats.json").read_text())
    assert stats["genes_modelled"] == 491
    assert stats["unmeasured_targets"] in (30, 31)  # one may validate in its only line
    assert stats["unflagged_perturbations"] == 0
    assert "not among the measured genes" in (published / "README.md").read_text()
    vocab = json.loads((published / "vocab.json").read_text())
    assert vocab == json.loads(vocabulary.read_text())
    adata = anndata.read_h5ad(published / "predictions" / "scgpt_replogle_test.h5ad")
    assert adata.shape == (765 + summary["test_controls_reference"], 500)
    assert np.isfinite(adata.X.data).all()
    assert opening(published, PUBLISHED)


def test_splits_name_the_roles_of_every_cell(first):
    root = path_after("published", first[1].stdout).parents[1]
    from components.shared.artifacts.cells import Cells

    cells = Cells.open(root / "ingest" / "cells")
    assert len(Splits.open(root / "split" / "splits", cells).table) == 800
