"""Submit the compiled pipeline to a cluster, and watch the run to its end.

    python -m pipelines.submit --host https://… pipelines/params/demo.yaml seed=2

Parameters are read and checked as for a run on this machine, and are sent typed. KFP's own command
line reads `0123` as a number, names no service account, and ends with 0 when the run it watched
failed; the command that submits the same run with it is printed all the same, since a run that is
cloned in the UI to another version of the pipeline loses its parameters.
"""

import argparse
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

from kfp.cli.utils.parsing import parse_parameter_value
from kfp_server_api import V2beta1Run

from components.check.bounds import room_in_workflow
from components.check.check import grid
from components.shared.findings.results import results_of
from components.shared.parameters.conditions import check_sendable
from components.shared.parameters.prior_grammar import parse_prior
from components.shared.storage.buckets import FORMS, SCHEMES
from components.shared.storage.downloads import shown
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, one_line_errors, shortlist
from components.shared.telling.kfp_run import Run, Task, own_last_line
from pipelines.cluster import OTHER_PAGE, Client, bare_host, connect, one_line_api_errors
from pipelines.inputs import input_uris, is_comparison, is_prediction, priors_of
from pipelines.package import Package, read_package
from pipelines.run import assignments_in, check_settings, read_params
from pipelines.scheduling import ACCOUNT
from pipelines.waiting import one_line
from pipelines.watch import Progress, duration, failed_tasks, follow

COMPILED = Path(__file__).parent / "compiled"
PACKAGE = COMPILED / "scgpt-perturb.yaml"
COMPARISON = COMPILED / "compare-priors.yaml"
PREDICTION = COMPILED / "predict-line.yaml"
STOPPED_BY_USER = 130
LONGEST = 60
"""Characters of a prior or model in a run's name, which the UI shows in a column."""
WEB_ADDRESS = re.compile(r'(https?://)(?:[^/@\s"]*@)?([^\s"?]+)(\?)?[^\s"]*', re.IGNORECASE)
"""Perhaps inside JSON or another URI; what a user gave before the host, and the query, apart."""


def check_visible(params: Mapping[str, Any]) -> None:
    """Check that what parameters name can be seen from a cluster.

    Whether it may be read or written is for the cluster's own credentials to say.

    Raises:
        InputError: a path of this machine, or a target nothing can be published to.
    """
    named = input_uris(params) | {
        "checkpoints": [params.get("checkpoints", "")],
        "publish_to": [params.get("publish_to", "")],
    }
    for name, uri in ((name, uri) for name, found in named.items() for uri in found):
        if uri and scheme_of(uri) in ("", "file"):
            raise InputError(
                f"{name}={uri}: is on this machine, where the cluster's tasks cannot see it; "
                "copy it to a bucket and give its gs://… (or s3://, minio://, hf://, https://)"
            )
    place = params.get("checkpoints", "")
    if place and scheme_of(place) not in SCHEMES:
        raise InputError(f"checkpoints={shown(place)}: expected {FORMS}")
    target = params.get("publish_to", "")
    if target and scheme_of(target) not in (*SCHEMES, "hf"):
        raise InputError(f"publish_to={shown(target)}: expected {FORMS} or hf://owner/name")


def on_command_line(value: Any) -> str:
    """Return the text that KFP's command line reads as ``value``, its type included."""
    if isinstance(value, str):
        read = parse_parameter_value(value)
        if isinstance(read, str) and read == value:
            return value
    return json.dumps(value)


def printable(text: str) -> str:
    """Return ``text`` with no password and no query in its web addresses: both are secrets."""
    return WEB_ADDRESS.sub(lambda found: found[1] + found[2] + ("?…" if found[3] else ""), text)


def argument_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="submit", description="Submit the pipeline to a cluster and watch the run to its end."
    )
    add = parser.add_argument
    add("params", type=Path, help="YAML file of pipeline parameters, or its name")
    add("assignments", nargs="*", metavar="key=value")
    add("--assign", default="", help="more assignments, quoted as in a shell")
    add("--host", required=True, help="address of KFP's UI")
    add("--experiment", default="scgpt-perturb", help="made if there is none (%(default)s)")
    add("--run", default="", help="name of the run (prior, test line and time)")
    add("--package", type=Path, help="compiled pipeline, of a release or here")
    add("--namespace", default=ACCOUNT["namespace"], help="of the runs' pods (%(default)s)")
    add("--service-account", default=ACCOUNT["name"], help="of the runs' pods (%(default)s)")
    add("--no-cache", action="store_true", help="take no task from the cache")
    add("--cron", default="", help="run at these times: second minute hour day month weekday")
    add("--detach", action="store_true", help="do not watch the run")
    add("--poll", type=float, default=5.0, help="seconds between looks at the run (%(default)s)")
    return parser


