"""Runs that are kept on this machine: their folders, the list of them, the newest, old ones."""

import json

import pytest

from components.shared.artifacts.evaluation import CENTRED, COMPARED
from components.shared.findings.verdict import verdict
from components.shared.telling.errors import InputError
from pipelines import history
from pipelines.history import LATEST, described, kept, new_folder, newest_report, remove_old, table
from pipelines.outcome import summary
from pipelines.run import PARAMS, read_params

DEMO = read_params(PARAMS / "demo.yaml", [])
SCORES = {
    "scored": True,
    "perturbations": 7,
    "model": {"pearson_delta": 0.5, "mae_delta": 0.3},
    "baselines": {
        "control_mean": {"pearson_delta": 0.1, "mae_delta": 0.2},
        "same_perturbation_delta": {"pearson_delta": 0.4, "mae_delta": 0.25},
    },
    "ceiling": {"pearson_delta": 0.7, "mae_delta": None},
    "ours": {
        "model": {CENTRED: 0.45},
        "same_perturbation_delta": {CENTRED: 0.35},
        "ceiling": {CENTRED: 0.6},
    },
    "tests": {"pearson_delta": {"same_perturbation_delta": {"verdict": "beats"}}},
}


def finished(runs, name="demo", params=DEMO):
    root = new_folder(runs, name, params)
    published = root / "scgpt-perturb-1" / "publish" / "published"
    (published / "eval").mkdir(parents=True)
    (published / "eval" / "metrics.json").write_text(json.dumps(SCORES))
    (published / "eval" / "report.html").write_text("<html>")
    history.link_results(root, published)
    return root


def test_runs_of_the_same_second_have_folders_of_their_own_and_latest_is_the_newest(tmp_path):
    roots = [finished(tmp_path) for _ in range(3)]
    assert len(set(roots)) == 3
    assert (tmp_path / LATEST).resolve() == roots[-1].resolve()
    assert roots[0].name.endswith("-demo-effects")
    assert (roots[0] / "published").resolve().name == "published"


def test_the_list_has_a_line_a_run_with_what_it_was_and_scored(tmp_path):
    finished(tmp_path)
    new_folder(tmp_path, "compare-demo", read_params(PARAMS / "compare-demo.yaml", []))
    head, *rows = table(tmp_path)
    assert head.split() == list(history.COLUMNS)
    demo = next(row for row in rows if " demo " in row)
    for word in ("k562, jurkat, hepg2 -> rpe1", " effects ", "0.500"):
        assert word in demo
    other = next(row for row in rows if "compare-demo" in row)
    assert "4-priors" in other and "0,1" in other


def test_a_run_that_is_repeated_from_its_own_parameters_keeps_its_name(tmp_path):
    first, second = (new_folder(tmp_path, "demo", DEMO) for _ in range(2))
    for root in (first, second):
        (root / history.LOG).touch()
        assert history.name_of(root / history.PARAMETERS) == "demo"
        assert read_params(root / history.PARAMETERS, []) == DEMO
    assert history.name_of(tmp_path / LATEST / history.PARAMETERS) == "demo"
    assert history.name_of(PARAMS / "own-data.yaml") == "own-data"


def test_what_is_no_run_is_neither_listed_nor_removed(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / "ablation").mkdir()
    roots = [finished(tmp_path, name=f"n{i}") for i in range(3)]
    gone = remove_old(tmp_path, 1)
    assert [run.root for run in kept(tmp_path)] == [roots[-1]]
    assert sorted(gone) == roots[:2]
    remove_old(tmp_path, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "ablation"]
    with pytest.raises(InputError, match="0 or more"):
        remove_old(tmp_path, -1)


def test_the_newest_report_is_the_newest_runs_that_has_one(tmp_path):
    with pytest.raises(InputError, match="no run has a report"):
        newest_report(tmp_path)
    root = finished(tmp_path, name="a")
    new_folder(tmp_path, "b", DEMO)
    assert newest_report(tmp_path).resolve().is_relative_to(root.resolve())


def test_the_paths_at_the_end_stay_valid_when_another_run_has_begun(tmp_path):
    root = finished(tmp_path)
    assert f"{LATEST}/published" in summary(root, 1)
    assert '  another prior: make run ARGS="prior=none"; several' in summary(root, 1)
    new_folder(tmp_path, "other", DEMO)
    assert f"{root.name}/published/eval/report.html" in summary(root, 1)


def test_six_lines_say_what_a_run_is_about_without_secrets_and_in_80_columns():
    given = ["dataset=https://me:word@x.org/a.h5ad?sig=abc", "prior=none", "overrides={a: 1}"]
    lines = described(read_params(PARAMS / "demo.yaml", given) | {"train_lines": ["x" * 99]})
    assert len(lines) == 6 and max(map(len, lines)) <= 80
    assert "word" not in lines[0] and "abc" not in lines[0]
    assert len(described(read_params(PARAMS / "predict-line.yaml", []))) == 6
    assert "none, effects" in described(read_params(PARAMS / "compare-demo.yaml", []))[3]


def test_a_run_ends_with_the_verdict_and_each_metric_beside_its_best_baseline(tmp_path):
    said = summary(finished(tmp_path), 1)
    assert verdict(SCORES) in " ".join(said.split())
    (row,) = [line for line in said.splitlines() if line.startswith("mae_delta")]
    assert row.split()[-3:] == ["0.200", "control_mean", "-"] and "(lower is better)" in row
    assert max(map(len, said.splitlines()[:13])) <= 80
    told = [line.split() for line in said.splitlines()]
    assert [words[0] for words in told if words and words[0] in COMPARED] == list(COMPARED)
    assert [CENTRED, "0.450", "0.350", "same_perturbation_delta", "0.600"] in told


def test_another_prior_is_proposed_for_the_run_that_ended(tmp_path):
    for changed, more in (
        ({"dataset": "mine.h5ad"}, ""),
        ({"publish_to": "gs://mine/one"}, " publish_to="),  # which is taken
    ):
        root = finished(tmp_path, "demo", DEMO | changed)
        told = f'make run PARAMS={tmp_path}/{LATEST}/params.yaml ARGS="prior=none{more}"'
        assert f"  another prior: {told}" in summary(root, 1).splitlines()


def test_after_a_prediction_no_prior_is_proposed(tmp_path):
    root = finished(tmp_path, "predict-line", read_params(PARAMS / "predict-line.yaml", []))
    assert "another prior" not in summary(root, 1) and "make predict" in summary(root, 1)


@pytest.mark.parametrize(
    "text",
    ["prior: esm3:x", "train_lines:", "priors: 3", "- a", "prior: [", "x", "prior: none\nseed: {}"],
)
def test_a_run_whose_parameters_are_odd_does_not_end_the_list(tmp_path, text):
    odd = finished(tmp_path)
    (odd / history.PARAMETERS).write_text(text)
    finished(tmp_path)
    assert len(list(table(tmp_path))) == 3


def test_files_that_vanish_while_a_run_is_listed_are_not_counted(tmp_path, monkeypatch):
    root = finished(tmp_path)
    before = kept(tmp_path)[0].size
    found = [*root.rglob("*"), root / "gone"]
    monkeypatch.setattr(type(root), "rglob", lambda *_: iter(found))
    assert kept(tmp_path)[0].size == before > 0
