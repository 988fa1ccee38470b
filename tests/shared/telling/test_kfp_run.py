"""Tasks and pods of a run, found among nodes that do not tell their own ids."""

import pytest

from components.shared.telling.kfp_run import Run, fnv, own_last_line, templates_of
from pipelines.compile import FOLDER, PROFILES, documents
from tests.pipelines.kfp_server import BARE_AGAIN, WORKFLOW, Look, nodes, pod_of

TASKS = {"check-grid": "SUCCEEDED", "ingest": "SUCCEEDED", "conclude": "RUNNING"}
ROUNDS = [{"prior": "SUCCEEDED", "finetune": "RUNNING"}, {"prior": "FAILED"}, {"prior": ""}]


def run_of(look: Look) -> Run:
    return Run({"run_id": "run-0", "run_details": {"task_details": list(nodes(look))}})


def test_the_hash_is_fnv_1a():
    assert (fnv(""), fnv("a"), fnv("foobar")) == (0x811C9DC5, 0xE40C292C, 0xBF9CF968)
    assert fnv("bar", fnv("foo")) == fnv("foobar")


@pytest.mark.parametrize("wrapped", [False, True])
def test_each_task_is_found_once_with_its_round(wrapped):
    run = run_of(Look("RUNNING", TASKS, rounds=ROUNDS, wrapped=wrapped))
    assert run.workflow == WORKFLOW
    assert {(task.name, task.round, task.state) for task in run.tasks()} == {
        ("check-grid", None, "SUCCEEDED"),
        ("ingest", None, "SUCCEEDED"),
        ("conclude", None, "RUNNING"),
        ("prior", 0, "SUCCEEDED"),
        ("finetune", 0, "RUNNING"),
        ("prior", 1, "FAILED"),
        ("prior", 2, ""),
    }
    assert len({id(task.detail) for task in run.tasks()}) == len(run.tasks()) == 7
    assert run.failed_names() == ["prior"]


def test_a_comparison_of_nine_priors_and_five_seeds_is_read_at_once():
    rounds = [dict.fromkeys(("prior", "finetune", "predict", "evaluate"), "RUNNING")] * 45
    tasks = run_of(Look("RUNNING", TASKS, rounds=rounds, wrapped=True)).tasks()
    assert [task.round for task in tasks if task.name == "evaluate"] == list(range(45))


def test_the_pod_of_the_last_try_comes_first():
    run = run_of(Look("FAILED", {"finetune": "FAILED"}, tries={"finetune": 2}))
    [task] = run.tasks()
    ours = [pod for pod in run.pods(task) if BARE_AGAIN in pod]
    assert ours == [
        pod_of("finetune", template=BARE_AGAIN, tail=f"({number})") for number in (1, 0)
    ]


def retried(spec: dict, name: str) -> bool:
    dags = [part["dag"]["tasks"] for part in spec["components"].values() if "dag" in part]
    return any("retryPolicy" in tasks.get(name, {}) for tasks in dags)


@pytest.mark.parametrize("name", PROFILES)
def test_the_template_of_a_pod_follows_from_the_compiled_pipeline(name):
    spec, platform = documents(FOLDER / name)
    sent = {"pipeline_spec": spec, "platform_spec": platform}
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label in executors:
        task = label.removeprefix("exec-")
        about = executors[label].get("podMetadata")
        counts = [len((about or {}).get(what, {})) for what in ("annotations", "labels")]
        marks = f"metadata-{counts[0]}-{counts[1]}-" if about else ""
        again = "retry-" if retried(spec, task) else ""
        assert templates_of(sent, task) == [f"{marks}{again}system-container-impl"]


def test_a_run_whose_nodes_tell_no_ids_has_no_tasks_but_names_what_failed():
    details = [{"display_name": name} for name in ("root", "ingest-driver")]
    details.append({"display_name": "ingest", "state": "FAILED"})
    run = Run({"run_details": {"task_details": details}})
    assert run.tasks() == [] and run.failed_names() == ["ingest"]
    assert Run({}).tasks() == [] and Run({}).failed_names() == []


def test_a_task_whose_detail_is_not_there_yet_is_left_out():
    look = Look("RUNNING", {"ingest": "RUNNING", "split": "RUNNING"})
    details = list(nodes(look))
    [own] = [task.detail for task in run_of(look).tasks() if task.name == "split"]
    rest = [detail for detail in details if detail != own]
    run = Run({"run_id": "run-0", "run_details": {"task_details": rest}})
    assert [task.name for task in run.tasks()] == ["ingest"]


@pytest.mark.parametrize("tail", ["", "}\n", "time=2026-11-29T02:00:00Z level=INFO msg=x\n"])
def test_the_last_line_of_a_killed_task_is_its_own(tail):
    log = f"predict: reading\npredicting:  25%|##5       | 1.00k/4.00k\n{tail}"
    assert own_last_line(log, "predict") == "predicting:  25%|##5       | 1.00k/4.00k"
