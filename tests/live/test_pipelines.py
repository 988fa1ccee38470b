"""The compiled pipelines on a cluster that runs: what they make there, and what they survive."""

import csv
import hashlib
import io
import json
import math
from typing import Any

import pytest
import yaml

from pipelines.package import Package
from pipelines.scheduling import USER
from pipelines.upload import manual, upload
from tests.live.cluster import (
    ACCOUNT,
    PRIORITY_CLASS,
    Finished,
    Live,
    asks_read_only,
    differences,
    say,
    until,
)
from tests.live.conftest import STAMP, package_of, screen
from tests.live.pods import (
    Pod,
    Wanted,
    cached,
    effective_user,
    last_of,
    of_tasks,
    ran,
    read_only,
    wrong_with,
)

TABLES = ("results.csv", "agg_results.csv", "summary.csv")
BAD_PRIOR = "efects"
MISSING = "table:nowhere.parquet"
"""A prior that is well written, so that `check` lets it pass, but is not there."""


def output(done: Finished, task: str, name: str) -> str:
    """Return the URI of what a task wrote."""
    return last_of(done.pods, task).outputs[name]


def text_of(live: Live, uri: str) -> str:
    return live.artifact(uri).decode()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def states(done: Finished) -> str:
    return ", ".join(f"{task.name} {task.state}" for task in done.told.tasks())


def assert_succeeded(done: Finished) -> None:
    assert done.state == "SUCCEEDED", states(done)


class TestDemo:
    def test_it_succeeds_and_nothing_comes_from_the_cache(
        self, demo: Finished, package: Package
    ) -> None:
        say(", ".join(f"{pod.task} {pod.seconds:.0f} s" for pod in of_tasks(demo.pods)))
        assert_succeeded(demo)
        assert ran(demo.pods) == package.tasks

    def test_what_it_published_is_in_the_store_whole(self, live: Live, demo: Finished) -> None:
        published = output(demo, "publish", "published")
        files = json.loads(live.artifact(f"{published}/provenance.json"))["files"]
        say(f"{published}: {len(files)} files")
        assert {"best_model.pt", "eval/report.html", "predictions/effects.parquet"} <= set(files)
        for name in ("README.md", "eval/results.csv", "best_model.pt"):
            content = live.artifact(f"{published}/{name}")
            assert hashlib.sha256(content).hexdigest() == files[name]["sha256"], name

    def test_report_card_and_metrics_are_in_the_store(self, live: Live, demo: Finished) -> None:
        page = text_of(live, output(demo, "evaluate", "report"))
        card = text_of(live, output(demo, "publish", "card"))
        model = json.loads(live.artifact(output(demo, "evaluate", "metrics")))["model"]
        numbers = {name: value for name, value in model.items() if value is not None}
        say(f"report of {len(page)} characters, {len(numbers)} metrics: {numbers}")
        assert page.lstrip().lower().startswith("<!doctype html")
        assert card.strip()
        assert math.isfinite(numbers["pearson_delta"])


class TestAnotherPrior:
    @pytest.fixture(scope="class")
    def other(
        self, live: Live, package: Package, params: dict[str, Any], demo: Finished
    ) -> Finished:
        assert_succeeded(demo)
        given = params | {"prior": "random:8"}
        return live.finish(live.start(package, "another prior", given), 20)

    def test_what_the_prior_does_not_touch_comes_from_the_cache_and_the_rest_runs(
        self, other: Finished, package: Package
    ) -> None:
        kept = cached(other.pods, package.tasks)
        say(f"from the cache: {', '.join(sorted(kept))}; ran: {', '.join(sorted(ran(other.pods)))}")
        assert_succeeded(other)
        assert kept == {"ingest", "split"}
        assert ran(other.pods) == package.tasks - kept


class TestBadParameter:
    @pytest.fixture(scope="class")
    def refused(self, live: Live, package: Package, params: dict[str, Any]) -> Finished:
        return live.finish(live.start(package, "bad", params | {"prior": BAD_PRIOR}), 10)

    def test_check_fails_within_a_minute_and_is_not_tried_again(self, refused: Finished) -> None:
        checks = [pod for pod in of_tasks(refused.pods) if pod.task == "check"]
        say(f"check failed after {[pod.seconds for pod in checks]} s; {states(refused)}")
        assert refused.state == "FAILED"
        assert len(checks) == 1 and checks[0].phase == "Failed"
        assert 0 < checks[0].seconds < 60
        assert ran(refused.pods) == {"check", "conclude"}

    def test_conclude_says_what_failed_why_and_how_to_go_on(
        self, live: Live, refused: Finished
    ) -> None:
        page = text_of(live, output(refused, "conclude", "outcome"))
        say(" / ".join(line for line in page.splitlines() if line.strip())[:300])
        assert "Task `check` failed" in page
        assert f"prior '{BAD_PRIOR}' is unknown" in page
        assert "How to continue" in page


