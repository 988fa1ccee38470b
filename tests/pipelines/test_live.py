"""What the live suite concludes from what KFP, Kubernetes and Argo tell; it needs no cluster."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp_server_api import ApiException

from pipelines.cluster import connect
from pipelines.package import read_package
from pipelines.submit import COMPILED
from tests.live.cluster import Kubectl, Live, asks_read_only, differences, until
from tests.live.pods import (
    Pod,
    Wanted,
    cached,
    effective_user,
    last_of,
    of_tasks,
    pods_in,
    ran,
    wrong_with,
)
from tests.pipelines.kfp_server import Kfp, Look, serving

ROOT = Path(__file__).resolve().parents[2]
CPU = COMPILED / "scgpt-perturb-cpu.yaml"
WORKFLOW = "scgpt-perturb-x7k2p"
ABOVE = f"{WORKFLOW}.root.exit-handler-1"
WRAPPED = f"{WORKFLOW}(0).root(0).exit-handler-1(0)"
STORE = "minio://mlpipeline/v2/artifacts/scgpt-perturb/run-0/publish/5d1f/published"
WANTED = Wanted(10001, "scgpt-perturb", "scgpt-perturb")
PARAMS = {
    "dataset": "sim://screen",
    "train_lines": ["k562"],
    "test_line": "rpe1",
    "pretrained": "random://tiny",
}


def executor_input(**uris: str) -> str:
    """Return what KFP's launcher gets, as protojson writes it."""
    kind = {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}
    artifacts = {
        name: {"artifacts": [{"type": kind, "uri": uri, "metadata": {}}]}
        for name, uri in uris.items()
    }
    outputs = {"artifacts": artifacts, "outputFile": "/tmp/kfp_outputs/output_metadata.json"}
    return json.dumps({"inputs": {"parameterValues": {"seed": 0}}, "outputs": outputs})


def pod(node: str, phase: str = "Succeeded", minute: int = 0, **uris: str) -> dict[str, Any]:
    """Return a pod as Kubernetes 1.34 tells it, started by Argo 4.0 for KFP 2.17, in short."""
    launcher = ["/var/run/argo/argoexec", "emissary", "--loglevel", "info", "--"]
    launcher += ["/kfp-launcher/launch", "--pipeline_name", "scgpt-perturb", "--run_id", "run-0"]
    launcher += ["--executor_input", executor_input(**uris), "--component_spec", "{}"]
    user = {"runAsGroup": 10001, "runAsNonRoot": True, "runAsUser": 10001}
    times = {
        "startedAt": f"2026-11-29T10:{minute:02}:05Z",
        "finishedAt": f"2026-11-29T10:{minute:02}:45Z",
    }
    over = {"terminated": {"exitCode": 0, "reason": "Completed", **times}}
    return {
        "metadata": {
            "name": f"{WORKFLOW}-system-container-impl-{abs(hash(node)) % 10**9}",
            "creationTimestamp": f"2026-11-29T10:{minute:02}:00Z",
            "labels": {"pipeline/runid": "run-0", "workflows.argoproj.io/workflow": WORKFLOW},
            "annotations": {"workflows.argoproj.io/node-name": node},
        },
        "spec": {
            "serviceAccountName": "scgpt-perturb",
            "priorityClassName": "scgpt-perturb",
            "containers": [
                {"name": "wait", "command": ["argoexec", "wait"], "securityContext": {}},
                {
                    "name": "main",
                    "command": launcher,
                    "args": ["--executor_input", "{{$}}", "--function_to_execute", "publish"],
                    "securityContext": user,
                },
            ],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [
                {"name": "wait", "state": over},
                {
                    "name": "main",
                    "state": {"running": {}} if phase == "Running" else over,
                    "user": {"linux": {"gid": 10001, "uid": 10001, "supplementalGroups": [10001]}},
                },
            ],
        },
    }


def listing(*pods: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(pods)})


