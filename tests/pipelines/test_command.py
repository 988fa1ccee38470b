"""The command `scgpt-perturb`: its help, and that it passes on what it is given."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines import command, compile, submit, upload
from pipelines import run as running
from pipelines.command import main, parameters_of
from pipelines.history import new_folder
from pipelines.pipeline import scgpt_perturb

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("check", "compare", "compile", "predict", "report", "run", "runs", "submit", "upload")


def told(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_is_installed_under_its_name_and_has_all_commands():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"scgpt-perturb": "pipelines.command:main"}
    assert tuple(sorted(main.commands)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_help_ends_with_an_example_that_the_command_reads(name):
    *_, example = told(name, "--help").rstrip().splitlines()
    assert example.strip().startswith(f"scgpt-perturb {name}")


@pytest.mark.parametrize("name", ["run", "compare", "predict", "check", "submit"])
def test_help_names_the_parameters_as_the_pipeline_does_and_the_files(name):
    text = " ".join(told(name, "--help").split())
    for pipeline in main.commands[name].pipelines:
        for parameter, description in parameters_of(pipeline):
            assert parameter in text
            assert "".join(description.split()) in text.replace(" ", "")
    assert "four-lines Real cells of four lines" in text
    assert all(path.stem in text for path in running.PARAMS.glob("*.yaml"))


def test_every_parameter_of_the_pipeline_is_described():
    known = running.pipeline_parameters({})
    assert [name for name, text in parameters_of(scgpt_perturb) if text] == list(known)


@pytest.mark.parametrize("name", ["submit", "upload", "compile"])
def test_help_of_a_program_names_its_options(name):
    options = {"submit": "--service-account", "upload": "--packages", "compile": "--release"}
    assert options[name] in told(name, "--help")


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["run"], ["demo", "--runs", "runs"]),
        (["run", "demo", "seed=2", "--runs", "x"], ["demo", "seed=2", "--runs", "x"]),
        (
            ["run", "--containers", "--verbose"],
            ["demo", "--runs", "runs", "--containers", "--verbose"],
        ),
        (["compare", "mine.yaml"], ["mine.yaml", "--comparison", "--runs", "runs"]),
        (
            ["predict", "m", "d", "seed=1"],
            ["predict-line", "model=m", "dataset=d", "seed=1", "--runs", "runs"],
        ),
    ],
)
def test_a_run_is_passed_on(monkeypatch, given, passed):
    taken = []
    monkeypatch.setattr(command.running, "main", taken.append)
    told(*given)
    assert taken == [passed]


@pytest.mark.parametrize(("name", "program"), [("submit", submit), ("upload", upload)])
def test_a_program_takes_its_own_options_and_ends_with_its_own_code(monkeypatch, name, program):
    taken = []
    monkeypatch.setattr(program, "main", lambda given: taken.append(given) or 3)
    done = CliRunner().invoke(main, [name, "demo", "--host", "http://x", "--no-cache"])
    assert done.exit_code == 3
    assert taken == [["demo", "--host", "http://x", "--no-cache"]]


def test_compile_is_passed_on(monkeypatch):
    monkeypatch.setattr(compile, "check", lambda: False)
    assert CliRunner().invoke(main, ["compile", "--check"]).exit_code == 1


def test_check_says_what_would_run_or_what_is_wrong():
    assert told("check", "demo").splitlines()[-1] == "nothing wrong was found"
    done = CliRunner().invoke(main, ["check", "demo", "prior=efects"])
    assert done.exit_code == 1
    assert "check: error: " in done.output and "nearest: 'effects'" in done.output


def test_runs_are_listed_and_old_ones_removed(tmp_path):
    params = running.read_params(Path("demo"), [])
    roots = [new_folder(tmp_path, name, params) for name in ("first", "second")]
    assert len(told("runs", "--runs", str(tmp_path)).splitlines()) == 3
    text = told("runs", "--runs", str(tmp_path), "--keep", "1")
    assert text.startswith(f"removed {roots[0]}") and not roots[0].exists() and roots[1].exists()
    done = CliRunner().invoke(main, ["report", "--runs", str(tmp_path)])
    assert done.exit_code == 1 and "no run has a report yet" in done.output


def test_a_comparison_of_a_file_without_priors_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        running.main(["demo", "--comparison"])
    assert ended.value.code == 1
    assert "demo: has no priors to compare" in capsys.readouterr().err
