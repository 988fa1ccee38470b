"""A comparison's size: the sum holds what is promised, and what users are told holds to the sum."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from components.check import bounds
from components.check.check import grid, repeat_comparison
from components.shared.telling.errors import InputError
from pipelines import compile as compiling
from tests.pipelines.argo_workflow import sweep

ROOT = Path(__file__).resolve().parents[2]
DEMO = yaml.safe_load((ROOT / "pipelines/params/compare-demo.yaml").read_text())
LARGE = DEMO | {
    "dataset": "hf://datasets/arcinstitute/State-Replogle-Filtered/replogle_concat.h5ad",
    "pretrained": "gs://some-bucket/models/scgpt_human",
    "recipe": "reference",
    "ingest_options": {"expression": "log1p", "batch_column": "gem_group"},
    "split_options": {"val_line": "k562", "val_fraction": 0.05, "halve_controls": False},
}
SMALL = DEMO | {"overrides": {}, "split_options": {}}
MARGIN = 1.25
"""Of what must fit, so that there is room to spare."""
COMPARISONS = [name for name in compiling.PROFILES if name.startswith("compare")]


def of(name, priors, seeds, given=DEMO, **more):
    return sweep(*compiling.documents(compiling.FOLDER / name), given, priors, seeds, **more)


@pytest.fixture(scope="module", params=COMPARISONS)
def nine_by_five(request):
    return of(request.param, 9, 5)


def test_nine_priors_at_five_seeds_fit_one_argument_of_every_task_with_room_to_spare(nine_by_five):
    assert set(nine_by_five.arguments) >= {"check-grid", "finetune", "compare", "publish-best"}
    assert max(nine_by_five.arguments.values()) * MARGIN < bounds.ARGUMENT


def test_every_evaluation_handed_to_the_task_that_publishes_one_would_not_fit_its_argument():
    spec, platform = compiling.documents(compiling.FOLDER / COMPARISONS[0])
    [tasks] = [
        component["dag"]["tasks"]
        for component in spec["components"].values()
        if "publish-best" in component.get("dag", {}).get("tasks", {})
    ]
    taken = tasks["publish-best"]["inputs"]["artifacts"]
    taken |= {"more": taken["models"], "still_more": taken["predictions"]}
    made = sweep(spec, platform, DEMO, 9, 5)
    assert made.arguments["publish-best"] * MARGIN > bounds.ARGUMENT


def test_the_source_of_a_task_in_its_command_would_be_more_than_users_are_told():
    spec, platform = compiling.documents(compiling.FOLDER / COMPARISONS[0])
    # no two lines are alike, as of a source
    lines = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(400))
    command = spec["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["command"]
    command[-1] += "".join(f"# {line}\n" for line in lines)
    made = sweep(spec, platform, DEMO, 9, 5)
    assert made.bytes > bounds.workflow_bytes(made.runs)


def test_nine_priors_at_five_seeds_fit_an_object_whose_node_status_is_offloaded(nine_by_five):
    assert nine_by_five.beside_nodes * 10 < bounds.WORKFLOW


def test_nine_priors_at_five_seeds_fit_in_two_goes_without_it():
    first = of("compare-priors.yaml", 7, 4)
    assert first.bytes < bounds.WORKFLOW
    assert of("compare-priors.yaml", 9, 5, cached=len(first.runs)).bytes < bounds.WORKFLOW


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("given", [DEMO, LARGE, SMALL], ids=["demo", "large", "small"])
@pytest.mark.parametrize(("priors", "seeds"), [(2, 2), (7, 4), (7, 10)])
def test_users_are_told_as_much_as_the_sum_or_a_little_more(name, given, priors, seeds):
    made = of(name, priors, seeds, given)
    repeat = repeat_comparison(made.parameters, "")
    told = bounds.workflow_bytes(made.runs), bounds.argument_bytes(made.runs, repeat)
    for said, sum_ in zip(told, (made.bytes, max(made.arguments.values())), strict=True):
        assert 1.0 <= said / sum_ < 1.25


def test_the_sum_has_a_pod_of_four_tasks_in_six_nodes_each_for_every_run():
    few, more = of(COMPARISONS[0], 1, 1), of(COMPARISONS[0], 1, 3)
    assert len(more.nodes) - len(few.nodes) == 2 * (4 * 6 + 6)
    tasks = set(few.arguments)
    assert len(tasks) == 10
    patched = [node for node in few.nodes.values() if "/kfp-launcher/launch" in json.dumps(node)]
    assert len(patched) == 6 * len(tasks)


def test_the_readme_says_the_sums():
    text = (ROOT / "manifests" / "README.md").read_text().replace(",", "")
    made = of("compare-priors.yaml", 9, 5)
    rows = re.findall(
        r"^\| (the object|one argument).*\| (\d+) bytes \| (\d+) \|", text, re.MULTILINE
    )
    sums = (made.bytes, made.beside_nodes, max(made.arguments.values()))
    limits = (bounds.WORKFLOW, bounds.WORKFLOW, bounds.ARGUMENT)
    assert [int(row[1]) for row in rows] == list(limits)
    assert [int(row[2]) for row in rows] == [pytest.approx(sum_, rel=0.05) for sum_ in sums]


def asked(priors, seeds):
    return DEMO | {"priors": priors, "seeds": list(range(seeds))}


def test_more_runs_than_one_argument_holds_are_refused_with_the_number_that_it_holds():
    with pytest.raises(InputError) as refused:
        grid(asked(["none", "random:8", "random:16"], 40), "", "")
    [most] = re.findall(
        r"120 runs make .* Linux takes 131072: about (\d+) runs", str(refused.value)
    )
    assert grid(asked(["none"], int(most) - 3), "", "")
    with pytest.raises(InputError):
        grid(asked(["none"], int(most) + 3), "", "")


def test_more_runs_than_the_object_holds_are_told_with_the_number_that_it_holds():
    assert bounds.room_in_workflow(grid(asked(["none", "random:8"], 10), "", "")) == ""
    note = bounds.room_in_workflow(grid(asked(["none", "random:8"], 20), "", ""))
    [most] = re.findall(r"^40 runs make a workflow of \d+ bytes.* about (\d+) runs", note)
    assert not bounds.room_in_workflow(grid(asked(["none"], int(most) - 1), "", ""))
    assert bounds.room_in_workflow(grid(asked(["none"], int(most) + 2), "", ""))
    assert "node status offloaded" in note and "\n" not in note