class Submission:
    """One package and its parameters, on the way to one cluster."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read and check everything that needs no cluster."""
        self.arguments = arguments
        assignments = [*arguments.assignments, *assignments_in(arguments.assign)]
        self.params = read_params(arguments.params, assignments)
        check_sendable(self.params)
        check_visible(self.params)
        check_settings(self.params)
        check_cron(arguments.cron)
        others = COMPARISON if is_comparison(self.params) else PACKAGE
        usual = PREDICTION if is_prediction(self.params) else others
        self.package = read_package(arguments.package or usual)
        self.host = bare_host(arguments.host)
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        self.name = arguments.run or f"{brief(self.params)}, {now}"

    def start(self) -> int:
        """Create the run, watch it if that is wanted, and return the exit code."""
        print(f"submitting {os.path.relpath(self.package.path)} to {shown(self.host)}", flush=True)
        warn_of_tags(self.package)
        warn_of_size(self.params)
        with one_line_api_errors(self.host):
            client = connect(self.host)
            experiment_id = self._experiment(client)
            if self.arguments.cron:
                return self._create_recurring_run(client, experiment_id)
            run_id = self._create_run(client, experiment_id)
        print(self._how_to_repeat())
        print(f"run '{self.name}': {self.link('runs', run_id)}", flush=True)
        return 0 if self.arguments.detach else self._watch(client, run_id)

    def link(self, page: str, identifier: str) -> str:
        """Return the address of a page of the UI."""
        ui = os.environ.get("KF_PIPELINES_UI_ENDPOINT", self.host).rstrip("/")
        return f"{shown(ui)}/#/{page}/details/{identifier}"

    def _experiment(self, client: Client) -> str:
        name = self.arguments.experiment
        try:
            with redirect_stdout(io.StringIO()):  # the client prints a link of its own
                experiment = client.create_experiment(name, namespace=self.arguments.namespace)
        except ValueError as error:
            raise InputError(f"experiment '{name}': {error}") from None
        if not experiment.experiment_id:
            raise InputError(f"{shown(self.host)}: {OTHER_PAGE}; check HOST, or forward the port")
        return experiment.experiment_id

    def _create_run(self, client: Client, experiment_id: str) -> str:
        with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
            run = client.run_pipeline(experiment_id, self.name, **self._sent(Path(scratch)))
        return run.run_id

    def _create_recurring_run(self, client: Client, experiment_id: str) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            recurring = client.create_recurring_run(
                experiment_id,
                self.name,
                cron_expression=self.arguments.cron,
                # A run still on the GPU, or a cluster that was down, must not pile up others.
                max_concurrency=1,
                no_catchup=True,
                **self._sent(Path(scratch)),
            )
        link = self.link("recurringrun", recurring.recurring_run_id)
        print(f"recurring run '{self.name}' ({self.arguments.cron}): {link}")
        return 0

    def _sent(self, scratch: Path) -> dict[str, Any]:
        package = self.package
        if self.arguments.no_cache:
            package = package.without_caching(scratch / "package.yaml")
        account = self.arguments.service_account
        path = str(package.path)
        return {"pipeline_package_path": path, "params": self.params, "service_account": account}

    def _how_to_repeat(self) -> str:
        """Return the `kfp run create` command, quoted for a shell, that submits the same run.

        The query of a signed URL is left out, since whoever reads a log could use it.
        """
        given, package = self.arguments, os.path.relpath(self.package.path)
        command = ["kfp", "--endpoint", shown(self.host), "--namespace", given.namespace, "run"]
        command += ["create", "-e", given.experiment, "-r", self.name, "-f", package]
        for name, value in self.params.items():
            command.append(f"{name}={printable(on_command_line(value))}")
        return (
            "the same with KFP's command line (which takes the cluster's default service account):"
            f"\n  {shlex.join(command)}"
        )

    def _watch(self, client: Client, run_id: str) -> int:
        progress = Progress(self.package, runs_of(self.params), self.arguments.namespace)
        try:
            run = follow(client, self.host, run_id, progress, poll=self.arguments.poll)
        except KeyboardInterrupt:
            progress.end()
            print(
                f"stopped watching; the run continues, and its page can terminate it: "
                f"{self.link('runs', run_id)}"
            )
            return STOPPED_BY_USER
        print(self._conclusion(run, client, progress))
        return 0 if run.state == "SUCCEEDED" else 1

    def _conclusion(self, run: V2beta1Run, client: Client, progress: Progress) -> str:
        spent = duration(run.created_at, run.finished_at)
        lines = [f"run '{self.name}': {run.state}" + (f" after {spent}" if spent else "")]
        told = client.told(run)
        if run.state == "SUCCEEDED":
            results = results_of(told, client.page, self.arguments.namespace)
            lines += [f"  {line}" for line in results]
        else:
            if run.error and run.error.message:
                lines.append(f"  {one_line(run.error.message)}")
            failed = list(failed_tasks(told, self.package.tasks))
            for name, task, message in failed:
                label = progress.label(name, task.round if task else None)
                lines.append(f"  {label}: {self._why(told, client, name, task, message)}")
            # KFP's launcher writes most of a log, some of it below a task's own line.
            logs = (
                f"kubectl logs -n {self.arguments.namespace} -l pipeline/runid={run.run_id} "
                "-c main --tail=200 --prefix"
            )
            names = {name for name, _, _ in failed}
            lines += [f"  logs       {logs}", f"  to resume  {self._how_to_resume(names)}"]
        return "\n".join([*lines, f"  page       {self.link('runs', run.run_id)}"])

    def _why(self, told: Run, client: Client, name: str, task: Task | None, message: str) -> str:
        """Return the line that says why a task failed: the API's, or the last of its log."""
        if not message and task:
            log = told.said(task, client.page, self.arguments.namespace)
            message = own_last_line(log, name)
        line = one_line(printable(message)) or "failed; its log says why"
        return re.sub(r"^[a-z]+: (?=error: )", "", line)  # the stage, which stands before it

    def _how_to_resume(self, failed: Collection[str]) -> str:
        again, then = "press Retry on the run's page, or submit the same again", ""
        if "finetune" in failed:
            then = ", and finetune resumes from its checkpoint"
            if not self.params.get("checkpoints"):
                again += " with checkpoints=<the place that its log names>"
        return f"{again}: finished tasks are not done again{then}"


