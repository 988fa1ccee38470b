"""What is known to be wrong before a run, the grid, the commands, and failures as results."""

import inspect
import json
import os
import re
import subprocess

import pytest
import yaml
from kfp.cli.utils.parsing import parse_parameter_value

from components.check.check import check, check_prediction, grid, repeat_comparison
from components.check.component import check as check_component
from components.check.component import check_grid as grid_component
from components.ingest.ingest import ingest
from components.shared.artifacts.artifact import CELLS, FAILED, FailedError, opening
from components.shared.artifacts.failure import errors_of
from components.shared.parameters.repeat import commands
from components.shared.parameters.stage_options import (
    INGEST_OPTIONS,
    SPLIT_OPTIONS,
    checked_options,
)
from components.shared.telling.errors import InputError
from components.split.split import split
from pipelines.run import PARAMS, assignments_in, check_settings, read_params

task, grid_task = check_component.python_func, grid_component.python_func
PACKAGE = "pipelines/compiled/compare-priors.yaml"
COMMON = {"dataset": "sim://screen?cells=9", "train_lines": ["k562", "jurkat"], "test_line": "rpe1"}
COMMON |= {"pretrained": "random://tiny", "overrides": {"epochs": 2.0}, "gpus": 0}


def asked(priors, seeds):
    return {**COMMON, "priors": priors, "seeds": seeds}


def test_the_grid_is_every_prior_with_every_seed():
    cells = grid(asked(["none", "random:8"], [0.0, 3.0]), PACKAGE, "gs://b/c/")
    assert [(cell["prior"], cell["seed"]) for cell in cells] == [
        ("none", 0),
        ("none", 3),
        ("random:8", 0),
        ("random:8", 3),
    ]
    assert all(type(cell["seed"]) is int for cell in cells)
    place = cells[-1]["checkpoints"]
    assert re.fullmatch(r"gs://b/c/random-8-[0-9a-f]{8}-seed-3", place)
    assert len({cell["checkpoints"] for cell in cells}) == 4
    assert "'priors=[random:8]'" in cells[3]["repeat"] and "seeds=[3]" in cells[3]["repeat"]


def test_one_training_line_is_enough_for_effects():
    one = {"train_lines": ["k562"]}
    for prior in ("effects", "concat(effects, random:8)", "effects:gs://b/screen.parquet"):
        assert grid(asked([prior], [0]) | one, PACKAGE, "")
        assert check(COMMON | one | {"prior": prior}, PACKAGE)


def test_long_priors_that_end_alike_have_places_of_their_own():
    long = "annotation:gs://my-bucket/shared/priors/gene-ontology/gene2go.parquet?width=64"
    cells = grid(asked([long, f"shuffled:{long}", f"concat(effects, {long})"], [0]), PACKAGE, "c")
    assert len({cell["checkpoints"] for cell in cells}) == 3


def test_without_a_place_for_checkpoints_each_run_has_its_own():
    assert grid(asked(["none"], [0]), PACKAGE, "")[0]["checkpoints"] == ""