def without(told: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """Return a copy that lacks one thing."""
    changed = copy.deepcopy(told)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


@pytest.mark.parametrize("above", [ABOVE, WRAPPED])
def test_a_pod_knows_its_task_and_whether_it_plans_or_runs_it(above):
    driver, executor = Pod(pod(f"{above}.split-driver")), Pod(pod(f"{above}.split.executor"))
    assert (driver.task, driver.runs_task) == ("split", False)
    assert (executor.task, executor.runs_task) == ("split", True)
    hook = Pod(pod(f"{above}.onExit.conclude.executor(0)"))
    assert (hook.task, hook.runs_task, hook.try_) == ("conclude", True, 0)
    again = Pod(pod(f"{above}.finetune(0).executor(1)"))
    assert (again.task, again.runs_task, again.try_) == ("finetune", True, 1)


def test_a_pod_of_a_comparison_knows_its_round():
    around = f"{ABOVE}.for-loop-1.iteration-iterations(3:3).iteration-item"
    told = Pod(pod(f"{around}(0).prior(0).executor(0)"))
    assert (told.task, told.round) == ("prior", 3)
    assert Pod(pod(f"{ABOVE}.ingest.executor")).round is None


def test_what_a_pod_wrote_is_read_from_what_the_launcher_was_given():
    assert Pod(pod(f"{ABOVE}.publish.executor", published=STORE)).outputs == {"published": STORE}
    bare = without(pod(f"{ABOVE}.publish.executor"), "spec", "containers", 1, "command")
    assert Pod(bare).outputs == {}


def test_how_long_a_pod_took_is_from_its_making_to_the_end_of_its_task():
    assert Pod(pod(f"{ABOVE}.check.executor", "Failed")).seconds == 45
    running = Pod(pod(f"{ABOVE}.check.executor", "Running"))
    assert running.seconds == 0 and running.ended is None and running.running


def test_pods_come_oldest_first_and_those_of_others_are_left_out():
    other = without(pod("x"), "metadata", "annotations")
    pods = pods_in(listing(pod(f"{ABOVE}.b-driver", minute=5), other, pod(f"{ABOVE}.a-driver")))
    assert [one.task for one in pods] == ["a", "b"]


@pytest.mark.parametrize("above", [ABOVE, WRAPPED])
def test_what_was_planned_but_not_started_came_from_the_cache(above):
    tasks = ["check", "ingest", "split", "prior"]
    told = [pod(f"{WORKFLOW}.root-driver"), pod(f"{WORKFLOW}.root.exit-handler-1-driver")]
    told += [pod(f"{above}.{task}-driver") for task in tasks]
    told += [pod(f"{above}.{task}.executor") for task in ("check", "prior")]
    pods = pods_in(listing(*told))
    known = read_package(CPU).tasks
    assert ran(pods) == {"check", "prior"}
    assert cached(pods, known) == {"ingest", "split"}


def test_a_task_whose_planner_failed_did_not_come_from_the_cache():
    pods = pods_in(listing(pod(f"{ABOVE}.ingest-driver", "Failed")))
    assert cached(pods, ["ingest"]) == set()


def test_the_last_try_of_a_task_is_found_by_its_round():
    around = f"{ABOVE}.for-loop-1.iteration-iterations"
    told = [pod(f"{ABOVE}.finetune.executor({number})") for number in (0, 1)]
    told += [pod(f"{around}({number}:{number}).iteration-item.prior.executor") for number in (0, 1)]
    pods = pods_in(listing(*told))
    assert last_of(pods, "finetune").try_ == 1
    assert last_of(pods, "prior", 1).round == 1
    with pytest.raises(LookupError, match=r"no pod of prior$"):
        last_of(pods, "prior")
    with pytest.raises(LookupError, match="no pod of prior in round 2"):
        last_of(pods, "prior", 2)


def test_nothing_is_wrong_with_a_pod_that_is_as_it_has_to_be():
    told = pod(f"{ABOVE}.check.executor")
    assert wrong_with(Pod(told), WANTED) == []
    assert effective_user(Pod(told)) == 10001
    before_1_31 = without(told, "status", "containerStatuses", 1, "user")
    assert wrong_with(Pod(before_1_31), WANTED) == []
    assert effective_user(Pod(before_1_31)) is None


def of_the_pod(told: dict[str, Any]) -> None:
    del told["spec"]["containers"][1]["securityContext"]
    told["spec"]["securityContext"] = {"runAsUser": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (of_the_pod, "user 0 (asked for); expected 10001"),
        (
            lambda told: told["status"]["containerStatuses"][1]["user"]["linux"].update(uid=0),
            "user 0 (ran as); expected 10001",
        ),
        (
            lambda told: told["spec"].update(serviceAccountName="pipeline-runner"),
            "service account pipeline-runner; expected scgpt-perturb",
        ),
        (lambda told: told["spec"].pop("priorityClassName"), "priority class None; expected"),
    ],
)
def test_what_is_wrong_with_a_pod_is_told_with_its_task(change, says):
    told = pod(f"{ABOVE}.check.executor")
    change(told)
    [line] = wrong_with(Pod(told), WANTED)
    assert says in line and line.startswith("check (")


