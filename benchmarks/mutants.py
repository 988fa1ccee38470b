"""What the tests notice: small faults are planted in the code, one at a time, by mutmut.

A mutant is killed when a test fails on it. Each package is mutated in a copy of the project, in
build/mutants/<package>, and tried against the tests of its own folder. Of its many
thousands of mutants a sample is tried, the same for the same seed and code. Run again, what was
killed stays so, and survivors are tried anew. `make mutants` runs it; docs/mutants.md tells more.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

from pipelines.images import ROOT

# Each is tried against its own folder of tests: a fault that only tests of other stages notice is
# found far from where it lies. What stages share is there for them, so theirs count too.
PACKAGES = {
    "finetune": ["finetune"],
    "evaluate": ["evaluate"],
    "split": ["split"],
    "compare": ["compare"],
    "shared": [
        "shared",
        *("check", "ingest", "split", "prior", "predict", "publish", "compare"),
        *("pipelines/test_params.py", "finetune/test_cross_line_effects.py"),
    ],
}
WORK = ROOT / "build" / "mutants"
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.yaml")
# Interfaces run in a process of KFP's, and Weights & Biases in one without our packages: no mutant
# is switched on there. Plots are judged by eye.
NOT_MUTATED = ["*/component.py", "*/wandb_run.py", "*plots.py", "*/svg.py"]
# Of the tests that call a function, the quickest are run on its mutants, up to the first sum, and
# then those beside them: what a fixture of a module calls is seen in the first of its tests alone.
# What survives that is tried once more, up to the second. [s]
LONGEST = (20.0, 240.0)
STATS = "mutants/mutmut-stats.json"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
CONFIG = """
[tool.mutmut]
source_paths = ["components"]
only_mutate = ["components/{package}/*"]
do_not_mutate = {not_mutated}
also_copy = {others}
pytest_add_cli_args_test_selection = {tests}
# mutmut's own calls break the graph that torch.compile would make
pytest_add_cli_args = ["--hypothesis-seed=0", "-k", "not compiles_to_one_graph"]
# torch has threads of its own, which a forked process lacks
process_isolation = "forkserver"
track_dependencies = false
use_git_change_detection = false
# A mutant hangs after (the time of its tests + 30 s) * 8: by the clock, which goes on when other
# work has the machine.
timeout_constant = 30.0
timeout_multiplier = 8.0
"""


def main() -> None:
    """Try a sample of the mutants of the packages; print the score and the survivors."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", default="300", help="mutants, over all packages, or all")
    parser.add_argument("--seed", type=int, default=1, help="draws the sample")
    parser.add_argument(
        "--modules", default=" ".join(PACKAGES), help="packages, or modules of them"
    )
    asked = parser.parse_args()
    modules = asked.modules.split()
    packages = list(dict.fromkeys(module.split("/")[0] for module in modules))
    if unknown := set(packages) - set(PACKAGES):
        parser.error(
            f"no package is called {', '.join(sorted(unknown))}; known: {', '.join(PACKAGES)}"
        )
    rows = []
    for package in packages:
        folder = _prepared(package)
        wanted = [m.replace("/", ".") for m in modules if m.split("/")[0] == package]
        names = [
            name
            for name in sorted(results_of(folder))
            if any(f"{name}.".startswith(f"components.{module}.") for module in wanted)
        ]
        if asked.sample != "all":
            names = sampled(
                names, round(int(asked.sample) / len(packages)), f"{package} {asked.seed}"
            )
        _try(folder, names)
        rows.append((package, len(results_of(folder)), *_told(folder, names)))
        _print(rows[-1:])
    _print(rows)


def sampled(names: list[str], count: int, seed: str) -> list[str]:
    """Draw ``count`` of the names, or all; a larger sample of the same seed holds the smaller."""
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    return sorted(shuffled[:count])