@pytest.mark.parametrize(
    ("priors", "seeds", "says"),
    [
        (["none", "efects"], [0], "'efects' is unknown, nearest: 'effects'; allowed: none"),
        ([3], [0], "expected a list of priors"),
        ([], [0], "priors: is empty"),
        (["none"], [], "seeds: is empty"),
        (["none", " none "], [0], "'none' is given twice"),
        (["none"], [1, 1.0], "'1' is given twice"),
        (["none"], [1.5], "seeds=1.5: expected 0 or more, a whole number"),
        (["none"], [-1], "seeds=-1: expected"),
        (["none"], [True], "seeds=True: expected"),
        (["none"], list(range(201)), "201 runs make an argument of"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(priors, seeds, says):
    with pytest.raises(InputError) as caught:
        grid(asked(priors, seeds), PACKAGE, "")
    assert says in str(caught.value)


@pytest.mark.parametrize("of", ["run", "grid", "prediction"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dataset": "/nowhere/in.h5ad"}, "dataset=/nowhere/in.h5ad: no such file or folder"),
        ({"split_options": {"val_frac": 0.2}}, "'val_frac' is not an option, nearest: 'val_fr"),
        ({"split_options": {"val_fraction": "20%"}}, "expected a value of type float"),
        ({"split_options": {"val_fraction": 2}}, "val_fraction=2.0: expected a number from 0 to 1"),
        ({"split_options": {"split_file": "no.toml"}}, "split_options.split_file=no.toml: no such"),
        ({"ingest_options": {"batch": "x"}}, "'batch' is not an option, nearest: 'batch_column'"),
        ({"ingest_options": {"missing_is_control": "yes"}}, "expected a value of type bool"),
        ({"control_label": " "}, "control_label is empty"),
        ({"seed": -1}, "seed=-1: expected 0"),
        ({"gpus": 1.5}, "gpus=1.5: expected 0"),
    ],
)
def test_what_parameters_alone_tell_is_told_first_of_every_pipeline(of, wrong, says):
    given = {**COMMON, **wrong}
    with pytest.raises(InputError, match=re.escape(says)):
        if of == "run":
            check(given | {"prior": "none"}, PACKAGE)
        elif of == "grid":
            grid(asked(["none"], [0]) | wrong, PACKAGE, "")
        else:
            del given["train_lines"], given["pretrained"]
            check_prediction(given | {"model": "gs://bucket/model"}, PACKAGE)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"pretrained": "/nowhere/scgpt"}, "pretrained=/nowhere/scgpt: no such file or folder"),
        ({"prior": "/nowhere/e.parquet"}, "prior=/nowhere/e.parquet: no such file"),
        ({"train_lines": "k562"}, "expected a list of cell lines"),
        ({"train_lines": [False]}, "False is not the name of a cell line; put names in quotes"),
        ({"train_lines": ["k562", "K-562"]}, "'K-562', 'k562' are names of one line"),
        ({"train_lines": [1.0, "1"]}, "'1' given more than once"),
        ({"test_line": ""}, "test_line is empty"),
        ({"test_line": "Jurkat"}, "test_line 'Jurkat' is one of train_lines"),
        ({"train_lines": ["k562"], "test_line": "k562"}, "a split_file in split_options"),
    ],
)
def test_a_run_that_cannot_be_is_refused_first(wrong, says):
    with pytest.raises(InputError, match=re.escape(says)):
        check({**COMMON, "prior": "none", **wrong}, PACKAGE)


def test_a_checkpoint_that_lacks_a_file_is_refused_first(tmp_path):
    (tmp_path / "best_model.pt").touch()
    with pytest.raises(InputError, match=r"pretrained=.*/args.json: no such file"):
        check({**COMMON, "prior": "none", "pretrained": str(tmp_path)}, PACKAGE)


def test_lines_may_be_numbers_and_a_split_file_may_hold_out_a_part_of_one(tmp_path):
    (tmp_path / "split.toml").touch()
    check({**COMMON, "prior": "none", "train_lines": [1.0, 2], "test_line": "3"}, PACKAGE)
    by_file = {"split_options": {"split_file": str(tmp_path / "split.toml")}}
    one = {"train_lines": ["k562"], "test_line": "k562"}
    check({**COMMON, "prior": "none", **one, **by_file}, PACKAGE)


def test_the_options_that_are_checked_are_those_of_the_stages():
    for options, stage in ((INGEST_OPTIONS, ingest), (SPLIT_OPTIONS, split)):
        known = inspect.signature(stage).parameters
        assert options == {name: known[name].default for name in options}
    parameters = {"source", "target", "perturbation_column", "cell_line_column", "control", "seed"}
    assert set(INGEST_OPTIONS) == set(inspect.signature(ingest).parameters) - parameters
    parameters = {"cells", "target", "train_lines", "test_line", "perturbations", "seed"}
    assert set(SPLIT_OPTIONS) == set(inspect.signature(split).parameters) - parameters


