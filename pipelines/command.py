"""The command `scgpt-perturb`: what make does, from any folder, with its parameters in --help.

    scgpt-perturb run demo seed=2 overrides.epochs=3

Each command is a shell over the program of the same name beside this file.
"""

import argparse
import sys
import textwrap
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import docstring_parser

from components import __version__
from components.shared.telling.errors import InputError, one_line_errors
from pipelines import compile as compiling
from pipelines import history, submit, upload
from pipelines import run as running
from pipelines.compare import compare_priors
from pipelines.line import predict_line
from pipelines.pipeline import scgpt_perturb

TITLE_WIDTH = 26
RUNS = click.option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where runs are kept.",
)
CONTAINERS = click.option("--containers", is_flag=True, help="Run each task in its image.")
VERBOSE = click.option("--verbose", is_flag=True, help="Show KFP's own lines.")
ASSIGNMENTS = click.argument("assignments", nargs=-1, metavar="[KEY=VALUE]...")
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": ["--help", "-h"]}


def parameters_of(pipeline: Any) -> list[tuple[str, str]]:
    """Return the parameters of a pipeline with what its docstring says of each."""
    parsed = docstring_parser.parse(pipeline.pipeline_func.__doc__ or "")
    return [(one.arg_name, " ".join((one.description or "").split())) for one in parsed.params]


def parameter_files() -> Iterator[tuple[str, str]]:
    """Yield the name of each parameter file and its first sentence."""
    for path in sorted(running.PARAMS.glob("*.yaml")):
        lines = path.read_text().splitlines()
        about = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        yield path.stem, f"{about.split('. ')[0].rstrip('.')}."


