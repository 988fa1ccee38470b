"""The comparison of priors on evaluations whose answer is known."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.compare.compare import compare, cost
from components.compare.plots import forest
from components.compare.runs import Grid, Run, read_labelled
from components.compare.statistics import (
    BETTER,
    NO_EVIDENCE,
    WORSE,
    is_control,
    paired_difference,
    references_of,
    summarised,
    twin_of,
    verdict_of,
)
from components.shared.artifacts.artifact import (
    COMPARISON,
    FAILED,
    opening,
    writing,
)
from components.shared.findings.paired import holm
from components.shared.telling.errors import InputError
from tests.compare.evaluations import evaluation, stats
from tests.helpers import bare_names

PRIOR = "annotation:go.parquet"
TWIN = f"shuffled:{PRIOR}"


def test_labels_that_look_like_something_else_are_labels(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("prediction,perturbation,metric,value\nmodel,007,m,1\nmodel,NA,m,\n")
    table = read_labelled(file)
    assert table["perturbation"].tolist() == ["007", "NA"]
    assert table["value"].isna().tolist() == [False, True]


def failed(folder: Path, reason: str) -> Path:
    with writing(folder, FAILED, parameters={}) as draft:
        draft.summary |= {"stage": "prior", "reason": reason}
    return folder


def compared(tmp_path: Path, runs: dict[tuple[str, int], object], **more: str) -> Path:
    """Compare runs: a shift (or the arguments of `evaluation`) or a reason it failed, by cell."""
    folders, files, cells = [], [], []
    for number, ((prior, seed), what) in enumerate(runs.items()):
        folder, file = tmp_path / f"evaluation-{number}", tmp_path / f"stats-{number}.json"
        if isinstance(what, str):
            folders.append(failed(folder, what))
            file.write_text("{}")
        else:
            told = dict(what) if isinstance(what, dict) else {"shift": what}
            stats(file, seed, 0.3 + number / 100, told.pop("best_epoch", 2))
            folders.append(evaluation(folder, seed=10 * number + seed, **told))
        files.append(file)
        cells.append({"prior": prior, "seed": float(seed)})  # as KFP's local runner gives it
    compare(folders, files, cells, tmp_path / "comparison", **more)
    return tmp_path / "comparison"


def verdict(folder: Path, prior: str, against: str, part: str = "all") -> pd.Series:
    table = pd.read_csv(folder / "comparison.csv").set_index(["prior", "against", "part", "metric"])
    return table.loc[(prior, against, part, "pearson_delta")]


def test_equal_runs_are_no_evidence(tmp_path):
    folder = compared(tmp_path, {(p, s): 0.0 for p in ("none", PRIOR, TWIN) for s in (0, 1)})
    for other in ("none", TWIN):
        assert verdict(folder, PRIOR, other)["verdict"] == NO_EVIDENCE
    summary = (folder / "summary.md").read_text()
    assert not bare_names(summary)
    assert "There is no evidence that any of these priors helps" in summary
    assert json.loads((folder / "metrics.json").read_text())["missing"] == 0


def test_a_prior_that_helps_is_said_to_and_its_twin_is_not(tmp_path):
    runs = {(p, s): shift for p, shift in (("none", 0), (PRIOR, 0.1), (TWIN, 0)) for s in (0, 1)}
    folder = compared(tmp_path, runs)
    for other in ("none", TWIN):
        row = verdict(folder, PRIOR, other)
        assert row["verdict"] == BETTER
        assert row["difference"] == pytest.approx(0.1, abs=0.01)
        assert row["low"] < 0.1 < row["high"]
        assert (row["seeds_ahead"], row["seeds"]) == (2, 2)
    assert verdict(folder, TWIN, "none")["verdict"] == NO_EVIDENCE
    summary = (folder / "summary.md").read_text()
    assert f"Better than no prior, by `pearson_delta`: {PRIOR}." in summary


def test_a_prior_that_harms_is_said_to(tmp_path):
    runs = {(p, s): shift for p, shift in (("none", 0), (PRIOR, -0.1)) for s in (0, 1)}
    folder = compared(tmp_path, runs)
    assert verdict(folder, PRIOR, "none")["verdict"] == WORSE
    assert "Worse than none" in (folder / "summary.md").read_text()
    assert f"add {TWIN}" in (folder / "summary.md").read_text()


def test_lower_is_better_where_it_is(tmp_path):
    runs = {(p, s): shift for p, shift in (("none", 0), (PRIOR, 0.1)) for s in (0, 1)}
    table = pd.read_csv(compared(tmp_path, runs) / "comparison.csv")
    row = table[(table["prior"] == PRIOR) & (table["against"] == "none")]
    row = row[(row["part"] == "all") & (row["metric"] == "mae_delta")].iloc[0]
    assert row["difference"] < 0
    assert row["verdict"] == BETTER


def test_seen_and_unseen_perturbations_are_told_apart(tmp_path):
    helps = {"shift": 0.0, "unseen_shift": 0.2}
    runs = {(p, s): what for p, what in (("none", 0.0), (PRIOR, helps)) for s in (0, 1)}
    folder = compared(tmp_path, runs)
    assert verdict(folder, PRIOR, "none", "unseen")["difference"] == pytest.approx(0.2, abs=0.02)
    assert verdict(folder, PRIOR, "none", "unseen")["perturbations"] == 10
    assert abs(verdict(folder, PRIOR, "none", "seen")["difference"]) < 0.01
    assert verdict(folder, PRIOR, "none", "seen")["verdict"] == NO_EVIDENCE


@pytest.mark.parametrize(
    ("known", "best_epoch", "said", "headline"),
    [
        (
            0.0,
            2,
            "What the network added to the known effects: made them better, +0.1",
            "With effects the network added to the known effects",
        ),
        (
            0.2,
            2,
            "What the network added to the known effects: made them worse, ",
            "the gain comes from known effects alone; the network made them worse.",
        ),
        (
            0.1,
            2,
            "What the network added to the known effects: no evidence of a difference",
            "the gain is that of known effects; no evidence that the network added to it.",
        ),
        (
            0.1,
            0,
            "The network added nothing to the known effects",
            "the gain comes from known effects alone; the network added nothing.",
        ),
    ],
)
def test_what_the_network_added_to_known_effects_is_said(
    tmp_path, known, best_epoch, said, headline
):
    knows = {"shift": 0.1, "known": known, "best_epoch": best_epoch}
    runs = {(p, s): what for p, what in (("none", 0.0), ("effects", knows)) for s in (0, 1)}
    folder = compared(tmp_path, runs)
    text = (folder / "summary.md").read_text()
    assert said in text and text.count("known effects") == 2
    assert headline in text.splitlines()[2]
    assert "Better than the perturbation's own training delta carried over" in text
    table = pd.read_csv(folder / "comparison.csv")
    assert set(table["against"][table["prior"] == "none"]) == {"same_perturbation_delta"}


def test_one_seed_is_no_evidence_however_large_the_difference(tmp_path):
    row = verdict(compared(tmp_path, {("none", 3): 0.0, (PRIOR, 3): 0.3}), PRIOR, "none")
    assert row["verdict"] == NO_EVIDENCE
    assert "one seed" in row["why"]
    assert row["p_holm"] < 0.001


def test_seeds_that_do_not_agree_are_no_evidence(tmp_path):
    runs = {("none", 0): 0.0, ("none", 1): 0.0, (PRIOR, 0): 0.3, (PRIOR, 1): -0.05}
    row = verdict(compared(tmp_path, runs), PRIOR, "none")
    assert row["p_holm"] < 0.001
    assert (row["verdict"], row["why"]) == (NO_EVIDENCE, "the seeds do not agree")


def test_a_difference_that_seeds_alone_make_is_no_evidence(tmp_path):
    runs = {("none", 0): 0.0, ("none", 1): 0.0, (PRIOR, 0): 0.25, (PRIOR, 1): 0.03}
    row = verdict(compared(tmp_path, runs), PRIOR, "none")
    assert row["p_holm"] < 0.001 and row["low"] > 0 and row["seeds_ahead"] == 2
    assert (row["verdict"], row["why"]) == (NO_EVIDENCE, "seeds alone make as large a difference")


@pytest.mark.parametrize(
    ("shifts", "evidence"),
    [
        ([0.14, 0.06], False),  # 2.5 standard errors, where two seeds ask for 12.7
        ([0.102, 0.098], True),
        ([0.12, 0.08, 0.1], True),  # 8.7, where three ask for 4.3
        ([0.14, 0.06, 0.1], True),
        ([0.15, 0.05, 0.1], False),  # 3.5
        ([0.05, 0.15, 0.05, 0.15, 0.1], True),  # 4.5, where five ask for 2.8
    ],
)
def test_how_far_seeds_differ_is_judged_by_how_many_there_are(tmp_path, shifts, evidence):
    runs = {("none", seed): 0.0 for seed in range(len(shifts))}
    runs |= {(PRIOR, seed): shift for seed, shift in enumerate(shifts)}
    row = verdict(compared(tmp_path, runs), PRIOR, "none")
    assert row["seeds_ahead"] == len(shifts) and row["p_holm"] < 0.001
    assert row["verdict"] == (BETTER if evidence else NO_EVIDENCE)
    assert evidence or row["why"] == "seeds alone make as large a difference"


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_the_spread_over_seeds_is_that_of_a_sample(means):
    values = pd.DataFrame([means, means])
    wanted = pytest.approx(np.std(means, ddof=1), abs=1e-9)
    assert summarised(values)["seed_sd"] == wanted
    assert paired_difference("pearson_delta", values)["seed_sd"] == wanted


def test_p_values_are_corrected_over_the_comparisons_of_their_own_metric(tmp_path):
    runs = {(p, s): shift for p, shift in (("none", 0), (PRIOR, 0.004)) for s in (0, 1)}
    table = pd.read_csv(compared(tmp_path, runs) / "comparison.csv")
    assert table["metric"].nunique() == 2
    for _, rows in table.groupby("metric"):
        assert len(rows) > 2
        np.testing.assert_allclose(rows["p_holm"], holm(rows["p"].to_numpy()))


def test_the_best_run_is_that_of_the_best_validation_whatever_its_test_score(tmp_path):
    runs = {("none", 0): 0.3, (PRIOR, 0): 0.0}
    folder = compared(tmp_path, runs)  # each has a better validation than the one before
    numbers = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "runs.csv").set_index("prior")
    assert table["pearson_delta"].idxmax() == "none"
    assert numbers["best"]["prior"] == table["validation"].idxmax() == PRIOR
    assert (numbers["best"]["cell"], numbers["best"]["seed"]) == (1, 0)


def test_a_single_run_is_told_beside_the_ceiling(tmp_path):
    folder = compared(tmp_path, {("none", 3): 0.0})
    assert "ceiling of the data | 0.876 |" in (folder / "summary.md").read_text()
    assert json.loads((folder / "metrics.json").read_text())["best"]["seed"] == 3


def test_priors_without_a_seed_in_common_are_not_held_against_each_other(tmp_path):
    folder = compared(tmp_path, {("none", 0): 0.0, (PRIOR, 1): 0.1})
    table = pd.read_csv(folder / "comparison.csv")
    assert not ((table["prior"] == PRIOR) & (table["against"] == "none")).any()
    said = "It cannot be held against none: no seed is there of both."
    assert said in (folder / "summary.md").read_text()


def test_a_perturbation_that_does_not_differ_is_not_ahead():
    values = pd.DataFrame({0: [0.0, 0.1, -0.1, 0.2], 1: [0.0, 0.3, -0.1, 0.2]})
    for metric, ahead in (("pearson_delta", 2), ("mae_delta", 1)):
        assert paired_difference(metric, values)["ahead"] == ahead


def test_a_run_that_failed_is_told_as_missing_and_the_others_are_compared(tmp_path):
    reason = "no <b>such</b> | file"
    runs = {
        ("none", 0): 0.0,
        ("none", 1): 0.0,
        (PRIOR, 0): reason,
        (PRIOR, 1): 0.1,
        ("scgpt", 0): "x",
    }
    folder = compared(tmp_path, runs)
    assert verdict(folder, PRIOR, "none")["seeds"] == 1
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["missing"] == 2
    assert numbers["best"]["cell"] == 3  # its place in the grid, not among the runs that ended
    report = (folder / "report.html").read_text()
    assert "no &lt;b&gt;such&lt;/b&gt; | file" in report
    assert "no &lt;b>such&lt;/b> \\| file" in (folder / "summary.md").read_text()
    assert set(pd.read_csv(folder / "runs.csv")["failed_in"].dropna()) == {"prior"}


def test_nothing_is_compared_where_every_run_failed(tmp_path):
    with pytest.raises(InputError, match=r"none of the 2 runs .* failed in prior: gone"):
        compared(tmp_path, {("none", 0): "gone", (PRIOR, 0): "gone too"})
    assert not (tmp_path / "comparison").exists()


def test_runs_of_a_line_that_was_not_measured_are_told_and_the_best_in_validation_chosen(tmp_path):
    bare = {"shift": 0.0, "not_scored": "no perturbed cell of rpe1 was measured"}
    folder = compared(tmp_path, {("none", 0): bare, (PRIOR, 0): bare, (TWIN, 0): "gone"})
    said = "Not compared by scores: no perturbed cell of rpe1 was measured."
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["conclusion"] == said and numbers["metrics"] == {}
    assert numbers["best"]["prior"] == PRIOR and numbers["missing"] == 1
    for page in ("summary.md", "report.html"):
        assert said in (folder / page).read_text()
    assert not (folder / "comparison.csv").exists() and not (folder / "by_prior.csv").exists()
    assert len(pd.read_csv(folder / "runs.csv")) == 3


def test_runs_of_other_cells_are_refused(tmp_path):
    other = {"shift": 0.0, "cells": "d"}
    with pytest.raises(InputError, match="other cells than"):
        compared(tmp_path, {("none", 0): 0.0, (PRIOR, 0): other})


def test_without_a_run_of_no_prior_nothing_is_concluded(tmp_path):
    folder = compared(tmp_path, {(PRIOR, 0): 0.1, (PRIOR, 1): 0.1})
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["conclusion"] == (
        "There is no run without a prior here, so nothing can be said of what a prior adds."
    )
    assert numbers["conclusion"] in (folder / "summary.md").read_text()


def test_the_pages_end_with_the_commands_and_stand_alone(tmp_path):
    folder = compared(tmp_path, {("none", 0): 0.0, (PRIOR, 0): 0.1}, repeat="make compare A\nkfp B")
    assert (folder / "summary.md").read_text().endswith("```sh\nmake compare A\nkfp B\n```\n")
    report = (folder / "report.html").read_text()
    assert "make compare A\nkfp B" in report
    assert not re.search(r"<script|<link|src=|url\((?!#)|https?://(?!www.w3.org)", report)
    assert "prefers-color-scheme: dark" in report and "max-width: 600px" in report
    assert opening(folder, COMPARISON).summary["runs"] == 2


def test_cost_counts_every_process_of_every_run(tmp_path):
    folder = compared(tmp_path, {("none", 0): 0.0, ("none", 1): 0.0, (PRIOR, 0): 0.0})
    cost = pd.read_csv(folder / "cost.csv").set_index("prior")
    assert cost.loc["none", "hours"] == pytest.approx(2.0)  # 2 runs x 2 GPUs x half an hour
    assert cost.loc[PRIOR, "hours"] == pytest.approx(1.0)
    assert (cost["device"] == "cuda").all()


def test_every_metric_that_kfp_is_given_is_finite(tmp_path):
    folder = compared(tmp_path, {("none", 0): float("nan"), (PRIOR, 0): 0.1})
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics and all(np.isfinite(value) for value in metrics.values())
    assert not any(name.endswith("/none") for name in metrics)


@pytest.mark.parametrize(
    ("prior", "twin"),
    [
        ("none", ""),
        ("effects", ""),
        ("random:8", "shuffled:random:8"),
        (PRIOR, TWIN),
        (TWIN, ""),
        (f"concat(effects, {PRIOR})", f"concat(effects, {TWIN})"),
        ("concat(scgpt, graph:g.csv)", "shuffled:concat(scgpt, graph:g.csv)"),
    ],
)
def test_the_twin_of_a_prior_deals_its_vectors_and_keeps_its_effects(prior, twin):
    assert twin_of(prior) == twin


def test_a_prior_is_held_against_none_its_twin_and_its_effects_alone():
    both, other = f"concat({PRIOR}, effects)", f"concat(effects, {TWIN})"
    assert references_of(both, ["none", "effects", both, other]) == ["none", other, "effects"]
    assert references_of("none", ["none", "effects"]) == []
    assert references_of("effects", ["effects"]) == []


@pytest.mark.parametrize(
    ("prior", "control"),
    [
        ("none", True),
        ("random:8", True),
        (TWIN, True),
        ("concat(random:8, none)", True),
        (PRIOR, False),
        ("effects", False),
        (f"concat(effects, {TWIN})", False),
    ],
)
def test_what_says_nothing_of_biology_is_a_control(prior, control):
    assert is_control(prior) == control


@given(st.sampled_from([0.0, 0.05, -0.05]), st.integers(0, 1000))
def test_swapping_two_priors_swaps_the_verdict(shift, seed):
    rng = np.random.default_rng(seed)
    values = pd.DataFrame(rng.normal(shift, 0.03, (20, 2)))
    swapped = {BETTER: WORSE, WORSE: BETTER, NO_EVIDENCE: NO_EVIDENCE}
    one, two = (paired_difference("pearson_delta", sign * values) for sign in (1, -1))
    for row in (one, two):
        row |= {"metric": "pearson_delta", "p_holm": row["p"]}
    assert verdict_of(two)[0] == swapped[verdict_of(one)[0]]


def test_the_ceiling_stands_beside_the_scores_and_each_run_leads_to_its_report(tmp_path):
    runs = {("none", 0): 0.0, ("effects", 0): 0.1, ("annotation:x.parquet", 0): "no such file"}
    folder = compared(tmp_path, runs)
    page = (folder / "report.html").read_text()
    assert "ceiling of the data" in page and "0.876" in page
    assert "ceiling of the data | 0.876 |" in (folder / "summary.md").read_text()
    links = re.findall(r'<a href="(reports/[^"]+)"', page)
    assert [(folder / link).read_text() for link in links] == ["<html>seed 0", "<html>seed 10"]
    assert "<title>Comparison of priors · sim://&lt;screen&gt;</title>" in page


def test_no_name_in_a_plot_is_cut():
    name = "annotation:gs://a-bucket/with/a/long/folder/go-biological-process.parquet less none"
    row = {"name": name, "difference": 0.1, "low": 0.0, "high": 0.2, "verdict": BETTER}
    svg = forest(pd.DataFrame([row, row]))
    texts = re.findall(r"<text[^>]*>(.*?)</text>|<tspan[^>]*>(.*?)</tspan>", svg)
    drawn = "".join(one or other for one, other in texts).replace(" ", "")
    assert drawn.count(name.replace(" ", "")) == 2


def test_all_that_is_said_of_a_known_grid(tmp_path, capsys):
    helps = {"shift": 0.1, "unseen_shift": 0.1}
    runs = {("none", 0): 0.0, ("none", 1): 0.0, (PRIOR, 0): helps, (PRIOR, 1): helps}
    runs |= {
        ("effects", 0): {"shift": 0.05, "known": 0.05, "best_epoch": 0},
        (TWIN, 0): "no | file",
    }
    folder = compared(tmp_path, runs, repeat="make compare A")
    said = (Path(__file__).parent / "expected" / "comparison.md").read_text()
    assert (folder / "summary.md").read_text() == said
    mean = "(mean, sd over seeds)."
    result = [
        f"compare: result: Better than no prior, by pearson_delta: {PRIOR}.",
        f"compare: result: none: pearson_delta 0.360 (0.000) {mean}",
        f"compare: result: {PRIOR}: pearson_delta 0.484 (0.002) {mean}",
        f"compare: result: effects: pearson_delta 0.409 (\N{EN DASH}) {mean}",
        f"compare: result: same-perturbation training delta: pearson_delta 0.360 (0.000) {mean}",
        "compare: result: ceiling of the data: pearson_delta 0.876.",
        "compare: result: Missing runs: 1.",
    ]
    printed = capsys.readouterr().out
    assert printed.startswith(said.partition("Repeat it")[0])
    assert printed.splitlines()[-len(result) - 1 :] == [
        f"compare: wrote {folder}: 5 runs, 1 missing; open {folder}/report.html",
        *result,
    ]


def test_runs_before_processes_were_counted_count_as_one_process():
    facts = {"wall_clock_seconds": 3600.0, "cells_per_second": 1.0, "epochs_run": 1}
    grid = Grid([Run(0, "none", 0, None, facts)], [])
    assert cost(grid).to_dict("records") == [
        {
            "prior": "none",
            "runs": 1,
            "device": "unknown",
            "cells_per_second": 1.0,
            "hours": 1.0,
            "epochs": 1.0,
        }
    ]


def test_training_stats_of_another_seed_are_refused(tmp_path):
    folder, file = evaluation(tmp_path / "e", shift=0.0, seed=1), stats(tmp_path / "s", 1)
    with pytest.raises(InputError, match=r"s: is of seed 1, its cell of 2$"):
        compare([folder], [file], [{"prior": "none", "seed": 2}], tmp_path / "comparison")


def test_training_stats_that_cannot_be_read_name_the_task_to_run_again(tmp_path):
    folder, file = evaluation(tmp_path / "e", shift=0.0, seed=1), stats(tmp_path / "s", 1)
    target = tmp_path / "comparison"
    file.write_text("{")
    with pytest.raises(InputError, match=f"^{file}: .*run the finetune task again"):
        compare([folder], [file], [{"prior": "none", "seed": 1}], target)
    assert not target.exists()