def test_every_file_of_a_list_must_be_there(tmp_path):
    (tmp_path / "a.h5ad").touch()
    listed = [str(tmp_path / "a.h5ad"), {"file": str(tmp_path / "b.h5ad"), "layer": "counts"}]
    with pytest.raises(InputError, match=r"dataset=.*/b.h5ad: no such file"):
        check({**COMMON, "prior": "none", "dataset": json.dumps(listed)}, PACKAGE)
    with pytest.raises(InputError, match="dataset: not JSON"):
        check({**COMMON, "prior": "none", "dataset": '["a.h5ad"'}, PACKAGE)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"val_line": 1.0}, {"val_line": "1"}),
        ({"val_fraction": 1}, {"val_fraction": 1.0}),
        ({"halve_controls": False}, {"halve_controls": False}),
    ],
)
def test_a_number_where_text_is_meant_is_the_text(given, taken):
    assert checked_options(SPLIT_OPTIONS, given, name="split_options") == taken
    assert checked_options(INGEST_OPTIONS, {"left_out": ["a", 2.0]}, name="x") == {
        "left_out": ("a", "2")
    }


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prior": "anotation:x.parquet"}, "nearest: 'annotation'"),
        ({"pretrained": "random://tinny"}, "nearest: 'tiny'"),
        ({"gpus": -1}, "gpus=-1: expected 0"),
        ({"train_lines": []}, "train_lines: is empty; expected a list"),
        ({"perturbations": ["nowhere.txt"]}, "nowhere.txt: no such file"),
        ({"perturbations": ["MYC", ""], "cells_per_perturbation": -3}, "-3: expected 0"),
    ],
)
def test_a_run_is_refused_with_the_nearest_name(wrong, says):
    with pytest.raises(InputError, match=says):
        check({**COMMON, "prior": "none", **wrong}, PACKAGE)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"recipe": "defualt"}, "recipe 'defualt' is unknown; allowed: default, reference, smoke"),
        ({"overrides": {"epoch": 2}}, "override 'epoch' is not a setting .*'epochs'"),
        ({"overrides": {"epochs": 0.0}}, "override epochs=0.0: expected at least 1"),
        ({"publish_to": "ftp://host/x"}, "publish_to 'ftp://host/x': scheme 'ftp://'; allowed: a"),
        ({"publish_to": "hf://datasets/me/it"}, "expected hf://<owner>/<name>"),
        ({"publish_to": "hf://me/a b"}, "'me/a b' is not a valid name of a repository"),
        ({"publish_to": "gs://b/../x"}, "publish_to|gs://b/../x"),
        ({"ingest_options": {"target_sum": "mean"}}, "target_sum='mean': expected 'median'"),
    ],
)
def test_recipe_and_target_are_checked_by_the_tasks_and_by_the_commands(wrong, says, tmp_path):
    given = COMMON | {"recipe": "smoke", "perturbation_column": "gene", "control_label": "x"}
    given |= {"cell_line_column": "line", "ingest_options": {}, "split_options": {}}
    given |= {"perturbations": [], "cells_per_perturbation": 0, "publish_to": ""} | wrong
    count = str(tmp_path / "count")
    runs = (
        lambda: check({**given, "prior": "none"}, PACKAGE),
        lambda: grid({**given, "priors": ["none"], "seeds": [0]}, PACKAGE, ""),
        lambda: check_settings({**given, "prior": "none"}),
    )
    for run in runs:
        with pytest.raises(InputError, match=says):
            run()
    with pytest.raises(SystemExit):
        task(gpu_count=count, package=PACKAGE, prior="none", seed=0, **given)


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_tasks_hand_on_the_count_of_gpus_as_text(tmp_path, gpus):
    given = COMMON | {"recipe": "smoke", "perturbation_column": "gene", "control_label": "x"}
    given |= {"cell_line_column": "line", "ingest_options": {}, "split_options": {}, "gpus": gpus}
    given |= {"perturbations": ["MYC"], "cells_per_perturbation": 0, "publish_to": "hf://me/it"}
    count = tmp_path / "deep" / "count"
    task(gpu_count=str(count), package=PACKAGE, prior="none", seed=0, **given)
    assert count.read_text() == str(gpus)
    count.unlink()
    grid_task(
        repeat=str(tmp_path / "repeat"),
        runs=str(tmp_path / "runs"),
        gpu_count=str(count),
        package=PACKAGE,
        checkpoints="",
        priors=["none"],
        seeds=[0],
        split_seed=0,
        **given,
    )
    assert count.read_text() == str(gpus)


def test_the_commands_hand_back_every_parameter_in_its_type():
    awkward = {"test_line": "0123", "control_label": "NO", "publish_to": "", "cell_line": "=it's"}
    given = asked(["none", "concat(effects, random:8)"], [0.0, 1.0]) | awkward
    make, kfp = repeat_comparison(given, PACKAGE).split("\n")
    wanted = given | {"seeds": [0, 1], "overrides": {"epochs": 2}}
    assert kfp.startswith(f"kfp run create -e scgpt-perturb -f {PACKAGE} ")
    words = assignments_in(kfp.split(PACKAGE)[1])
    found = dict(word.split("=", 1) for word in words)
    assert {name: parse_parameter_value(text) for name, text in found.items()} == wanted
    text = make.removeprefix('make compare ARGS="').removesuffix('"').replace("\\", "")
    said = dict(word.split("=", 1) for word in assignments_in(text))
    for name, value in wanted.items():
        assert (said[name] if isinstance(value, str) else yaml.safe_load(said[name])) == value