def test_a_pod_without_any_user_is_told():
    told = pod(f"{ABOVE}.check.executor")
    of_the_pod(told)
    del told["spec"]["securityContext"], told["status"]["containerStatuses"][1]["user"]
    assert ["no user; expected 10001" in line for line in wrong_with(Pod(told), WANTED)] == [True]


def test_a_root_file_system_has_to_be_read_only_where_that_is_asked():
    told = pod(f"{ABOVE}.check.executor")
    wanted = Wanted(10001, "scgpt-perturb", "scgpt-perturb", read_only=True)
    [line] = wrong_with(Pod(told), wanted)
    assert "can be written to" in line
    told["spec"]["containers"][1]["securityContext"]["readOnlyRootFilesystem"] = True
    assert wrong_with(Pod(told), wanted) == []
    assert asks_read_only({"securityContext": {"readOnlyRootFilesystem": True}})
    assert not asks_read_only({"resources": {}}) and not asks_read_only({})


def test_tables_are_compared_cell_by_cell_to_the_letter():
    table = "metric,model\npearson_delta,0.25\nmae,0.1\n"
    assert differences(table, table) == []
    assert differences(table, table.replace("0.25", "0.250000001")) == [
        "row 1, model: 0.25 and 0.250000001"
    ]
    assert differences(table, "metric,model\npearson_delta,0.25\n") == [
        "3 and 2 rows, or other columns"
    ]
    assert differences(table, table.replace("model", "mean")) == ["3 and 3 rows, or other columns"]


class TestWaiting:
    def test_the_first_answer_that_is_not_empty_is_returned(self):
        answers, slept = iter([[], [], ["there"]]), list[float]()
        assert until(lambda: next(answers), 1, "it", sleep=slept.append) == ["there"]
        assert slept == [3.0, 3.0]

    def test_there_is_an_end_to_it(self):
        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds

        with pytest.raises(TimeoutError, match="the fine-tune's pod: not in 2 minutes"):
            until(list, 2, "the fine-tune's pod", poll=50, clock=lambda: now[0], sleep=sleep)
        assert now[0] == 150


KUBECTL = """#!{python}
import json, sys
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "no-such-pod" in sys.argv:
    sys.exit('Error from server (NotFound): pods "no-such-pod" not found')
if "--follow" in sys.argv:
    print("finetune: checkpoints in minio://mlpipeline/x: after each epoch", flush=True)
    print("finetune: checkpoint epoch-0001-step-000000-ab, 0.1 s", flush=True)
    sys.stdin.read()  # until it is ended, as one that follows is
print(open({answer!r}).read(), end="")
"""


@pytest.fixture
def kubectl(tmp_path, monkeypatch) -> Path:
    """A folder with what kubectl answers, and with what it was called with."""
    command = tmp_path / "kubectl"
    calls, answer = str(tmp_path / "calls"), str(tmp_path / "answer")
    command.write_text(KUBECTL.format(python=sys.executable, calls=calls, answer=answer))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "answer").write_text(listing(pod(f"{ABOVE}.finetune.executor(0)", "Running")))
    return tmp_path