class TestLostPod:
    @pytest.fixture(scope="class")
    def disturbed(
        self, live: Live, package: Package, params: dict[str, Any], demo: Finished
    ) -> Finished:
        """A run like the demo, but that its fine-tune's pod is deleted after a checkpoint."""
        assert_succeeded(demo)
        run_id = live.start(package, "lost pod", params, anew="finetune")

        def training() -> list[Pod]:
            pods = of_tasks(live.kubectl.pods(run_id))
            return [pod for pod in pods if pod.task == "finetune" and pod.running]

        [pod] = until(training, 10, "the fine-tune's pod")
        line = live.kubectl.line_of(pod, "finetune: checkpoint epoch-")
        assert line, "the fine-tune ended before its first checkpoint"
        live.kubectl("delete", "pod", pod.name, "--wait=false")
        say(f"deleted {pod.name} after: {line}")
        return live.finish(run_id, 20)

    def test_another_pod_goes_on_from_the_checkpoint(self, live: Live, disturbed: Finished) -> None:
        assert_succeeded(disturbed)
        pod = last_of(disturbed.pods, "finetune")
        lines = [line for line in live.kubectl.log(pod).splitlines() if "going on from" in line]
        say(f"{pod.name}, try {pod.try_ + 1}: {lines}")
        assert pod.try_ == 1 and lines

    def test_it_ends_with_the_very_metrics_of_a_run_that_nothing_disturbed(
        self, live: Live, demo: Finished, disturbed: Finished
    ) -> None:
        assert {"finetune", "predict", "evaluate"} <= ran(disturbed.pods)
        folders = [output(done, "publish", "published") for done in (demo, disturbed)]
        found = {
            name: differences(*(text_of(live, f"{folder}/eval/{name}") for folder in folders))
            for name in TABLES
        }
        digests = [
            json.loads(live.artifact(f"{folder}/provenance.json"))["files"]["best_model.pt"]
            for folder in folders
        ]
        alike = "the same" if digests[0] == digests[1] else "not the same"
        say(f"differences: { ({name: len(lines) for name, lines in found.items()}) }")
        say(f"best_model.pt is {alike} to the bit")
        assert not any(found.values()), {name: lines[:5] for name, lines in found.items()}


class TestPublishedModel:
    def test_it_predicts_a_line_of_which_there_are_controls_alone(
        self, live: Live, params: dict[str, Any], demo: Finished
    ) -> None:
        assert_succeeded(demo)
        given = {
            "model": output(demo, "publish", "published"),
            "dataset": f"{params['dataset']}&controls_only={params['test_line']}",
            "cell_line": params["test_line"],
        }
        done = live.finish(live.start(package_of("predict-line"), "predict line", given), 15)
        assert_succeeded(done)
        published = output(done, "publish", "published")
        rows = rows_of(text_of(live, f"{published}/predictions/perturbations.csv"))
        say(f"{len(rows)} perturbations predicted: {published}")
        assert rows
        assert "no perturbed cell" in text_of(live, f"{published}/README.md")


class TestComparison:
    def test_a_prior_that_fails_is_told_as_missing_and_the_other_is_compared(
        self, live: Live
    ) -> None:
        given = {
            "dataset": screen(1200, 80, 16),
            "train_lines": ["k562", "jurkat", "hepg2"],
            "test_line": "rpe1",
            "pretrained": "random://tiny",
            "priors": ["none", MISSING],
            "seeds": [0, 1],
            "recipe": "smoke",
            "overrides": {"epochs": 1},
        }
        run_id = live.start(package_of("compare-priors"), "2 priors x 2 seeds", given)
        done = live.finish(run_id, 25)
        assert_succeeded(done)
        rows = rows_of(text_of(live, f"{output(done, 'compare', 'comparison')}/runs.csv"))
        say(
            "; ".join(
                f"{row['prior']}, seed {row['seed']}: {row['failed_in'] or 'done'}" for row in rows
            )
        )
        assert len(rows) == 4
        for row in rows:
            missing = row["prior"] == MISSING
            assert row["failed_in"] == ("prior" if missing else "")
            assert bool(row["pearson_delta"]) != missing
        summary = text_of(live, output(done, "compare", "summary"))
        assert [f"Missing: {MISSING}, seed {seed}" in summary for seed in (0, 1)] == [True, True]


class TestRecurringRun:
    def test_it_starts(self, live: Live, package: Package, params: dict[str, Any]) -> None:
        recurring = live.start_every_minute(package, "every minute", params)
        [run_id, *_] = until(lambda: live.runs_of(recurring), 5, "a run of the recurring run")
        live.client.disable_recurring_run(recurring)
        pods = until(lambda: live.kubectl.pods(run_id), 5, "its first pod")
        state = live.told(run_id).run.get("state")
        say(f"run {run_id} is {state}; its first pod: {pods[0].name}")
        assert state != "FAILED"
        assert pods[0].told["spec"].get("serviceAccountName") == ACCOUNT


class TestUpload:
    @pytest.mark.parametrize("name", ["scgpt-perturb", "compare-priors", "predict-line"])
    def test_it_shows_its_manual(self, live: Live, name: str) -> None:
        package = package_of(name)
        made = upload(live.client, package, f"live-{STAMP}-{name}")
        live.pipeline_ids.append(made.pipeline_id)
        version = live.client.get_pipeline_version(made.pipeline_id, made.version_id)
        say(f"{version.display_name}: {(version.description or '')[:100]!r}…")
        assert made.new
        assert version.description == manual(package)
        assert live.client.get_pipeline(made.pipeline_id).description == manual(package)
        assert not upload(live.client, package, f"live-{STAMP}-{name}").new


class TestPods:
    def test_every_pod_was_as_it_has_to_be(self, live: Live) -> None:
        """Stands last: of every run that is over."""
        text = live.kubectl("get", "configmap", "workflow-controller-configmap", "-o", "json")
        config = json.loads(text).get("data", {})
        asked = asks_read_only(yaml.safe_load(config.get("mainContainer", "")) or {})
        wanted = Wanted(USER, ACCOUNT, PRIORITY_CLASS, read_only=asked)
        pods = [pod for done in live.finished for pod in of_tasks(done.pods)]
        users = {effective_user(pod) for pod in pods} - {None}
        say(
            f"{len(pods)} pods; processes ran as {users or 'what Kubernetes does not tell'}; "
            f"read-only root {'asked for' if asked else 'not asked for'}, "
            f"in {sum(map(read_only, pods))}"
        )
        assert pods
        assert [line for pod in pods for line in wrong_with(pod, wanted)] == []
