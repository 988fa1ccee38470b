"""Submitting with KFP's real client, and its real command line, to a server that speaks its API."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp.cli.utils.parsing import parse_parameter_value

from components.shared.telling.errors import InputError
from pipelines import waiting, watch
from pipelines.cluster import connect
from pipelines.package import read_package
from pipelines.run import PARAMS, read_params
from pipelines.submit import PACKAGE, check_visible, main, on_command_line
from tests.pipelines.kfp_server import BARE_AGAIN, CUT, SIGN_IN_PAGE, Kfp, Look, pod_of, serving

ROOT = Path(__file__).resolve().parents[2]
KFP_CLI = Path(sys.executable).parent / "kfp"
RETRIED = f"metadata-1-1-{BARE_AGAIN}"
"""Argo's template of the fine-tune's pod, which has the queue's label."""
RUNNING = Look("RUNNING", {"ingest": "RUNNING"})
SUCCEEDED = Look("SUCCEEDED", {"ingest": "SUCCEEDED", "publish": "SUCCEEDED"})
FAILED = Look("FAILED", {"ingest": "SUCCEEDED", "finetune": "FAILED"})
IN_A_BUCKET = {
    "reference-none": ["pretrained=gs://bucket/scgpt_human"],
    "reference-none-k562": ["pretrained=gs://bucket/scgpt_human"],
    "reference-esm2": ["pretrained=gs://bucket/scgpt_human"],
    "predict-line": ["model=gs://bucket/model", "dataset=gs://bucket/controls.h5ad"],
    "own-data": [
        "dataset=gs://bucket/screens.h5ad",
        "pretrained=gs://bucket/scgpt_human",
        "train_lines=[k562, jurkat]",
    ],
    "four-lines": [
        "dataset=gs://bucket/screens.h5ad",
        "pretrained=random://tiny?vocabulary=gs://bucket/vocab.json",
    ],
    "compare-four-lines": [
        "dataset=gs://bucket/screens.h5ad",
        "pretrained=random://tiny?vocabulary=gs://bucket/vocab.json",
        "priors=[none, 'annotation:gs://bucket/gene2go.parquet']",
    ],
}
"""What is given in place of a parameter file's own local files, and of what it leaves open."""


def submit(kfp: Kfp, *more: str, of: str = "demo") -> int | str | None:
    """Return the exit code of submitting the demo."""
    try:
        return main([of, "--host", kfp.url, "--poll", "0.01", *more])
    except SystemExit as ended:
        return ended.code


def submit_comparison(kfp: Kfp, *more: str) -> int | str | None:
    """Return the exit code of submitting the demo of a comparison, not watched."""
    try:
        return main(["compare-demo", "--host", kfp.url, "--detach", *more])
    except SystemExit as ended:
        return ended.code


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_a_run_that_succeeds_is_watched_to_its_end(capsys):
    looks = [Look("PENDING"), RUNNING, RUNNING, Look("RUNNING", {"ingest": "SUCCEEDED"}), SUCCEEDED]
    with serving(Kfp(looks)) as kfp:
        assert submit(kfp, "--run", "first", "--experiment", "mine") == 0
        link = f"{kfp.url}/#/runs/details/run-0"
    said = capsys.readouterr().out
    assert [line.split()[1:] for line in lines_with(said, "  ingest ")] == [
        ["ingest", "RUNNING"],
        ["ingest", "SUCCEEDED", "in", "0:02:05"],
    ]
    assert "run 'first': SUCCEEDED after 1:30:00" in said
    assert len(lines_with(said, link)) == 2  # at the start and at the end
    assert "driver" not in said and "executor" not in said


def test_a_comparison_that_outgrows_a_workflow_is_told_before_it_starts(capsys):
    seeds = f"seeds={list(range(20))}"
    with serving(Kfp()) as kfp:
        assert submit_comparison(kfp, "priors=[none, 'random:8']", seeds) == 0
        [note] = lines_with(capsys.readouterr().out, "note: 40 runs make a workflow of ")
        assert re.search(r"about (29|3\d) runs that are not in the cache", note)
        assert submit_comparison(kfp, "priors=[none, 'random:8']") == 0
        assert "make a workflow of" not in capsys.readouterr().out


