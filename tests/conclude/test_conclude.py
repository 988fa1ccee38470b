"""How a run ended, what came of it or what failed, and how to continue: here and on a cluster."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from components.conclude import kfp_api
from components.conclude.conclude import PAGES, conclude
from components.shared.findings.results import tell_result
from components.shared.telling.kfp_run import own_last_line
from pipelines.compile import FOLDER
from tests.pipelines.kfp_server import AGAIN, BARE_AGAIN, Kfp, Look, executors_of, pod_of, serving

WHY = "finetune: error: gpus=1: PyTorch 2.9 sees no GPU; give gpus=0"
LOG = f"""\
time="2026-11-29T02:00:00.000Z" level=info msg="capturing logs" argo=true
I1129 02:00:00.123456      23 launcher_v2.go:187] publish success.
[KFP Executor 2026-11-29 02:00:01,000 INFO]: Looking for component `finetune` in /tmp/x.py
[KFP Executor 2026-11-29 02:00:01,000 INFO]: Got executor_input:
{{
    "inputs": {{"parameterValues": {{"gpus": 1}}}}
}}
finetune: 12 of 40 genes have a prior
{WHY}
I1129 02:00:09.123456      23 launcher_v2.go:195] publish success.
F1129 02:00:09.234567      23 main.go:57] failed to execute component: exit status 1
time="2026-11-29T02:00:09.000Z" level=info msg="sub-process exited" argo=true error="<nil>"
Error: exit status 1
"""
"""What KFP's launcher, its executor, our task and Argo write into one log."""


def said(tmp_path: Path, *arguments: str) -> str:
    conclude(*arguments, tmp_path / "run" / "conclude" / "outcome")
    return (tmp_path / "run" / "conclude" / "outcome").read_text()


@pytest.fixture
def in_a_pod(monkeypatch):
    """Return a function that lets this process see a server's KFP as a pod does."""
    monkeypatch.setattr(kfp_api, "SECONDS_TO_REPORT", 0.0)

    def of(kfp: Kfp, file: str = "scgpt-perturb-cpu.yaml") -> None:
        url = urlsplit(kfp.url)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        for service in ("ML_PIPELINE", "ML_PIPELINE_UI"):
            monkeypatch.setenv(f"{service}_SERVICE_HOST", str(url.hostname))
            monkeypatch.setenv(f"{service}_SERVICE_PORT", str(url.port))
        spec, platform = yaml.safe_load_all((FOLDER / file).read_text())
        sent = {"pipeline_spec": spec, "platform_spec": platform}
        kfp.runs.append({"display_name": "a run", "pipeline_spec": sent})

    return of


def test_a_run_on_this_machine_that_succeeded_says_what_came_of_it(tmp_path: Path, capsys) -> None:
    for task, result in (("compare", "It helps."), ("publish-best", "Mean pearson_delta 0.5.")):
        folder = tmp_path / "run" / task / "made"
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text(json.dumps({"summary": {"result": result}}))
    text = said(tmp_path, "SUCCEEDED", "", "run-1", "")
    assert text.startswith("# Run succeeded\n\n`run-1`\n")
    assert "- It helps.\n- Mean `pearson_delta` 0.5.\n" in text
    assert "fail" not in text and "Retry" not in text
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_on_this_machine_that_failed_speaks_of_no_cluster(tmp_path, state: str) -> None:
    text = said(tmp_path, state, "task finetune\nfailed", "run-1", "")
    assert text.startswith(f"# Run {state.lower()}\n")
    assert "task finetune failed" in text and "same command again" in text
    assert "kubectl" not in text and "Retry" not in text
    assert "handler" not in said(tmp_path, state, "Task exit-handler-1 failed.", "run-1", "")