def runs_of(params: Mapping[str, Any]) -> list[str]:
    """Return what the runs of a comparison are called, in the order of its loop."""
    if not is_comparison(params):
        return []
    cells = grid(params, "", "")
    return [f"{parse_prior(cell['prior']).shown}, seed {cell['seed']}" for cell in cells]


def brief(params: Mapping[str, Any]) -> str:
    """Return what a run is about, for its name: prior (or how many, or model) and test line."""
    if is_prediction(params):
        what, line = f"predict by {shown(params['model'])}", params.get("cell_line", "")
    elif is_comparison(params):
        what, line = f"{len(priors_of(params))} priors", params["test_line"]
    else:
        what, line = parse_prior(priors_of(params)[0]).shown, params["test_line"]
    what = what if len(what) <= LONGEST else f"{what[:LONGEST]}…"
    return ", ".join(filter(None, [what, line]))


def check_cron(cron: str) -> None:
    """Check the number of fields of a cron expression, which KFP counts from the second.

    It takes the five of a crontab too, but reads the minute as the second, and so on.
    """
    fields = len(cron.split())
    if cron and not cron.startswith("@") and fields != 6:
        raise InputError(
            f"cron '{cron}': {fields} fields; expected six, second minute hour day month weekday: "
            "'0 0 3 * * *' is every night at three"
        )


def warn_of_tags(package: Package) -> None:
    """Say which images a cluster would have to know by a tag."""
    by_tag = sorted(image for image in package.images if "@sha256:" not in image)
    if by_tag:
        print(
            f"note: images without digest: {shortlist(by_tag, 2)}; the cluster must be able to "
            "pull them, and KFP's cache takes a tag for the image it once was"
        )


def warn_of_size(params: Mapping[str, Any]) -> None:
    """Say whether a comparison has more runs than Argo's object of a workflow holds."""
    if is_comparison(params):
        note = room_in_workflow(grid(params, "", params.get("checkpoints", "")))
        if note:
            print(f"note: {note}")


def main(arguments: list[str] | None = None) -> int:
    """Submit what the command line says."""
    parsed = argument_parser().parse_intermixed_args(arguments)
    try:
        with one_line_errors("submit"):
            return Submission(parsed).start()
    except KeyboardInterrupt:
        print("submit: stopped; the experiment's page tells whether the run was created")
        return STOPPED_BY_USER


if __name__ == "__main__":
    sys.exit(main())