def test_a_comparison_that_no_task_could_take_is_not_submitted(capsys):
    with serving(Kfp()) as kfp:
        assert submit_comparison(kfp, f"seeds={list(range(40))}") == 1
        assert kfp.runs == []
    assert "160 runs make an argument of " in capsys.readouterr().err


def test_what_is_sent_is_typed_and_names_experiment_and_service_account():
    with serving(Kfp()) as kfp:
        assert submit(kfp, "--experiment", "mine", "seed=3", "test_line=0123") == 0
        assert submit(kfp, "--experiment", "mine", "--service-account", "other") == 0
    assert [one["display_name"] for one in kfp.experiments] == ["mine"]
    assert kfp.experiments[0]["namespace"] == "kubeflow"
    first, second = kfp.runs
    params = read_params(PARAMS / "demo.yaml", ["seed=3", "test_line=0123"])
    assert first["runtime_config"]["parameters"] == params
    assert first["service_account"] == "scgpt-perturb"
    assert second["service_account"] == "other"


@pytest.mark.parametrize("message", ["", "finetune: error:\nno GPU"])
def test_a_failed_run_names_the_task_where_its_log_is_and_how_to_resume(capsys, message):
    look = Look("FAILED", FAILED.tasks, message)
    with serving(Kfp([RUNNING, look])) as kfp:
        assert submit(kfp, "--namespace", "runs") == 1
    said = capsys.readouterr().out
    assert "FAILED after 1:30:00" in said
    assert f"finetune: {'error: no GPU' if message else 'failed; its log says why'}" in said
    assert "kubectl logs -n runs -l pipeline/runid=run-0 " in said
    assert "with checkpoints=<" in said and "finished tasks are not done again" in said


def test_a_failed_run_shows_the_tasks_own_last_line(capsys):
    why = "check: error: prior 'efects' is unknown, nearest: 'effects'"
    kfps = "I1129 02:00:09.1 23 launcher_v2.go:195] publish.\nError: exit status 1\n"
    with serving(Kfp([Look("FAILED", {"check": "FAILED"})])) as kfp:
        kfp.logs[pod_of("check")] = f"{kfps}check: some words\n{why}\n{kfps}"
        assert submit(kfp) == 1
    said = capsys.readouterr().out
    assert lines_with(said, "efects") == [f"  {why}"]
    assert said.count("check: error") == 1


def test_the_task_that_checks_a_grid_is_named_once(capsys):
    with serving(Kfp([Look("FAILED", {"check-grid": "FAILED"})])) as kfp:
        kfp.logs[pod_of("check-grid")] = "check: error: seeds: is empty\n"
        assert submit(kfp, of="compare-demo") == 1
    assert "\n  check-grid: error: seeds: is empty\n" in capsys.readouterr().out


def test_a_retried_task_shows_the_line_of_its_last_try(capsys):
    with serving(Kfp([Look("FAILED", FAILED.tasks, tries={"finetune": 2})])) as kfp:
        pods = [pod_of("finetune", template=RETRIED, tail=f"({number})") for number in (0, 1)]
        kfp.logs |= {pods[0]: "finetune: error: the first", pods[1]: "finetune: error: the second"}
        assert submit(kfp) == 1
    said = capsys.readouterr().out
    assert "  finetune: error: the second\n" in said and "the first" not in said


def test_a_run_that_succeeded_shows_what_came_of_it(capsys):
    with serving(Kfp([SUCCEEDED])) as kfp:
        kfp.logs[pod_of("publish")] = "publish: result: In pearson_delta the model beats `mean`.\n"
        assert submit(kfp) == 0
    assert "\n  In pearson_delta the model beats `mean`.\n" in capsys.readouterr().out