@pytest.mark.parametrize("state", ["COMPLETE", "CACHED"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_on_a_cluster_a_success_tells_verdict_and_numbers(
    tmp_path, in_a_pod, capsys, state, wrapped
):
    look = Look("RUNNING", {"evaluate": "SUCCEEDED", "publish": "SUCCEEDED"}, wrapped=wrapped)
    tell_result("publish", "In pearson_delta the model beats `mean_delta`.\nMeans: mae_delta 0.1.")
    told = capsys.readouterr().out
    with serving(Kfp([look])) as kfp:
        in_a_pod(kfp)
        of = {"publish": LOG.replace(WHY, told), "evaluate": LOG}
        kfp.logs = {pod: of[task.removesuffix("(0)")] for pod, task in executors_of(look).items()}
        text = said(tmp_path, state, "", "run-0", "")
    assert text == (
        "# Run succeeded\n\n`run-0`\n\n"
        "- In `pearson_delta` the model beats `mean_delta`.\n- Means: `mae_delta` 0.1.\n"
        "\n## Where to look\n\nClick the box `run` of the graph, then a task in it:\n\n"
        "- `evaluate`: `report`, every metric beside its baselines and the ceiling; `explorer`, to "
        "look up a gene\n"
        "- `publish`: `card`, the model card; `published`, the folder with all files\n"
    )


@pytest.mark.parametrize("package", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_pages_that_conclude_names_are_outputs_of_their_tasks(package) -> None:
    spec, _ = yaml.safe_load_all(package.read_text())
    outputs = {
        name.removeprefix("comp-"): component["outputDefinitions"]["artifacts"]
        for name, component in spec["components"].items()
        if "artifacts" in component.get("outputDefinitions", {})
    }
    for task in PAGES.keys() & outputs.keys():
        assert set(re.findall("`([a-z]+)`", PAGES[task])) <= outputs[task].keys()
    assert {"compare", "evaluate", "publish"} & outputs.keys()


def test_on_a_cluster_a_comparison_tells_what_the_comparison_came_to(tmp_path, in_a_pod) -> None:
    done = {"finetune": "SUCCEEDED"}
    tasks = {"check-grid": "SUCCEEDED", "compare": "SUCCEEDED", "publish-best": "SUCCEEDED"}
    with serving(Kfp([Look("RUNNING", tasks, rounds=[done, done])])) as kfp:
        in_a_pod(kfp, "compare-priors-cpu.yaml")
        kfp.logs[pod_of("compare")] = "compare: result: No evidence that a prior helps."
        kfp.logs[pod_of("publish-best")] = "publish: result: Published: none."
        text = said(tmp_path, "COMPLETE", "", "run-0", "")
    assert "- No evidence that a prior helps.\n- Published: none.\n" in text


def test_on_a_cluster_a_failure_names_the_task_and_its_own_line(tmp_path, in_a_pod) -> None:
    look = Look("RUNNING", {"ingest": "SUCCEEDED", "finetune": "FAILED"}, tries={"finetune": 2})
    with serving(Kfp([look])) as kfp:
        in_a_pod(kfp)
        kfp.logs[pod_of("finetune", template=AGAIN, tail="(0)")] = "lost"
        kfp.logs[pod_of("finetune", template=AGAIN, tail="(1)")] = LOG
        text = said(tmp_path, "FAILED", "", "run-0", "gs://bucket/checkpoints")
    assert text.startswith("# Run failed\n\n`run-0`\n")
    assert f"Task `finetune` failed:\n\n```\n{WHY}\n```\n" in text
    assert "checkpoints=gs://bucket/checkpoints\n" in text
    assert "Retry" in text and "Clone run" in text and "this page then stays as it is" in text
    assert "kubectl" not in text


def test_the_pod_of_a_task_with_labels_of_its_own_is_found(tmp_path, in_a_pod) -> None:
    look = Look("RUNNING", {"finetune": "FAILED"}, tries={"finetune": 1})
    with serving(Kfp([look])) as kfp:
        in_a_pod(kfp, "scgpt-perturb.yaml")
        spec = kfp.runs[0]["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
        about = spec["deploymentSpec"]["executors"]["exec-finetune"]["podMetadata"]
        marks = f"metadata-{len(about.get('annotations', {}))}-{len(about['labels'])}-"
        kfp.logs[pod_of("finetune", template=f"{marks}{BARE_AGAIN}", tail="(0)")] = LOG
        assert WHY in said(tmp_path, "FAILED", "", "run-0", "")


def test_a_failure_whose_log_is_not_to_be_had_names_the_task_and_where_to_look(tmp_path, in_a_pod):
    with serving(Kfp([Look("RUNNING", {"ingest": "FAILED"})])) as kfp:
        in_a_pod(kfp)
        text = said(tmp_path, "FAILED", "", "run-0", "")
    assert "Task `ingest` failed; why is in its log." in text
    assert "-l pipeline/runid=run-0 " in text
    assert "checkpoints=<what the log of finetune names" in text


@pytest.mark.parametrize("state", ["COMPLETE", "FAILED"])
def test_a_cluster_that_does_not_answer_is_told_in_one_sentence(tmp_path, in_a_pod, state) -> None:
    with serving(Kfp(always=503)) as kfp:
        in_a_pod(kfp)
        text = said(tmp_path, state, "", "run-0", "")
    assert text.count("could not be reached from here, or did not answer") == 1
    assert ("Retry" in text) == (state == "FAILED")


def test_the_api_is_asked_again_until_it_has_heard_of_the_failure(tmp_path, in_a_pod, monkeypatch):
    looks = [Look("RUNNING", {"ingest": "RUNNING"}), Look("RUNNING", {"ingest": "FAILED"})]
    with serving(Kfp([*looks])) as kfp:
        in_a_pod(kfp)
        monkeypatch.setattr(kfp_api, "SECONDS_TO_REPORT", 30.0)
        assert "Task `ingest` failed" in said(tmp_path, "FAILED", "", "run-0", "")


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (LOG, WHY),
        ("Traceback (most recent call last):\n  File x\nValueError: odd\nexit status 1\n", None),
        ("", ""),
    ],
)
def test_a_tasks_own_line_is_none_of_kfps(log: str, line: str | None) -> None:
    assert own_last_line(log, "finetune") == ("ValueError: odd" if line is None else line)