def results_of(folder: Path) -> dict[str, int | None]:
    """Return the exit code of each mutant's tests, None where it was not tried."""
    found: dict[str, int | None] = {}
    for path in (folder / "mutants").rglob("*.py.meta"):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def bounded(
    tests: dict[str, list[str]], seconds: dict[str, float], longest: float
) -> dict[str, list[str]]:
    """Keep of each function's tests, and then of those beside them, the quickest, one at least.

    Together they take no more seconds than ``longest``.
    """
    beside: dict[str, list[str]] = {}
    for name in seconds:
        beside.setdefault(_file_of(name), []).append(name)
    kept: dict[str, list[str]] = {}
    for function, names in tests.items():
        others = {other for name in names for other in beside[_file_of(name)]} - {*names}
        spent = 0.0
        kept[function] = []
        for some in (names, others):
            for name in sorted(some, key=lambda name: (seconds[name], name)):
                if spent + seconds[name] <= longest or not kept[function]:
                    spent += seconds[name]
                    kept[function].append(name)
    return kept


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _prepared(package: str) -> Path:
    """Copy the project, have its mutants made, and see which tests call which function."""
    folder = WORK / package
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    stats = folder / STATS
    for name in filter(None, files.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_file() and not _same(source, copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
            if name.startswith("components/"):
                stats.unlink(missing_ok=True)  # other tests may call what is there now
    others = {name.split("/")[0] for name in files.split("\0")} - {"", "components", ".venv"}
    config = CONFIG.format(
        package=package,
        not_mutated=json.dumps(NOT_MUTATED),
        others=json.dumps(sorted(others)),
        tests=json.dumps([f"tests/{name}" for name in PACKAGES[package]]),
    )
    project = folder / "pyproject.toml"
    project.write_text((ROOT / "pyproject.toml").read_text() + config)
    # Python finds no module in a path that was not there when it started.
    (folder / "mutants").mkdir(exist_ok=True)
    # mutmut makes its copy of the tests once, and none of those that are gone
    shutil.rmtree(folder / "mutants" / "tests", ignore_errors=True)
    # no mutant is called so: mutmut stops when it has looked at the tests
    said = _mutmut(folder, "none")
    if "nothing matches" not in said:
        raise SystemExit(f"mutants: {package}'s tests fail as they are:\n{said}")
    return folder


def _same(source: Path, copy: Path) -> bool:
    return copy.is_file() and copy.read_bytes() == source.read_bytes()


def _try(folder: Path, names: list[str]) -> None:
    """Run the tests on those mutants that no test is known to kill."""
    stats = folder / STATS
    whole = stats.read_text()
    try:
        for longest in LONGEST:
            known = results_of(folder)
            left = [name for name in names if status(known[name]) in ("not checked", "survived")]
            if not left:
                return
            found = json.loads(whole)
            found["tests_by_mangled_function_name"] = bounded(
                found["tests_by_mangled_function_name"], found["duration_by_test"], longest
            )
            stats.write_text(json.dumps(found, indent=4))
            said = _mutmut(folder, *left)
            if "Mutant results" not in said:
                raise SystemExit(f"mutants: mutmut failed:\n{said}")
    finally:
        stats.write_text(whole)


def status(exit_code: int | None) -> str:
    """Return mutmut's word for how a mutant's tests ended."""
    from mutmut.stats import status_by_exit_code

    return str(status_by_exit_code[exit_code])


def _mutmut(folder: Path, *names: str) -> str:
    """Run mutmut on the mutants named; return the end of what it said, without its spinner."""
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", *names]
    # tests start processes of their own, which shall import the mutants too
    environment = os.environ | {"PYTHONPATH": str(folder / "mutants"), "OMP_NUM_THREADS": "1"}
    log = folder / "mutmut.log"
    with log.open("w") as file:
        subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    lines = re.split(r"[\r\n]+", log.read_text())
    return "\n".join([line for line in lines if line.strip() and line[0] not in SPINNER][-5000:])


def _told(folder: Path, names: list[str]) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Return how often each end came, and the survivors with what they change."""
    known = results_of(folder)
    equivalent = {
        (entry["function"], entry["becomes"]) for entry in yaml.safe_load(EQUIVALENT.read_text())
    }
    ends: Counter[str] = Counter()
    survivors = []
    for name in names:
        end = status(known[name])
        if end in ("survived", "no tests"):
            change = _change(folder, name)
            function = re.sub(r"__mutmut_\d+$", "", name)
            if (function, change.split("\n")[-1].removeprefix("+").strip()) in equivalent:
                end = "equivalent"
            else:
                survivors.append((f"{name} ({end})", change))
        ends[end] += 1
    return ends, survivors


def _change(folder: Path, name: str) -> str:
    """Return the lines that a mutant takes away and puts in their place."""
    command = [str(Path(sys.executable).with_name("mutmut")), "show", name]
    shown = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    lines = shown.splitlines()
    return "\n".join(line for line in lines if re.match(r"[-+](?![-+]{2} )", line))


def _print(rows: list[tuple[str, int, Counter[str], list[tuple[str, str]]]]) -> None:
    print("| package | mutants | tried | killed | hung | survived | no test | equivalent | score |")
    print("|---|---|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for package, count, ends, _ in rows:
        _print_row(package, count, ends)
        total += ends
    _print_row("all", sum(count for _, count, _, _ in rows), total)
    for _, _, _, survivors in rows:
        for name, change in survivors:
            print(f"\n{name}\n{change}")


def _print_row(package: str, count: int, ends: Counter[str]) -> None:
    tried, equivalent = ends.total(), ends["equivalent"]
    missed = ends["survived"] + ends["no tests"]
    hung = ends["timeout"]
    killed = tried - equivalent - missed - hung
    score = (killed + hung) / max(tried - equivalent, 1)
    print(
        f"| {package} | {count} | {tried} | {killed} | {hung} | {ends['survived']} "
        f"| {ends['no tests']} | {equivalent} | {score:.0%} |"
    )


if __name__ == "__main__":
    main()