def test_the_tasks_of_a_comparison_are_told_by_their_run_and_each_state_once(capsys):
    first = [{"prior": "SUCCEEDED", "finetune": "RUNNING"}, {"prior": "RUNNING"}]
    then = [{"prior": "SUCCEEDED", "finetune": "SUCCEEDED"}, {"prior": "SUCCEEDED"}]
    last = [*then, {"prior": "SUCCEEDED", "finetune": "FAILED"}]
    done = {"check-grid": "SUCCEEDED"}
    looks = [Look("RUNNING", done, rounds=one) for one in (first, first, then, then, last)]
    failed = Look("FAILED", done, rounds=last, tries={"finetune": 1})
    with serving(Kfp([*looks, failed])) as kfp:
        pod = pod_of("finetune", round=2, template=RETRIED, tail="(0)")
        kfp.logs[pod] = "finetune: error: killed"
        assert submit(kfp, "priors=[none, 'random:8']", "seeds=[0, 7]", of="compare-demo") == 1
    said = capsys.readouterr().out.partition("FAILED after")
    lines = [
        line.split("  ", 1)[1] for line in said[0].splitlines() if "(" in line and ":0" in line
    ]
    assert sorted(" ".join(line.split()) for line in lines if "RUNNING:" not in line) == [
        "finetune (none, seed 0) RUNNING",
        "finetune (none, seed 0) SUCCEEDED in 0:02:05",
        "finetune (random:8, seed 0) FAILED in 0:02:05",
        "prior (none, seed 0) SUCCEEDED in 0:02:05",
        "prior (none, seed 7) RUNNING",
        "prior (none, seed 7) SUCCEEDED in 0:02:05",
        "prior (random:8, seed 0) SUCCEEDED in 0:02:05",
    ]
    assert "  finetune (random:8, seed 0): error: killed" in said[2]


UNPLACED = {
    "status": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
            }
        ],
    }
}
UNPULLED = {
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [
            {
                "state": {
                    "waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image x"}
                }
            }
        ],
    }
}


