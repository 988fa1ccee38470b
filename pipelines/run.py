"""Run the pipeline on this machine, through KFP's own local runner.

    python -m pipelines.run pipelines/params/demo.yaml seed=2 overrides.epochs=3

Every task is a process of its own, or with --containers a container of its own, as it is a pod of
its own on a cluster. Finished tasks are cached: a rerun with another prior starts at the prior.
"""

import argparse
import hashlib
import inspect
import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml
from kfp import local

from components.check.check import check, check_prediction, grid
from components.check.look import look
from components.finetune.places import OWN_PLACE, open_place
from components.ingest.generator import Screen
from components.publish.targets import check_target
from components.shared.parameters.datasets import as_text, with_files
from components.shared.parameters.prior_grammar import parse_prior, with_uris
from components.shared.storage.digests import sha256_of
from components.shared.storage.files import SHA256, at_home, fetch
from components.shared.telling.errors import (
    InputError,
    nearest,
    one_line_errors,
    said_by_system,
    say,
)
from pipelines.compare import compare_priors, comparison_on
from pipelines.containers import docker_runner, here
from pipelines.history import (
    CHECKPOINTS,
    LOG,
    described,
    link_results,
    name_of,
    new_folder,
    private,
    remove_drafts,
    short,
)
from pipelines.images import PACKAGES_LOCK, development_images, stages
from pipelines.inputs import NOT_YAML, input_uris, is_comparison, is_prediction, priors_of
from pipelines.line import predict_line, prediction_on
from pipelines.local_log import plain, readable_log
from pipelines.outcome import comparison_summary, summary
from pipelines.pipeline import pipeline_on, scgpt_perturb
from pipelines.scheduling import LOCAL
from pipelines.sources import digest_of_code
from pipelines.task_containers import TaskContainers, tasks_in_containers
from pipelines.task_processes import Tasks, tasks_here

PARAMS = Path(__file__).parent / "params"
ASKED = "perturbations"
DATASET = "dataset"
PINNED = ("dataset", "prior", "priors")
"""Parameters whose files `pinned` names by content."""
AFTER_TRAINING = ("publish_to", "checkpoints")
"""Parameters that change nothing of what is trained."""
MEASURED = "SCGPT_PERTURB_EVALUATION_CACHE"
"""Variable that says where evaluations keep what they measured of the reference."""
STOPPED = 128 + signal.SIGINT


class TaskError(InputError):
    """A task failed; the message is the task's own line."""


class StoppedError(Exception):
    """Ctrl-C, or another signal, stopped the run."""


