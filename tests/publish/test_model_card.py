"""The model card says what the run did, and the Hub can read it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from components.publish.card import against_baselines, prior_rows
from components.publish.publish import publish
from components.publish.terms import notice_of, terms_of
from components.shared.artifacts.artifact import PUBLISHED, opening
from components.shared.artifacts.licences import GENERATED, SE_600M, STATE_LICENCE_FILE, strictest
from components.shared.findings.limitations import limitations, of_prior, open_licence
from components.shared.storage.digests import sha256_of
from components.shared.telling.addresses import public
from components.shared.telling.errors import InputError
from tests.helpers import bare_names, one_line
from tests.publish.publish_run import METRICS, SPLITS_SUMMARY, STATS, finished_run

PREDICTIONS = {"perturbations": 2, "cells": 12}


def published(folder: Path, **changes: Any) -> Path:
    run = finished_run(folder / "run", **changes)
    publish(*run.folders(), "", folder / "published")
    return folder / "published"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_the_front_matter_reads_back_with_the_test_metrics(folder: Path) -> None:
    data = ModelCard.load(folder / "README.md").data
    assert data.license == "mit"
    assert data.library_name == "scgpt"
    assert "single-cell" in data.tags
    assert data.datasets == ["arcinstitute/State-Replogle-Filtered"]
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    # A metric without a value (null) is left out, since the Hub wants numbers.
    assert values == {"pearson_delta": 0.25, "mae_delta": 0.125}
    assert data.eval_results[0].dataset_type == "arcinstitute/State-Replogle-Filtered"


def test_random_weights_are_said_loudly_and_have_no_base_model(folder: Path, text: str) -> None:
    assert ModelCard.load(folder / "README.md").data.base_model is None
    assert "> **⚠ These weights started from random values (`random://tiny`)" in text


def test_a_pretrained_model_of_the_hub_is_the_base_model(tmp_path: Path) -> None:
    changes = {"random_init": False, "pretrained": "hf://models/lab/scgpt-human@v1"}
    card = ModelCard.load(published(tmp_path, stats=changes) / "README.md")
    assert card.data.base_model == "lab/scgpt-human"
    assert "⚠" not in card.text and "random values" not in card.text


def test_local_paths_and_secrets_do_not_reach_the_card(tmp_path: Path) -> None:
    folder = published(
        tmp_path,
        stats={
            "random_init": False,
            "pretrained": "/home/someone/scgpt_human",
            "prior": {"kind": "none", "effects": {"uri": "/home/someone/screen.h5ad"}},
        },
        splits={"source": "https://me:password@host/cells.h5ad?signature=secret"},
    )
    text = (folder / "README.md").read_text()
    assert "/home/someone" not in text and "scgpt_human" in text
    assert "password" not in text and "secret" not in text
    assert ModelCard.load(folder / "README.md").data.base_model is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("random://tiny", "random://tiny"),
        (
            "random://tiny?vocabulary=/home/someone/vocab.json",
            "random://tiny with the vocabulary of local file vocab.json",
        ),
        (
            "random://tiny?vocabulary=https://host/vocab.json%3Fsignature=secret",
            "random://tiny with the vocabulary of https://host/vocab.json?…",
        ),
        ("hf://models/lab/scgpt@v1", "hf://models/lab/scgpt@v1"),
        ("sim://screen?cells=20&seed=1", "sim://screen?cells=20&seed=1"),
    ],
)
def test_a_public_uri_says_what_it_may(uri: str, said: str) -> None:
    assert public(uri) == said


def test_a_prior_with_terms_of_its_own_takes_the_open_licence_away(tmp_path: Path) -> None:
    prior = {
        "kind": "table",
        "source": "hf://datasets/a/b/c.pt",
        "licence": "non-commercial: see the source",
    }
    folder = published(tmp_path, stats={"prior": prior | {"coverage": {"genes": 20}}})
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "prior-non-commercial")
    assert "| licence | non-commercial: see the source |" in card.text
    assert "| coverage genes | 20 |" in card.text


@pytest.mark.parametrize("licence", [strictest([]), GENERATED, "Apache-2.0", "cc0"])
def test_a_prior_without_terms_leaves_the_model_its_open_licence(
    tmp_path: Path, licence: str
) -> None:
    prior = {"kind": "random", "source": "", "licence": licence, "coverage": {"genes": 20}}
    card = ModelCard.load(published(tmp_path, stats={"prior": prior}) / "README.md")
    assert card.data.license == "mit"
    assert "may bind" not in card.text


@pytest.mark.parametrize(
    ("effects", "licence"), [({"uri": ""}, "mit"), ({"uri": "gs://b/screen.h5ad"}, "other")]
)
def test_known_effects_are_told_and_those_of_another_screen_bring_its_terms(
    effects: dict[str, str], licence: str
) -> None:
    prior: dict[str, Any] = {"kind": "none", "effects": effects, "licence": "unknown"}
    prior["sources"] = [{"kind": "effects", "source": effects["uri"], "licence": "unknown"}]
    assert open_licence(prior) == (licence == "mit")
    rows = prior_rows(prior)
    assert ("source 1" in rows) == bool(effects["uri"])
    assert "known_effects" in next(of_prior({"prior": prior}))


def test_the_chain_names_every_digest_and_the_source(folder: Path, text: str) -> None:
    run = folder.parent / "run"
    for name in ("splits", "model", "predictions", "evaluation", "cells"):
        assert sha256_of(run / name / "provenance.json") in text
    assert "State-Replogle-Filtered/replogle_concat.h5ad" in text
    assert "ab" * 32 in text


def test_a_source_that_no_task_passed_on_is_called_unknown(tmp_path: Path) -> None:
    text = (published(tmp_path, splits={"source": ""}) / "README.md").read_text()
    assert "Source data: unknown (the tasks did not pass it on), sha256 `unknown`" in text


def test_every_file_is_listed_with_its_digest_and_size(folder: Path, text: str) -> None:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("README.md", "provenance.json"):
            row = re.search(rf"\| `{re.escape(name)}` \|.*\| ([\d,]+) \| `(\w+)` \|", text)
            assert row is not None, name
            assert int(row[1].replace(",", "")) == path.stat().st_size
            assert row[2] == sha256_of(path)


def test_the_training_table_sets_cells_an_epoch_beside_the_training_set(text: str) -> None:
    assert "| training cells | 180 |\n| cells an epoch | 90 |" in text
    assert "| recipe | smoke |" in text
    assert "| wall clock | 1.5 min |" in text
    assert "| stop reason | all 2 epochs done |" in text


def test_metrics_stand_beside_baselines_and_ceiling(text: str) -> None:
    head = (
        "| metric | model | `same_perturbation_delta` | `control_mean` | ceiling | median | max |"
    )
    assert f"{head} NaN |" in text
    assert (
        "| `pearson_delta` | **0.2500** | 0.5000 | 0.0000 | 0.9000 | 0.2400 | 0.3000 | 0 |" in text
    )
    ours = "| `pearson_delta_centred` | **0.1250** | 0.0625 | - | 0.7500 | 0.1000 | 0.2000 | 0 |"
    assert ours in text
    assert "| `roc_auc` | **-** | 0.6000 | 0.4000 | - | - | - | 2 |" in text
    assert "| `pearson_delta` | 0.3000 | - |" in text


def test_the_card_says_which_metrics_are_of_means_and_which_of_cells(
    text: str, tmp_path: Path
) -> None:
    assert (
        "Of the predicted means (`varm['predicted_mean']`) alone: `pearson_delta`, `mae_delta`.\n"
        in text
    )
    assert "Of the predicted cells (`X`): `roc_auc`. The cells are measured rpe1 controls," in text
    metrics = {"predicted_cells": "denoised"}
    told = (published(tmp_path, metrics=metrics) / "README.md").read_text()
    assert "(`X`): `roc_auc`. The cells are the model's output, cell by cell" in told
    assert "mapped gene by gene" not in told


def test_every_name_with_an_underscore_stands_in_backticks(text: str) -> None:
    assert not bare_names(text.split("---\n", 2)[2])


def test_every_table_row_has_as_many_cells_as_its_head(text: str) -> None:
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
            continue
        assert len({row.count("|") for row in table}) <= 1, table
        assert len(table) in (0, *range(3, 99)), table
        table = []


def test_each_baseline_is_told_as_it_was_tested_and_counted_over_all_metrics() -> None:
    beaten, lost = against_baselines(METRICS)
    assert "the model **beats** `control_mean`: 0.2500 against 0.0000" in beaten
    assert "95 % interval +0.1000 to +0.4000, ahead in 2 of 2 perturbations" in beaten
    assert "better in 1, worse in 0, unclear in 0 of 1 metrics" in beaten
    assert "**falls short of** `same_perturbation_delta`: 0.2500 against 0.5000" in lost


def test_a_baseline_without_a_value_cannot_be_compared() -> None:
    (text,) = against_baselines(METRICS | {"baselines": {"empty": {"pearson_delta": None}}})
    assert "cannot be compared with `empty`" in text


def test_results_stand_before_digests(text: str) -> None:
    places = [
        text.index(part)
        for part in (
            "**Over 2 perturbations the model is worse than copying",
            "## Test metrics",
            "## Limitations found in this run",
            "## Terms and citations",
            "## Provenance",
            "sha256",
        )
    ]
    assert places == sorted(places)
    assert ModelCard(text).data.pipeline_tag == "other"


def test_terms_and_citations_are_those_of_what_it_was_made_with(text: str, tmp_path: Path) -> None:
    row = "hf://datasets/arcinstitute/State-Replogle-Filtered/replogle_concat.h5ad"
    assert f"| data | `{row}` | its publisher declares none |" in text
    assert "| base weights | random://tiny | none needed: generated |" in text
    for author in ("Cui, H.", "Replogle, J. M.", "Nadig, A.", "ArcInstitute/cell-eval"):
        assert author in text
    told = card_of(tmp_path, splits={"source": "sim://screen?cells=20"})
    assert "| data | sim://screen?cells=20 | none needed: generated |" in told
    assert "Replogle, J. M." not in told and "Cui, H." in told


def test_cells_that_forbid_commercial_use_bind_the_model(tmp_path: Path) -> None:
    source = "hf://datasets/Xaira-Therapeutics/X-Atlas-Orion/data/HCT116.h5ad"
    text = card_of(tmp_path, splits={"source": source})
    assert ModelCard(text).data.license_name == "cc-by-nc-sa-4.0"
    assert "> **⚠ Not for commercial use: made with" in text


@pytest.mark.parametrize("licence_there", [True, False])
def test_a_prior_of_the_state_model_brings_its_notice_citation_and_licence(
    tmp_path: Path, licence_there: bool
) -> None:
    source = {"kind": "table", "source": "protein_embeddings.pt", "licence": SE_600M}
    prior = {"kind": "table", "licence": SE_600M, "sources": [source]}
    terms = terms_of("", STATS | {"prior": prior})
    said = " ".join(notice_of(terms, [STATE_LICENCE_FILE] if licence_there else []))
    assert "governed by the Arc Research Institute State Model Non-Commercial License" in said
    assert "commercial entity engages in or sponsors is not a non-commercial purpose" in said
    assert "Adduri, A. et al. (2025) Predicting cellular responses" in said
    assert ("put a complete, unaltered copy" in said) != licence_there
    text = card_of(tmp_path, stats={"prior": prior})
    assert text.index("> **⚠ This model is governed by") < text.index("## ")


def limits(**changes: dict[str, Any]) -> str:
    return "\n".join(
        limitations(
            STATS | changes.get("stats", {}),
            PREDICTIONS | changes.get("predictions", {}),
            METRICS | changes.get("metrics", {}),
            SPLITS_SUMMARY | changes.get("splits", {}),
        )
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"predictions": {"unmeasured_targets": 2}},
            "2 predicted perturbations of 2 have a target",
        ),
        ({"predictions": {"unflagged_perturbations": 1}}, "could not identify the perturbed gene"),
        ({"predictions": {"clipped_fraction": 0.25}}, "25.00% of the predicted values"),
        ({"predictions": {"doubles": 1}}, "name two or more genes"),
        ({"metrics": {"nan_counts": {"pr_auc": 7}}}, "pr_auc 7"),
        ({"metrics": {"not_computed": {"clustering_agreement": "x"}}}, "could not compute"),
        ({"metrics": {"perturbations_unseen": 0}}, "were seen in training; none was unseen"),
        (
            {"splits": {"few_shot": True, "test_line_training_cells": 12}},
            "12 perturbed cells of it",
        ),
        (
            {"splits": {"controls_halved": True}},
            "The test line's controls are halved: predicted and measured changes share",
        ),
        ({"splits": {"scale_caveat": "genes were left out before"}}, "genes were left out before"),
        ({"stats": {"random_init": True}}, "random values"),
        ({"stats": {"limitations": ["an own one"]}}, "an own one"),
        ({"stats": {"best_val_pearson_delta": None}}, "not selected by it"),
        ({"stats": {"prior": {"kind": "table"}}}, "no gain can be attributed"),
        ({"stats": {"genes": 30, "genes_modelled": 28}}, "2 of 30 genes are not in"),
    ],
)
def test_a_limitation_is_named_when_the_run_has_it(
    changes: dict[str, dict[str, Any]], said: str
) -> None:
    plain = {
        "stats": {"random_init": False},
        "metrics": {"nan_counts": {}},
    }
    assert said not in limits(**plain)
    assert said in limits(**(plain | changes))


def test_seed_and_few_cells_are_always_told() -> None:
    said = limits()
    assert "One seed (7)" in said
    assert "Few training cells: 180" in said
    assert "12.0 a perturbation" in said
    assert "Few reference controls: 10" in said


def test_a_line_of_which_training_saw_cells_is_not_called_unseen(text: str, tmp_path: Path) -> None:
    assert "of which training saw no perturbed cell" in text
    splits = {"few_shot": True, "test_line_training_cells": 12, "test_line_validation_cells": 3}
    told = (published(tmp_path, splits=splits) / "README.md").read_text()
    assert "saw no perturbed cell" not in told
    assert "(12 perturbed cells of it in training, 3 in validation)" in told


def test_a_label_can_neither_break_a_table_nor_bring_html(tmp_path: Path) -> None:
    folder = published(tmp_path, stats={"stop_reason": "a | b\n<script>alert(1)</script>"})
    text = (folder / "README.md").read_text()
    assert "| stop reason | a \\| b &lt;script>alert(1)&lt;/script> |" in text


def test_stats_without_what_the_card_needs_are_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", stats={"prior": {}})
    with pytest.raises(InputError) as error:
        publish(*run.folders(), "", tmp_path / "published")
    assert "kind" in one_line(error)
    assert not (tmp_path / "published").exists()


def test_the_code_of_the_card_runs_as_written(folder: Path, text: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    blocks = [block for block in blocks if "predict_line" not in block]
    assert len(blocks) == 2
    code = blocks[0] + blocks[1].replace('write_h5ad("', f'write_h5ad("{tmp_path}/')
    code += "\nprint(type(model).__module__, predicted.shape == measured.shape, len(set(labels)))"
    code += "\nprint(means.shape == (adata.n_vars, len(adata.uns['perturbations'])))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scgpt.model.generation_model", "True", "3", "True"]
    assert {path.name for path in tmp_path.iterdir()} == {"pred.h5ad", "real.h5ad"}


NOT_SCORED = {
    "scored": False,
    "not_scored": "no perturbed cell of rpe1 was measured",
    "perturbations": 0,
    **{key: {} for key in ("model", "seen", "unseen", "baselines", "ceiling", "nan_counts")},
}
UNMEASURED = {"perturbations": 3, "not_measured": 3, "not_predicted": ["NOSUCH", "OLD|NAME"]}


def card_of(tmp_path: Path, **changes) -> str:
    run = finished_run(tmp_path / "run", **changes)
    publish(*run.folders(), "", tmp_path / "published")
    return (tmp_path / "published" / "README.md").read_text()


def with_means(folder: Path, table: bytes) -> Path:
    """Publish a run whose table of means is another, with a digest of its own."""
    run = finished_run(folder / "run")
    file, provenance = run.evaluation / "summary.csv", run.evaluation / "provenance.json"
    file.write_bytes(table)
    told = json.loads(provenance.read_text())
    told["files"][file.name] |= {"bytes": len(table), "sha256": sha256_of(file)}
    provenance.write_text(json.dumps(told))
    publish(*run.folders(), "", folder / "published")
    return folder / "published" / "README.md"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"metric,mean\npearson_delta,0.1\n", "summary.csv: has no column 'prediction'; evaluate"),
        (b"prediction,metric,mean\nmodel,pearson_delta,1\n", "summary.csv: has no column 'median'"),
        (b"\xff\xfe", "summary.csv: is not a CSV file"),
    ],
)
def test_a_table_of_means_that_is_none_is_one_line(tmp_path: Path, table: bytes, said: str):
    with pytest.raises(InputError) as error:
        with_means(tmp_path, table)
    assert said in one_line(error) and not (tmp_path / "published").exists()


def test_a_row_of_means_that_was_cut_short_has_dashes_where_values_were(tmp_path: Path):
    table = b"prediction,metric,mean,median,max,undefined\nmodel,pearson_delta,0.25,x\n"
    card = with_means(tmp_path, table).read_text()
    assert "| `pearson_delta` | **0.2500** | 0.5000 | 0.0000 | 0.9000 | - | - | 0 |" in card


def test_a_line_that_was_not_measured_has_expectations_in_the_place_of_scores(tmp_path: Path):
    text = card_of(tmp_path, metrics=NOT_SCORED, predictions=UNMEASURED)
    assert "Not scored: no perturbed cell of rpe1 was measured." in text
    assert "## Test metrics" not in text and 'layers["truth"]' not in text
    assert "| k562 | 5 | 0.4000 | - |" in text
    assert "3 perturbations predicted, 3 of them without a measured cell" in text
    assert "2 left out" in text and "NOSUCH, OLD\\|NAME" in text
    assert ModelCard.load(tmp_path / "published" / "README.md").data.eval_results is None
    there = {path.name for path in (tmp_path / "published").rglob("*.*")}
    assert "results.csv" not in there and {"metrics.json", "report.html"} <= there
    assert opening(tmp_path / "published", PUBLISHED).summary["scored"] is False


def test_an_applied_model_is_described_by_its_own_card(tmp_path: Path):
    text = card_of(tmp_path, published_at="gs://models/mine")
    assert "published at gs://models/mine" in text and "nothing was trained" in text
    assert "## Training\n" not in text and "| best epoch |" not in text
    assert "| training lines | k562, jurkat |" in text


def test_a_model_that_was_made_elsewhere_must_still_be_the_one_that_predicted(tmp_path: Path):
    run = finished_run(tmp_path / "run", published_at="gs://models/mine")
    other = finished_run(tmp_path / "other", published_at="gs://models/other")
    with pytest.raises(InputError, match="made from other model"):
        publish(other.model, *run.folders()[1:], "", tmp_path / "published")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("effects", "effects"),
        (
            "concat(effects, table:/home/me/x.parquet)",
            "concat(effects, table:local file x.parquet)",
        ),
    ],
)
def test_the_prior_is_the_one_that_was_asked_for(tmp_path: Path, asked: str, told: str):
    text = card_of(tmp_path, stats={"prior_asked_for": asked})
    assert f"| requested | {told} |" in text and "/home/me" not in text
    assert opening(tmp_path / "published", PUBLISHED).summary["prior"] == told


def test_the_card_says_how_other_cells_are_predicted_and_what_scgpts_class_lacks(tmp_path: Path):
    text = card_of(tmp_path)
    assert "make predict MODEL=" in text and "predict_line(" in text
    assert "it does not read" not in text
    assert "multiplied by 1" in text


def test_the_factor_is_said_where_the_recipe_scales(tmp_path: Path):
    settings = {"batch_size": 8, "scale_effects": True}
    text = card_of(tmp_path, stats={"settings": settings})
    assert "multiplied by 0.75: it fits left-out lines best." in text


def test_cells_that_were_left_out_at_ingest_are_told(tmp_path: Path, text: str):
    said = "5 cells of others, were left out"
    assert "Knock-down of the target" not in text
    assert f"- Knock-down of the target: {said}" in card_of(
        tmp_path, splits={"knock_down_filter": said}
    )
