import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from components.shared.parameters.recipe import load_recipe
from components.shared.parameters.repeat import commands
from components.shared.parameters.stage_options import INGEST_OPTIONS, checked_options
from components.shared.telling.errors import InputError
from pipelines.inputs import input_uris
from pipelines.run import (
    PARAMS,
    check_early,
    check_settings,
    pinned,
    read_params,
    state_of_inputs,
    telling_instead,
    without_links,
)


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_parameter_file_is_complete_and_its_recipe_exists(path):
    params = read_params(path, [])
    load_recipe(params.get("recipe", "default"), params.get("overrides", {}))


def test_the_two_readings_of_the_references_training_set_differ_in_lines_alone():
    three = read_params(PARAMS / "reference-none.yaml", [])
    alone = read_params(PARAMS / "reference-none-k562.yaml", [])
    assert three.pop("train_lines") == ["k562", "jurkat", "hepg2"]
    assert alone.pop("train_lines") == ["k562"]
    assert three == alone


def test_a_parameter_file_may_be_given_by_name():
    assert read_params(Path("demo"), []) == read_params(PARAMS / "demo.yaml", [])


def test_assignments_are_yaml_and_reach_into_dicts():
    assignments = ["seed=7", "train_lines=[k562]", "overrides.epochs=2", "publish_to="]
    params = read_params(PARAMS / "demo.yaml", assignments)
    assert params["seed"] == 7
    assert params["train_lines"] == ["k562"]
    assert params["overrides"]["epochs"] == 2
    assert params["overrides"]["batch_size"]  # the file's other entries stay
    assert params["publish_to"] == ""


@pytest.mark.parametrize("given", ["[{0}, {1}]", '["{0}", {{"file": "{1}"}}]'])
def test_a_list_of_files_becomes_json_whose_files_the_cache_knows(tmp_path, given):
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path in paths:
        path.write_text(path.name)
    params = read_params(PARAMS / "demo.yaml", [f"dataset={given.format(*paths)}"])
    assert json.loads(params["dataset"]) == [str(path) for path in paths]
    assert input_uris(params)["dataset"] == [str(path) for path in paths]
    before = json.loads(pinned(params)["dataset"])
    paths[1].write_text("changed")
    after = json.loads(pinned(params)["dataset"])
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert f'dataset=["{paths[0]}", "{paths[1]}"]'.replace('"', '\\"') in commands(
        "run", "", params
    )


def test_a_list_in_a_parameter_file_keeps_the_options_of_each_file(tmp_path):
    file = tmp_path / "two.yaml"
    text = (PARAMS / "demo.yaml").read_text().splitlines()
    entries = ["dataset:", "  - a.h5ad", "  - {file: b.h5ad, layer: counts}"]
    file.write_text("\n".join([*(x for x in text if not x.startswith("dataset:")), *entries]))
    dataset = json.loads(read_params(file, [])["dataset"])
    assert dataset == ["a.h5ad", {"file": "b.h5ad", "layer": "counts"}]


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["priors=none"], "'priors' is not one of the pipeline's, nearest: 'prior'"),
        (["seed"], "expected key=value"),
        (["seed=abc"], "seed='abc': expected a value of type int"),
        (["train_lines=k562"], "expected a value of type list"),
        (["overrides=5"], "expected a value of type dict"),
        (["overrides=5", "overrides.epochs=3"], "overrides is not a dict"),
        (["prior.x=3"], "prior is not a dict"),
        (["train_lines=[k562"], "not YAML"),
        (["seed=2020-13-45"], "not YAML"),
        ([f"seed={'1' * 5000}"], "not YAML"),
        (["seed=!!timestamp x"], "not YAML"),
        (["seed=!!bool x"], "not YAML"),
    ],
)
def test_a_bad_assignment_is_one_line(assignments, says):
    with pytest.raises(InputError, match=says):
        read_params(PARAMS / "demo.yaml", assignments)


def test_text_parameters_are_taken_as_they_stand():
    params = read_params(PARAMS / "demo.yaml", ["control_label=NO", "test_line=0123"])
    assert params["control_label"] == "NO"
    assert params["test_line"] == "0123"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("recipe=refernce", "allowed: default, reference, smoke"),
        ("overrides.epoch=3", "nearest: 'epochs'"),
        ("pretrained=random://tinny", "nearest: 'tiny'"),
        ("publish_to=az://bucket", "scheme"),
    ],
)
def test_what_would_fail_after_hours_fails_at_once(assignment, says):
    with pytest.raises(InputError, match=says):
        check_early(read_params(PARAMS / "demo.yaml", [assignment]))


def test_an_unknown_parameter_file_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="demo, four-lines"):
        read_params(tmp_path / "mine.yaml", [])


def test_a_missing_parameter_is_named(tmp_path):
    (tmp_path / "p.yaml").write_text("dataset: x.h5ad\n")
    with pytest.raises(InputError, match="'train_lines' is missing"):
        read_params(tmp_path / "p.yaml", [])


def test_a_changed_local_file_changes_what_the_cache_sees(tmp_path):
    file = tmp_path / "cells.h5ad"
    file.write_text("one")
    params = {"dataset": str(file), "prior": "none", "pretrained": "random://tiny"}
    first = pinned(params)
    as_uri = pinned(params | {"dataset": f"file://{file}"})
    file.write_text("two")
    assert pinned(params)["dataset"] != first["dataset"] == as_uri["dataset"]
    assert pinned(params)["prior"] == "none"