def test_the_commands_are_the_same_whatever_the_order_of_a_dicts_entries():
    """KFP's local runner gives them in another one each time, and its cache compares commands."""
    entries = [("epochs", 2.0), ("batch_size", 8.0), ("learning_rate", 0.1)]
    said = {
        repeat_comparison(asked(["none"], [0]) | {"overrides": dict(order)}, PACKAGE)
        for order in (entries, entries[::-1])
    }
    assert len(said) == 1


def test_the_make_line_needs_nothing_of_the_parameter_file():
    params = read_params(PARAMS / "compare-demo.yaml", [])
    make = commands("compare", PACKAGE, params | {"recipe": "smoke"}).split("\n")[0]
    text = make.removeprefix('make compare ARGS="').removesuffix('"')
    assert read_params(PARAMS / "compare-demo.yaml", assignments_in(text)) == params | {
        "recipe": "smoke"
    }


def test_no_secret_and_no_digest_is_in_the_commands(tmp_path):
    (tmp_path / "cells.h5ad").touch()
    given = asked(["table:https://host/x.parquet?sig=c0ffee"], [0])
    given["dataset"] = f"{tmp_path}/cells.h5ad#sha256=" + "0" * 64
    cells = grid(given, PACKAGE, "")
    for text in (cells[0]["repeat"], repeat_comparison(given, PACKAGE)):
        assert "c0ffee" not in text and "sha256" not in text and "https://host/x.parquet" in text
    assert "c0ffee" in cells[0]["prior"]  # the task itself needs it


def test_a_failure_in_a_grid_is_an_artifact_that_the_next_task_hands_on(tmp_path, capsys):
    with errors_of("prior", tmp_path / "prior", in_grid=True):
        raise InputError("no such file")
    with errors_of("finetune", tmp_path / "model", in_grid=True):
        opening(tmp_path / "prior", CELLS)
    assert opening(tmp_path / "model", FAILED).summary == {
        "stage": "prior",
        "reason": "no such file",
    }
    assert "prior: error: no such file; the other runs continue" in capsys.readouterr().err


def test_a_fault_in_a_grid_is_an_artifact_too_with_its_traceback_in_the_log(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "half").write_text("x")
    with errors_of("finetune", tmp_path / "model", in_grid=True):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(FailedError, match="finetune failed before: RuntimeError: CUDA out of mem"):
        opening(tmp_path / "model", CELLS)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_a_process_that_is_stopped_leaves_no_result(tmp_path, stop):
    with pytest.raises(type(stop)), errors_of("finetune", tmp_path / "model", in_grid=True):
        raise stop
    assert not (tmp_path / "model").exists()


def test_outside_a_grid_a_failure_ends_the_task(tmp_path):
    with pytest.raises(SystemExit), errors_of("prior", tmp_path / "prior", in_grid=False):
        raise InputError("no such file")
    assert not (tmp_path / "prior").exists()


def test_priors_that_differ_where_no_page_shows_it_are_refused():
    uri = "table:https://host/d.parquet?version="
    with pytest.raises(InputError, match="given twice as it is shown, without its query"):
        grid(asked([f"{uri}1", f"{uri}2"], [0]), PACKAGE, "")


def test_a_seed_that_kfp_would_change_on_the_way_is_refused():
    largest = check(COMMON | {"prior": "none", "seed": 2**53}, PACKAGE)
    assert f"seed={2**53}" in largest
    for given in (COMMON | {"prior": "none", "seed": 2**53 + 1}, asked(["none"], [2**53 + 1])):
        with pytest.raises(InputError, match=r"seeds?=9007199254740993: expected at most 2\*\*53"):
            (grid if "priors" in given else check)(given, PACKAGE, *([""] * ("priors" in given)))


def test_the_line_that_repeats_a_prediction_is_one_that_make_takes(tmp_path):
    given = {
        "model": "gs://b/my model$",
        "dataset": "sim://x?cells=9",
        "perturbations": ["MYC", "A+B"],
    }
    line = check_prediction(given | {"cell_line": ""}, PACKAGE).splitlines()[0]
    shown = '"$$MODEL" "$$DATASET" "$$ARGS"'
    text = f"export MODEL DATASET ARGS\npredict:\n\t@printf '%s\\n' {shown}\n"
    (tmp_path / "Makefile").write_text(text)
    bare = {"PATH": os.environ["PATH"]}  # without MAKEFLAGS, for the tests may be run by make
    shell = ["sh", "-c", line]
    said = subprocess.run(shell, cwd=tmp_path, env=bare, capture_output=True, text=True, check=True)
    model, dataset, assigned = said.stdout.splitlines()
    assert (model, dataset) == (given["model"], given["dataset"])
    assert assigned == "'perturbations=[MYC, A+B]' cell_line="