@pytest.mark.parametrize(
    ("pod", "events", "says"),
    [
        (UNPLACED, [], "Unschedulable 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        (UNPULLED, [], "ImagePullBackOff Back-off pulling image x"),
        (
            {"status": {"phase": "Pending"}},
            [{"message": "MountVolume.SetUp failed"}],
            "MountVolume.SetUp failed",
        ),
        ({"status": {"phase": "Pending"}}, [], "Kubernetes does not say why"),
    ],
)
def test_a_pod_that_waits_is_told_once_with_why_and_how_to_look(
    capsys, monkeypatch, pod, events, says
):
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    look = Look("RUNNING", {"prior": "RUNNING"}, pending=["prior"])
    with serving(Kfp([look, look, look, SUCCEEDED])) as kfp:
        name = pod_of("prior")
        kfp.pods[name] = pod
        kfp.events[name] = events
        assert submit(kfp, "--namespace", "runs") == 0
    [line] = lines_with(capsys.readouterr().out, "waits")
    assert f"prior: its pod waits: {says}; kubectl describe pod -n runs {name}" in line


def test_a_pod_that_waits_is_told_where_the_host_does_not_know_it(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    look = Look("RUNNING", {"prior": "RUNNING"}, pending=["prior"])
    planned = Look("RUNNING", {"prior": "SUCCEEDED", "ingest": ""}, planning=["ingest"])
    with serving(Kfp([look, look, planned, planned, SUCCEEDED])) as kfp:
        assert submit(kfp) == 0
    first, second = lines_with(capsys.readouterr().out, "waits")
    assert "a pod of prior waits; kubectl get pods -n kubeflow -l pipeline/runid=run-0" in first
    assert "the pod that plans ingest waits; kubectl get pods" in second


def test_a_pod_that_runs_is_not_said_to_wait(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    with serving(Kfp([RUNNING, RUNNING, RUNNING, SUCCEEDED])) as kfp:
        kfp.pods[pod_of("ingest")] = {"status": {"phase": "Running"}}
        assert submit(kfp) == 0
    assert not lines_with(capsys.readouterr().out, "waits")
    assert kfp.requests.count("GET /k8s/pod") == 1


def test_nothing_waits_in_the_first_two_minutes(capsys):
    look = Look("RUNNING", {"prior": "RUNNING"}, pending=["prior"])
    with serving(Kfp([look, look, SUCCEEDED])) as kfp:
        assert submit(kfp) == 0
    assert not lines_with(capsys.readouterr().out, "waits")
    assert "GET /k8s/pod" not in kfp.requests


@pytest.mark.parametrize(
    ("of", "assignment", "name"),
    [
        ("demo", "prior=random:8", "random:8, rpe1, 20"),
        ("demo", f"prior=table:gs://bucket/{'x' * 80}.parquet", "table:gs://bucket/xxx"),
        ("compare-demo", "priors=[none, effects]", "2 priors, rpe1, 20"),
    ],
)
def test_a_run_is_named_by_prior_line_and_time(of, assignment, name):
    with serving(Kfp()) as kfp:
        assert submit(kfp, assignment, "--detach", of=of) == 0
    assert kfp.runs[0]["display_name"].startswith(name)
    assert ", rpe1, 20" in kfp.runs[0]["display_name"] and len(kfp.runs[0]["display_name"]) < 100


def test_a_run_that_names_its_checkpoints_is_resumed_by_submitting_the_same(capsys):
    with serving(Kfp([FAILED])) as kfp:
        assert submit(kfp, "checkpoints=gs://bucket/checkpoints") == 1
    said = capsys.readouterr().out
    assert "or submit the same again: finished" in said and "resumes from its checkpoint" in said


def test_a_cancelled_run_is_a_failure(capsys):
    with serving(Kfp([RUNNING, Look("CANCELING"), Look("CANCELED")])) as kfp:
        assert submit(kfp) == 1
    assert "CANCELED" in capsys.readouterr().out


def test_an_api_that_is_away_for_a_while_is_asked_again(capsys):
    looks = [RUNNING, 503, 502, *[CUT] * 4, 500, 429, SUCCEEDED]
    with serving(Kfp(looks)) as kfp:
        assert submit(kfp) == 0
    told = lines_with(capsys.readouterr().out, "asking again")
    assert len(told) == 1 and "answered 503: no healthy upstream" in told[0]


@pytest.mark.parametrize("expired", [401, SIGN_IN_PAGE])
def test_an_expired_token_is_renewed_by_signing_in_anew(expired):
    with serving(Kfp([RUNNING, expired, RUNNING, expired, SUCCEEDED])) as kfp:
        assert submit(kfp) == 0
    assert kfp.requests.count("GET /apis/v2beta1/healthz") == 3


@pytest.mark.parametrize(("look", "says"), [(401, "401"), (403, "403"), (404, "404")])
def test_an_answer_that_waiting_does_not_change_ends_the_watch(capsys, look, says):
    with serving(Kfp([RUNNING, look])) as kfp:
        assert submit(kfp) == 1
    error = capsys.readouterr().err
    assert says in error and "the run itself continues" in error


def test_an_api_that_stays_away_ends_the_watch_but_not_the_run():
    with serving(Kfp([503])) as kfp:
        assert submit(kfp, "--detach") == 0
        client, progress = connect(kfp.url), watch.Progress(read_package(PACKAGE))
        with pytest.raises(InputError, match=r"answered 503.*the run itself continues"):
            watch.follow(client, kfp.url, "run-0", progress, poll=0.01, patience=0.1)


def test_detached_returns_right_after_the_link(capsys):
    with serving(Kfp([503])) as kfp:
        assert submit(kfp, "--detach") == 0
    assert kfp.requests[-1] == "POST /apis/v2beta1/runs"
    assert capsys.readouterr().out.splitlines()[-1].endswith("/#/runs/details/run-0")


def test_interrupting_stops_the_watch_and_says_that_the_run_goes_on():
    with serving(Kfp([RUNNING])) as kfp:
        command = [sys.executable, "-m", "pipelines.submit", "demo", "--host", kfp.url]
        with subprocess.Popen(
            [*command, "--poll", "0.1"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if "ingest" in line and "RUNNING" in line:
                    break
            process.send_signal(signal.SIGINT)
            said = process.stdout.read()
    assert process.returncode == 130
    assert "stopped watching; the run continues" in said
    assert not [request for request in kfp.requests if "terminate" in request]


def test_what_runs_is_told_now_and_then_when_nothing_changes(capsys, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LINES", 0.0)
    with serving(Kfp([RUNNING, RUNNING, SUCCEEDED])) as kfp:
        assert submit(kfp) == 0
    assert lines_with(capsys.readouterr().out, "RUNNING: ingest")


def test_on_a_terminal_one_line_says_what_runs_and_is_written_over(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with serving(Kfp([RUNNING, RUNNING, SUCCEEDED])) as kfp:
        assert submit(kfp) == 0
    last = capsys.readouterr().out.rpartition("RUNNING: ingest")[2]
    assert last.startswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("always", "says"),
    [
        (401, "gcloud auth"),
        (403, "port-forward"),
        (404, "HOST is the address of KFP's UI"),
        (503, "answered 503"),
        (SIGN_IN_PAGE, "not as Kubeflow Pipelines does"),
    ],
)
def test_a_host_that_does_not_serve_is_told_in_one_line(capsys, always, says):
    with serving(Kfp(always=always)) as kfp:
        assert submit(kfp) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "says"),
    [("localhost:8080", "expected https://"), ("", "expected https://"), (None, "cannot be reach")],
)
def test_a_host_that_is_not_there_is_told_in_one_line(capsys, caplog, host, says):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert submit(Kfp(url=nobody if host is None else host)) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not caplog.records


def test_an_address_copied_from_the_browser_will_do():
    with serving(Kfp()) as kfp:
        assert submit(Kfp(url=f"{kfp.url}/#/experiments")) == 0


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("seeed=3", "nearest: 'seed'"),
        ("recipe=refernce", "allowed: default, reference, smoke"),
        ("dataset=screens.h5ad", "dataset=screens.h5ad: is on this machine"),
        ("dataset=file:///data/screens.h5ad", "is on this machine"),
        ("prior=esm2.parquet", "prior=esm2.parquet: is on this machine"),
        ("pretrained=models/scgpt_human", "pretrained=models/scgpt_human: is on this machine"),
        ("pretrained=random://tiny?vocabulary=vocab.json", "pretrained=vocab.json: is on this"),
        ("split_options.split_file=split.toml", "split_options.split_file=split.toml: is on"),
        ("checkpoints=runs/checkpoints", "checkpoints=runs/checkpoints: is on this machine"),
        ("publish_to=published", "publish_to=published: is on this machine"),
        ("checkpoints=hf://me/mine", "checkpoints=hf://me/mine: expected gs://"),
        ("publish_to=https://host/x", "publish_to=https://host/x: expected gs://"),
        ("split_options.val_fraction=.nan", "cannot be sent"),
        ("ingest_options.obs_filter={day: 2024-01-01}", "cannot be sent"),
        ("split_options.val_frac=0.2", "'val_frac' is not an option, nearest: 'val_fraction'"),
        ("train_lines=[no]", "False is not the name of a cell line; put names in quotes"),
        ("seed=-1", "seed=-1: expected 0 or more"),
    ],
)
def test_a_parameter_a_cluster_cannot_use_is_refused_before_anything_is_sent(
    capsys, assignment, says
):
    with serving(Kfp()) as kfp:
        assert submit(kfp, assignment) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not kfp.requests


@pytest.mark.parametrize(
    "remote",
    [
        ["dataset=https://host/screens.h5ad", "publish_to=hf://owner/name"],
        ["prior=gs://bucket/esm2.parquet", "publish_to=gs://bucket/a", "checkpoints=gs://bucket/b"],
        ["dataset=s3://bucket/x.h5ad", "publish_to=s3://bucket/a", "checkpoints=s3://bucket/b"],
        [
            "prior=minio://bucket/x.parquet",
            "publish_to=minio://bucket/a",
            "checkpoints=minio://bucket/b",
        ],
    ],
)
def test_what_a_cluster_can_see_passes(remote):
    check_visible(read_params(PARAMS / "demo.yaml", remote))


def edited(path: Path, edit) -> Path:
    """Write the compiled pipeline to ``path`` after ``edit`` changed its pipeline spec."""
    documents = list(yaml.safe_load_all(PACKAGE.read_text()))
    edit(documents[0])
    path.write_text(yaml.safe_dump_all(documents))
    return path


def with_digests(spec: dict) -> None:
    for name, executor in spec["deploymentSpec"]["executors"].items():
        image = f"ghcr.io/owner/{name}@sha256:{'0' * 64}"
        executor["container"]["image"] = image


def test_the_package_of_a_release_runs_its_own_images(tmp_path, capsys):
    release = edited(tmp_path / "release.yaml", with_digests)
    with serving(Kfp()) as kfp:
        assert submit(kfp) == 0
        assert "note: images without digest" in capsys.readouterr().out
        assert submit(kfp, "--package", str(release)) == 0
        assert "note:" not in capsys.readouterr().out
    spec = kfp.runs[1]["pipeline_spec"]["pipeline_spec"]
    images = {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values()}
    assert images == read_package(release).images
    assert all("@sha256:" in image for image in images)


def test_a_package_that_does_not_know_a_parameter_is_told_in_the_apis_words(tmp_path, capsys):
    def without_seed(spec: dict) -> None:
        del spec["root"]["inputDefinitions"]["parameters"]["seed"]

    old = edited(tmp_path / "old.yaml", without_seed)
    with serving(Kfp()) as kfp:
        assert submit(kfp, "--package", str(old)) == 1
    error = capsys.readouterr().err
    assert "not required by pipeline: seed" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("none.yaml", None, "no such compiled pipeline"),
        ("p.txt", "x", "expected a compiled pipeline, a .yaml file"),
        ("p.yaml", "seed: 1", "not a compiled pipeline"),
        ("p.yaml", "a: [", "not a compiled pipeline"),
        ("p.yaml", "", "not a compiled pipeline"),
        ("p.yaml", "pipelineInfo: {name: x}", "not a compiled pipeline"),
    ],
)
def test_a_file_that_is_no_package_is_told_in_one_line(tmp_path, capsys, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert submit(Kfp(url="http://127.0.0.1:9"), "--package", str(tmp_path / name)) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_without_the_cache_no_task_is_cached_and_nothing_else_differs(tmp_path):
    with serving(Kfp()) as kfp:
        assert submit(kfp) == 0
        assert submit(kfp, "--no-cache") == 0
    usual, anew = (json.dumps(run["pipeline_spec"], sort_keys=True) for run in kfp.runs)
    assert '"enableCache": true' in usual and "enableCache" not in anew
    assert json.loads(anew) == json.loads(usual.replace('"enableCache": true', ""))


def test_the_tasks_of_sub_pipelines_count_and_the_sub_pipelines_do_not(tmp_path):
    def nested(spec: dict) -> None:
        spec["components"]["comp-all"] = {"dag": spec["root"].pop("dag")}
        spec["root"]["dag"] = {"tasks": {"all": {"componentRef": {"name": "comp-all"}}}}

    package = read_package(edited(tmp_path / "nested.yaml", nested))
    assert package.tasks == read_package(PACKAGE).tasks
    assert {"ingest", "finetune", "publish"} <= package.tasks


def test_a_recurring_run_is_typed_enabled_and_never_piles_up(capsys):
    with serving(Kfp()) as kfp:
        assert submit(kfp, "--cron", "0 0 3 * * *", "--run", "nightly", "--no-cache") == 0
    sent = kfp.recurring_runs[0]
    assert sent["runtime_config"]["parameters"] == read_params(PARAMS / "demo.yaml", [])
    assert sent["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (sent["mode"], sent["max_concurrency"], sent["no_catchup"]) == ("ENABLE", 1, True)
    assert sent["service_account"] == "scgpt-perturb"
    assert "enableCache" not in json.dumps(sent["pipeline_spec"])
    assert f"{kfp.url}/#/recurringrun/details/recurring-0" in capsys.readouterr().out
    assert not kfp.runs


def test_a_crontabs_five_fields_are_refused(capsys):
    assert submit(Kfp(url="http://127.0.0.1:9"), "--cron", "0 3 * * *") == 1
    assert "expected six" in capsys.readouterr().err


def run_kfp_cli(command: str) -> None:
    """Run a printed command as a shell would, with the environment's own kfp."""
    program, *arguments = shlex.split(command)
    assert program == "kfp"
    done = subprocess.run(
        [KFP_CLI, *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def printed_command(said: str) -> str:
    return next(line.strip() for line in said.splitlines() if line.startswith("  kfp "))


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_printed_command_sends_the_same_run(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assignments = IN_A_BUCKET.get(path.stem, [])
    line = "cell_line" if path.stem == "predict-line" else "test_line"
    awkward = ["control_label=null", f"{line}=0123", "perturbation_column=it's $HOME"]
    with serving(Kfp()) as kfp:
        arguments = [str(path), "--host", kfp.url, "--run", "a b", "--detach"]
        assert main([*arguments, *assignments, *awkward]) == 0
        run_kfp_cli(printed_command(capsys.readouterr().out))
    ours, theirs = kfp.runs
    assert theirs["runtime_config"] == ours["runtime_config"]
    assert theirs["runtime_config"]["parameters"] == read_params(path, [*assignments, *awkward])
    assert theirs["pipeline_spec"] == ours["pipeline_spec"]
    assert (theirs["display_name"], theirs["experiment_id"]) == ("a b", "experiment-0")


values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    values | st.sampled_from(["0123", "null", "true", "NaN", "1_0", " 7", '"x"', "[k562]", "1e5"])
)
def test_kfps_command_line_reads_back_what_was_written(value):
    read = parse_parameter_value(on_command_line(value))
    assert json.dumps(read) == json.dumps(value)


@pytest.mark.parametrize(
    "assignment",
    [
        "dataset=https://host/screens.h5ad?X-Goog-Signature=c0ffee",
        "dataset=https://me:c0ffee@host/screens.h5ad",
        "pretrained=random://tiny?vocabulary=https://host/v.json?sig=c0ffee",
        'split_options={split_file: "https://host/split.toml?sig=c0ffee"}',
    ],
)
def test_the_printed_command_keeps_the_secret_of_an_address_to_itself(capsys, assignment):
    with serving(Kfp()) as kfp:
        assert submit(kfp, assignment, "--detach") == 0
    name = assignment.partition("=")[0]
    assert "c0ffee" in json.dumps(kfp.runs[0]["runtime_config"]["parameters"][name])
    said = capsys.readouterr().out
    assert "c0ffee" not in said and f"{name}=" in said and "https://host/" in said


def test_whether_a_target_may_be_written_is_for_the_clusters_credentials_to_say(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(Kfp()) as kfp:
        assert submit(kfp, "publish_to=hf://owner/name", "--detach") == 0


def test_a_quotation_without_its_end_is_one_line(capsys):
    with serving(Kfp()) as kfp:
        assert submit(kfp, "--assign", "test_line=it's") == 1
    error = capsys.readouterr().err
    assert "No closing quotation" in error and error.count("\n") == 1