@pytest.mark.parametrize("key", ["dataset", "prior", "priors"])
def test_a_local_file_that_is_not_what_its_sha256_says_is_refused(tmp_path, key):
    file = tmp_path / "table.parquet"
    file.write_text("one")
    right, wrong = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))

    def params(digest):
        uri = f"{file}#sha256={digest}"
        named = {"dataset": uri, "prior": f"table:{uri}", "priors": ["none", f"table:{uri}"]}
        return {"dataset": "sim://screen", "pretrained": "random://tiny", key: named[key]}

    assert str(pinned(params(right.upper()))[key]).count(f"{file}#sha256={right}") == 1
    for digest in (wrong, "12"):
        with pytest.raises(InputError, match="sha256"):
            pinned(params(digest))


def test_a_changed_pretrained_folder_changes_what_the_cache_sees(tmp_path):
    (tmp_path / "best_model.pt").write_text("one")
    params = {"pretrained": str(tmp_path), "prior": "none"}
    first = state_of_inputs(params)
    (tmp_path / "best_model.pt").write_text("two")
    assert state_of_inputs(params) != first


@pytest.mark.parametrize("key", ["prior", "priors"])
def test_a_changed_folder_of_a_prior_changes_what_the_cache_sees(tmp_path, key):
    (tmp_path / "screen").mkdir()
    (tmp_path / "screen" / "cells.h5ad").write_text("one")
    prior = f"concat(random:8, effects:{tmp_path / 'screen'})"
    params = {"pretrained": "random://tiny", key: prior if key == "prior" else ["none", prior]}
    first = state_of_inputs(params)
    (tmp_path / "screen" / "cells.h5ad").write_text("two")
    assert state_of_inputs(params) != first


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"expresion": "log1p"}, "'expresion' is not an option, nearest: 'expression'"),
        ({2: "log1p"}, "'2' is not an option"),
        ({"expression": ["log1p"]}, "expected a value of type str"),
        ({"expression": True}, "expected a value of type str"),
        ({"obs_filter": "x"}, "expected a value of type dict"),
    ],
)
def test_a_bad_option_is_one_line(given, says):
    with pytest.raises(InputError, match=says):
        checked_options(INGEST_OPTIONS, given, name="ingest_options")


OWN = (PARAMS / "own-data.yaml").read_text()


def test_the_file_for_own_data_says_the_recipes_own_settings():
    commented = re.findall(r"^#  (\w+): (\S+) +#", OWN, re.M)
    said = yaml.safe_load("\n".join(f"{name}: {value}" for name, value in commented))
    recipe = load_recipe("default", {})
    assert len(said) > 5
    assert said == {name: getattr(recipe, name) for name in said}
    assert read_params(PARAMS / "own-data.yaml", [])["overrides"] == {}


def test_every_parameter_in_the_file_for_own_data_has_a_comment():
    lines = OWN.splitlines()
    for number, line in enumerate(lines):
        if line and line[0].isalpha():
            assert lines[number - 1].startswith("#"), line


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_placeholder_is_refused_by_a_clear_line(path):
    given = read_params(path, [])
    waiting = [name for name, value in given.items() if "your-" in str(value)]
    if waiting:
        with pytest.raises(InputError, match=r"only holds? a place") as raised:
            check_early(given)
        assert str(raised.value).startswith(f"{waiting[0]}: 'your-")
        assert all(f"{name}=<yours>" in str(raised.value) for name in waiting)


def test_the_file_for_own_data_runs_once_its_places_are_filled():
    filled = [
        "dataset=sim://screen?cells=800",
        "train_lines=[k562, jurkat]",
        "test_line=rpe1",
        "pretrained=random://tiny",
    ]
    check_early(read_params(PARAMS / "own-data.yaml", filled))


def test_a_path_through_a_link_is_what_it_leads_to_before_the_run_moves_the_link(tmp_path):
    (tmp_path / "first" / "published").mkdir(parents=True)
    (tmp_path / "latest").symlink_to("first")
    told = without_links(str(tmp_path / "latest" / "published"))
    assert told == str((tmp_path / "first" / "published").resolve())
    for other in ("none", "", 3, ["a"], "gs://b/c", str(tmp_path / "no" / "such"), "x" * 5000):
        assert without_links(other) == other


@pytest.mark.parametrize("name", ["four-lines", "compare-four-lines", "reference-none"])
def test_a_file_that_needs_what_only_some_have_says_what_to_give_instead(name, monkeypatch):
    params = read_params(PARAMS / f"{name}.yaml", ["dataset=nowhere.h5ad"])
    with pytest.raises(InputError) as error, telling_instead(Path(name)):
        check_early(params)
    assert "random://tiny" in str(error.value) or "model zoo" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_of_another_kind_is_told_as_it_is():
    with pytest.raises(InputError, match=r"a whole number$"), telling_instead(Path("four-lines")):
        check_settings(read_params(PARAMS / "demo.yaml", ["seed=-1"]))


def test_a_file_in_a_folder_that_is_not_there_is_not_the_projects_own_of_its_name(tmp_path):
    with pytest.raises(InputError, match="no such parameter file"):
        read_params(tmp_path / "gone" / "demo.yaml", [])
    demo = read_params(PARAMS / "demo.yaml", [])
    for name in ("demo", "demo.yaml", "pipelines/params/demo.yaml"):
        assert read_params(Path(name), []) == demo