class PipelineCommand(click.Command):
    """A command whose help names its pipeline's parameters, the parameter files and an example."""

    def __init__(
        self,
        *args: Any,
        pipelines: Sequence[Any] = (),
        example: str = "",
        parser: Callable[[], argparse.ArgumentParser] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.pipelines = pipelines
        self.example = example
        self.parser = parser

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what stands below the options."""
        if self.parser:
            with formatter.section("Options of the program"):
                formatter.write_dl(list(options_of(self.parser())), col_max=TITLE_WIDTH)
        for pipeline in self.pipelines:
            title = f"Parameters of {pipeline.name}" if len(self.pipelines) > 1 else "Parameters"
            with formatter.section(title):
                formatter.write_dl(parameters_of(pipeline), col_max=TITLE_WIDTH)
        if self.pipelines:
            with formatter.section("Parameter files"):
                formatter.write_dl(list(parameter_files()), col_max=TITLE_WIDTH)
        if self.example:
            with formatter.section("Example"):
                formatter.write(textwrap.indent(self.example, " " * formatter.current_indent))
                formatter.write("\n")


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield what an argument parser takes, and its help."""
    for action in parser._actions:
        names = ", ".join(action.option_strings)
        if names and action.dest != "help":
            yield names, (action.help or "") % {"default": action.default}


@click.group(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(__version__, prog_name="scgpt-perturb")
def main() -> None:
    """Predict what knocking down a gene does in a cell line that was never screened."""


def runs_here(function: Callable[..., None]) -> Callable[..., None]:
    """Add what each command takes that runs a pipeline on this machine."""
    for taken in (VERBOSE, CONTAINERS, RUNS, ASSIGNMENTS):
        function = taken(function)
    return function


def _run_by_file(name: str, pipeline: Any, about: str, file: str, given: str, *more: str) -> None:
    """Add a command that runs a pipeline here, by a parameter file; ``more`` are its options."""
    example = f"scgpt-perturb {name} {file} {given}"

    @main.command(name, cls=PipelineCommand, help=about, pipelines=[pipeline], example=example)
    @click.argument("params", default=file)
    @runs_here
    def command(params: str, assignments: tuple[str, ...], **options: Any) -> None:
        _run([params, *assignments, *more], **options)


RUN = "Run the pipeline here, by a parameter file or its name."
COMPARE = "Compare priors here, by a parameter file or its name."
PRIORS = "'priors=[none, effects]' 'seeds=[0, 1, 2]'"
_run_by_file("run", scgpt_perturb, RUN, "demo", "seed=2 overrides.epochs=3")
_run_by_file("compare", compare_priors, COMPARE, "compare-demo", PRIORS, "--comparison")


@main.command(
    "predict",
    cls=PipelineCommand,
    pipelines=[predict_line],
    example="scgpt-perturb predict runs/latest/published controls.h5ad 'perturbations=[MYC, TP53]'",
)
@click.argument("model")
@click.argument("dataset")
@runs_here
def predict_command(model: str, dataset: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Apply a published model to the cells of another line."""
    given = ["predict-line", f"model={model}", f"dataset={dataset}", *assignments]
    _run(given, **options)


@main.command(
    "check",
    cls=PipelineCommand,
    pipelines=[scgpt_perturb],
    example="scgpt-perturb check own-data dataset=cells.h5ad",
)
@click.argument("params")
@ASSIGNMENTS
def check_command(params: str, assignments: tuple[str, ...]) -> None:
    """Check a parameter file, look at its cells, say what it would run."""
    with one_line_errors("check"):
        given = running.read_params(Path(params), assignments)
        with running.telling_instead(Path(params)):
            running.check_early(given)
        click.echo("\n".join(history.described(given)))
        click.echo("\n".join([*running.looked_at(given), "nothing wrong was found"]))


def _pass_on(name: str, program: Any, about: str, given: str, *pipelines: Any) -> None:
    """Add a command that hands whatever it is given to the program of its name."""

    @main.command(
        name,
        cls=PipelineCommand,
        help=about,
        pipelines=pipelines,
        parser=program.argument_parser,
        context_settings=PASSED_ON,
        example=f"scgpt-perturb {name} {given}",
    )
    @click.argument(
        "arguments",
        nargs=-1,
        type=click.UNPROCESSED,
        metavar="PARAMS [KEY=VALUE]..." if pipelines else "",
    )
    def command(arguments: tuple[str, ...]) -> None:
        sys.exit(program.main(list(arguments)))


SUBMITTED = (scgpt_perturb, compare_priors, predict_line)
HOST = "--host http://localhost:8080"
FOLLOWED = "Run on a cluster, and follow the run to its end."
_pass_on("submit", submit, FOLLOWED, f"demo seed=2 {HOST}", *SUBMITTED)
_pass_on("upload", upload, "Put the compiled pipelines into KFP's UI, with manuals.", HOST)
_pass_on("compile", compiling, "Compile the pipelines for a cluster.", "--check")


@main.command("runs", cls=PipelineCommand, example="scgpt-perturb runs --keep 5")
@RUNS
@click.option("--keep", type=int, help="Remove all runs but the newest ones.")
def runs_command(folder: Path, keep: int | None) -> None:
    """List the runs that are kept here, the newest first."""
    with one_line_errors("runs"):
        if keep is not None:
            for root in history.remove_old(folder, keep):
                click.echo(f"removed {history.short(root)}")
        for line in history.table(folder):
            click.echo(line)


@main.command("report", cls=PipelineCommand, example="scgpt-perturb report --open")
@RUNS
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
def report_command(folder: Path, opened: bool) -> None:
    """Print where the newest report is, or open it."""
    with one_line_errors("report"):
        page = history.newest_report(folder)
        click.echo(page)
        if opened and not webbrowser.open(page.absolute().as_uri()):
            raise InputError(f"{page}: no browser was found; open it yourself")


def _run(given: Sequence[str], folder: Path, *, containers: bool, verbose: bool) -> None:
    more = ["--containers"] * containers + ["--verbose"] * verbose
    running.main([*given, "--runs", str(folder), *more])


if __name__ == "__main__":
    main()