def calls_in(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_kubectl_is_asked_on_the_context_that_was_given(kubectl):
    [found] = Kubectl("kind-kind", "runs").pods("run-0")
    assert found.task == "finetune" and found.running
    asked = "--context kind-kind -n runs get pods -l pipeline/runid=run-0 -o json"
    assert calls_in(kubectl) == [asked.split()]
    Kubectl("", "runs").pods("run-0")
    assert "--context" not in calls_in(kubectl)[1]


def test_a_log_is_followed_to_the_line_and_no_further(kubectl):
    ask = Kubectl("", "runs")
    [found] = ask.pods("run-0")
    line = ask.line_of(found, "finetune: checkpoint epoch-")
    assert line == "finetune: checkpoint epoch-0001-step-000000-ab, 0.1 s"


def test_what_kubectl_says_of_an_error_is_told(kubectl):
    with pytest.raises(AssertionError, match=r'pods "no-such-pod" not found'):
        Kubectl("", "runs")("delete", "pod", "no-such-pod")


def live_at(kfp: Kfp) -> Live:
    return Live.at(kfp.url, "", "kubeflow", "live-1")


def test_a_run_is_started_with_our_service_account_and_waited_for(kubectl, capsys):
    package = read_package(CPU)
    (kubectl / "answer").write_text(listing(pod(f"{ABOVE}.publish.executor", published=STORE)))
    with serving(Kfp([Look("SUCCEEDED", {"publish": "SUCCEEDED"})])) as kfp:
        kfp.artifacts[f"{STORE}/README.md"] = b"# A card"
        live = live_at(kfp)
        done = live.finish(live.start(package, "demo", PARAMS), 1)
        assert live.artifact(f"{last_of(done.pods, 'publish').outputs['published']}/README.md")
        with pytest.raises(ApiException):
            live.artifact(f"{STORE}/nothing")
    [sent] = kfp.runs
    assert sent["service_account"] == "scgpt-perturb"
    assert sent["runtime_config"]["parameters"] == PARAMS
    assert (done.state, done.minutes) == ("SUCCEEDED", 90)
    assert live.finished == [done] and len(of_tasks(done.pods)) == 1
    assert "SUCCEEDED after 90.0 minutes" in capsys.readouterr().out


def test_a_run_without_pods_is_one_of_another_cluster(kubectl):
    (kubectl / "answer").write_text(listing())
    with serving(Kfp()) as kfp:
        live = live_at(kfp)
        run_id = live.start(read_package(CPU), "demo", PARAMS)
        with pytest.raises(AssertionError, match="is CONTEXT the cluster of HOST"):
            live.finish(run_id, 1)


def test_one_task_alone_can_be_kept_from_the_cache():
    with serving(Kfp()) as kfp:
        live_at(kfp).start(read_package(CPU), "lost pod", PARAMS, anew="finetune")
    components = kfp.runs[0]["pipeline_spec"]["pipeline_spec"]["components"]
    tasks = components["comp-exit-handler-1"]["dag"]["tasks"]
    cached_ones = {name for name, task in tasks.items() if task["cachingOptions"]}
    assert cached_ones == {"check", "ingest", "split", "prior", "predict", "evaluate"}


def test_all_that_was_made_is_taken_away_even_what_a_recurring_run_started(kubectl):
    with serving(Kfp([Look("RUNNING")])) as kfp:
        live = live_at(kfp)
        live.start(read_package(CPU), "demo", PARAMS)
        recurring = live.start_every_minute(read_package(CPU), "every minute", PARAMS)
        kfp.listed += [
            {"run_id": "of-recurring", "recurring_run_id": recurring},
            {"run_id": "another", "recurring_run_id": ""},
        ]
        live.pipeline_ids.append("pipeline-0")
        left = live.clean()
    api = "/apis/v2beta1"
    deleted = [request for request in kfp.requests if request.startswith("DELETE")]
    assert deleted == [
        f"DELETE {api}/runs/run-0",
        f"DELETE {api}/runs/of-recurring",
        f"DELETE {api}/recurringruns/{recurring}",
        f"DELETE {api}/pipelines/pipeline-0",
        f"DELETE {api}/experiments/experiment-0",
    ]
    disabled = kfp.requests.index(f"POST {api}/recurringruns/{recurring}:disable")
    assert disabled < kfp.requests.index(f"POST {api}/runs/run-0:terminate")
    # The stand-in does not know the run that it lists, so how it goes cannot be asked.
    assert len(left) == 1 and left[0].startswith("end run of-recurring")


def test_what_cannot_be_taken_away_is_told_and_keeps_nothing_else():
    with serving(Kfp()) as kfp:
        live = Live(connect(kfp.url), Kubectl("", "kubeflow"), "kubeflow", "experiment-0")
        live.run_ids = ["gone"]
        left = live.clean()
    assert len(left) == 1 and "Run gone not found" in left[0]
    assert kfp.requests[-1].startswith("DELETE /apis/v2beta1/experiments/")


def test_without_a_cluster_the_suite_is_skipped_with_how_to_run_it():
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("LIVE_")}
    command = [sys.executable, "-m", "pytest", "tests/live", "-rs"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ skipped", done.stdout) and "passed" not in done.stdout
    assert "make test-live HOST=" in done.stdout
    assert "--ignore tests/live" in (ROOT / "Makefile").read_text()