def pipeline_parameters(params: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of the pipeline that ``params`` are of, by name."""
    others = compare_priors if is_comparison(params) else scgpt_perturb
    pipeline = predict_line if is_prediction(params) else others
    return dict(inspect.signature(pipeline.pipeline_func).parameters)


def read_params(path: Path, assignments: Sequence[str]) -> dict[str, Any]:
    """Read a parameter file and apply ``key=value`` assignments.

    A file with `priors` is of the pipeline that compares them, one with `model` of the pipeline
    that applies a finished model. Values are YAML, but those of text parameters are taken as they
    stand, so that a control labelled ``NO`` stays one. ``overrides.epochs=3`` sets one entry of a
    dict parameter.

    Raises:
        InputError: unreadable file, unknown or missing parameter, a malformed assignment, or a
            value of the wrong type.
    """
    path = at_home(path)
    named = PARAMS / f"{path.name.removesuffix('.yaml')}.yaml"
    is_name = path.parent in (Path(), Path(*PARAMS.parts[-2:]))
    path = named if is_name and not path.exists() and named.exists() else path
    try:
        params = yaml.safe_load(path.read_text())
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(said_by_system(error)) from None
    except OSError:
        known = ", ".join(sorted(file.stem for file in PARAMS.glob("*.yaml")))
        raise InputError(f"{path}: no such parameter file; there are: {known}") from None
    except NOT_YAML as error:
        raise InputError(f"{path}: not YAML ({error})") from None
    if not isinstance(params, dict):
        raise InputError(f"{path}: expected lines of 'parameter: value'")
    parameters = pipeline_parameters(params)
    for assignment in assignments:
        _assign(params, assignment, parameters)
    for name, parameter in parameters.items():
        if name not in params and parameter.default is inspect.Parameter.empty:
            raise InputError(f"{path}: parameter '{name}' is missing and has no default")
    return {name: _typed(name, value, parameters) for name, value in params.items()}


def _parameter(name: str, known: Mapping[str, inspect.Parameter]) -> inspect.Parameter:
    if name not in known:
        raise InputError(
            f"parameter '{name}' is not one of the pipeline's{nearest(name, known)}; "
            f"parameters: {', '.join(known)}"
        )
    return known[name]


def _typed(name: str, value: Any, known: Mapping[str, inspect.Parameter]) -> Any:
    kind = _parameter(name, known).annotation
    if name == ASKED and isinstance(value, str):
        value = [value] if value else []
    if name == DATASET and isinstance(value, list):
        value = as_text(value)
    if type(value) is not kind:
        hint = "; put it in quotes" if kind is str else ""
        raise InputError(
            f"parameter {name}={value!r}: expected a value of type {kind.__name__}{hint}"
        )
    return value


def _assign(
    params: dict[str, Any], assignment: str, known: Mapping[str, inspect.Parameter]
) -> None:
    name, equals, text = assignment.partition("=")
    if not equals:
        raise InputError(f"'{assignment}': expected key=value")
    outer, dot, inner = name.partition(".")
    is_text = _parameter(outer, known).annotation is str
    is_text |= name == ASKED  # the file that lists them
    is_text &= not (name in (ASKED, DATASET) and text.lstrip().startswith("["))
    try:
        value = text if is_text else yaml.safe_load(text)
    except NOT_YAML:
        raise InputError(
            f"'{assignment:.80}': the value is not YAML; if it holds blanks, quote the assignment "
            "as a whole, as in ARGS=\"'train_lines=[k562, rpe1]'\""
        ) from None
    if not dot:
        params[outer] = value
        return
    entries = params.get(outer) or {}
    if is_text or not isinstance(entries, dict):
        raise InputError(f"'{assignment}': {outer} is not a dict, so it has no '{inner}'")
    params[outer] = {**entries, inner: value}


def with_defaults(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the pipeline's defaults for those that are not given."""
    known = pipeline_parameters(params)
    return {name: parameter.default for name, parameter in known.items()} | dict(params)


def looked_at(params: Mapping[str, Any]) -> list[str]:
    """Return what a look at the dataset tells of a run, in lines of 80 columns."""
    return look(with_defaults(params), generate=Screen.from_uri)


def check_settings(params: Mapping[str, Any]) -> None:
    """Check what can be checked of the parameters alone: what the check task asks for."""
    params = with_defaults(params)
    if is_prediction(params):
        check_prediction(params, "")
    elif is_comparison(params):
        grid(params, "", "")
    else:
        check(params, "")


def check_early(params: Mapping[str, Any]) -> None:
    """Check what can be checked now rather than after hours of work."""
    check_settings(params)
    if place := params.get("checkpoints", ""):
        open_place(place)
    check_target(params.get("publish_to", ""))


@contextmanager
def telling_instead(path: Path) -> Iterator[None]:
    """Add to an error of what a parameter file names what its head says to give instead."""
    try:
        yield
    except InputError as error:
        named = PARAMS / f"{path.name.removesuffix('.yaml')}.yaml"
        head = named.read_text().partition("\ndataset:")[0] if named.exists() else ""
        instead = head.partition("# Instead: ")[2].replace("\n#", " ")
        said = " ".join(instead.split()).rstrip(".")
        lacks = "no such file" in str(error) or " a place in the parameter file" in str(error)
        raise InputError(f"{error}; {said}") if said and lacks else error from None


def assignments_in(text: str) -> list[str]:
    """Return the assignments in a text that is quoted as in a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"ARGS {text}: {error}; quote an assignment as a whole") from None


def pinned(params: Mapping[str, Any]) -> dict[str, Any]:
    """Add the sha256 of local files to their paths, so that a cached task knows its content.

    Raises:
        InputError: a file is not what the sha256 that was given with it says.
    """
    result = dict(params)
    result["dataset"] = with_files(params["dataset"], _pinned)
    if is_prediction(params):
        return result
    priors = [str(with_uris(parse_prior(prior), _pinned)) for prior in priors_of(params)]
    return result | ({"priors": priors} if is_comparison(params) else {"prior": priors[0]})


def _pinned(uri: str) -> str:
    path = here(uri)
    if not path or not path.is_file():
        return uri
    if SHA256 in uri:
        fetch(uri, path.parent)
        return f"{path}{SHA256}{uri.partition(SHA256)[2].lower()}"
    return f"{path}{SHA256}{sha256_of(path)}"


def code_as_images() -> dict[str, str]:
    """Return a name for each stage's code.

    KFP's cache keys on the image, which does not exist here; the code stands for it, so that a
    stage is made again where its own code has changed, or what it reaches of the others'.
    """
    return {stage: f"local-python/{stage}:{digest_of_code(stage)}" for stage in stages()}


def state_of_inputs(params: Mapping[str, Any]) -> str:
    """Return a digest of what all tasks depend on and no argument of theirs shows.

    That is the packages' versions, and local files that parameters name indirectly.
    """
    digest = hashlib.sha256()
    for path in (PACKAGES_LOCK, *_indirect_files(params)):
        if path.is_file():
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def _indirect_files(params: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the local files of models, a vocabulary, a split file, lists and priors' folders.

    `pinned` names the content of the dataset's and a prior's file, for what those do not touch.
    """
    for name, named in input_uris(params).items():
        for path in (here(uri) for uri in named if uri):
            if path is None or (name in PINNED and not path.is_dir()):
                continue
            yield from sorted(path.rglob("*")) if path.is_dir() else (path,)


def without_links(value: Any) -> Any:
    """Return a local path as what it leads to now: a run that begins moves `runs/latest`."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = Path(value)
    try:
        linked = path.exists() and path.resolve() != path.absolute()
    except OSError:  # too long for a path: another kind of text
        return value
    return str(path.resolve()) if linked else value


def run(
    params: Mapping[str, Any], runs: Path, *, name: str = "run", containers: bool = False
) -> Path:
    """Run a pipeline under ``runs``, where what finished tasks made lies; return the run's folder.

    The ``name``, of the parameter file, is part of the folder's. With ``containers`` each task runs
    in its image rather than in a process. A task that fails is a `TaskError`, its own line; a
    signal that stops the run is a `StoppedError`.
    """
    params = {key: without_links(value) for key, value in params.items()}
    given = pinned(params)
    # A folder of its own, so that runs side by side cannot take each other's output for theirs.
    runs = at_home(runs)
    root = new_folder(runs.resolve(), name, params)
    comparing = is_comparison(params)
    images = development_images() if containers else code_as_images()
    state = runs.resolve() / CHECKPOINTS / run_digest(given, images)
    started: AbstractContextManager[TaskContainers | Tasks]
    if containers:
        runner, started = docker_runner(params, root, images, state), tasks_in_containers()
    else:
        runner = local.SubprocessRunner(use_venv=False)
        started = tasks_here(_environment(runs.resolve(), state, comparing=comparing))
    others = comparison_on if comparing else pipeline_on
    pipeline = (prediction_on if is_prediction(params) else others)(LOCAL, images)
    local.init(
        runner=runner,
        pipeline_root=str(root),
        enable_caching=True,
        cache_root=str(runs / ".cache" / state_of_inputs(params)),
    )
    try:
        count = len(priors_of(params)) * len(params.get("seeds", [0])) if comparing else 1
        with readable_log(private(root / LOG), runs=count) as told, started as tasks:
            told.stopped = lambda: tasks.stopped
            pipeline(**given)
    except RuntimeError as error:
        remove_drafts(root)
        if tasks.stopped:
            raise StoppedError from None
        if told.told_errors:
            raise TaskError(told.told_errors[-1]) from None
        raise InputError(
            f"{plain(str(error))}; the task's last lines are above, the full log is "
            f"{short(root / LOG)}"
        ) from None
    wanted = "*/compare/comparison" if comparing else "*/publish/published"
    [found] = root.glob(wanted)
    link_results(root, found)
    shutil.rmtree(state, ignore_errors=True)
    return root


def _environment(runs: Path, state: Path, *, comparing: bool) -> dict[str, str]:
    """Return what tasks that are processes are told: where runs share what they keep."""
    # OpenMP threads wait for each other by spinning, for very long. Where a core is shared that is
    # ten times slower than spinning briefly; where it is not, this costs nothing.
    told = {OWN_PLACE: str(state), "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}
    if comparing:
        measured = str(runs / ".cache" / "evaluate")
        told[MEASURED] = os.environ.get(MEASURED, measured)
    return told


def run_digest(params: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """Return a digest of all that training depends on, so that the same command resumes it."""
    binding = {name: value for name, value in params.items() if name not in AFTER_TRAINING}
    said = json.dumps([binding, images, state_of_inputs(params)], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def main(given: Sequence[str] | None = None) -> None:
    """Run with a parameter file and assignments from the command line."""
    parser = argparse.ArgumentParser(description="Run the pipeline on this machine.")
    parser.add_argument("params", type=Path, help="YAML file of pipeline parameters, or its name")
    parser.add_argument("assignments", nargs="*", metavar="key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument(
        "--containers", action="store_true", help="run each task in its image (make images)"
    )
    parser.add_argument("--verbose", action="store_true", help="show KFP's own lines (VERBOSE=1)")
    parser.add_argument(
        "--comparison", action="store_true", help="refuse parameters of another pipeline"
    )
    parser.add_argument("--assign", default="", help="more assignments, quoted as in a shell")
    arguments = parser.parse_intermixed_args(given)
    started = time.perf_counter()
    if arguments.verbose:
        os.environ["VERBOSE"] = "1"
    with one_line_errors("run"):
        assignments = [*arguments.assignments, *assignments_in(arguments.assign)]
        params = read_params(arguments.params, assignments)
        if arguments.comparison and not is_comparison(params):
            raise InputError(
                f"{arguments.params}: has no priors to compare; give a file with priors and seeds, "
                "such as compare-demo"
            )
        with telling_instead(arguments.params):
            check_early(params)
        try:
            print("\n".join([*described(params), *looked_at(params), ""]), flush=True)
            root = run(
                params,
                arguments.runs,
                name=name_of(arguments.params),
                containers=arguments.containers,
            )
        except TaskError as error:
            say(error)
            raise SystemExit(1) from None
        except (StoppedError, KeyboardInterrupt):
            say(
                "run: stopped; the same command continues from here: finished tasks come from the "
                "cache, training from its checkpoint"
            )
            raise SystemExit(STOPPED) from None
        end = comparison_summary if is_comparison(params) else summary
        print(end(root, time.perf_counter() - started))


if __name__ == "__main__":
    main()
