"""The folders of runs on this machine: `runs/<time>-<params>-<prior>`, and which is the newest."""

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from components.shared.artifacts.artifact import DRAFT
from components.shared.artifacts.evaluation import HEADLINE_METRIC, MODEL, REPORT_FILE, read_numbers
from components.shared.parameters.prior_grammar import parse_prior
from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError
from pipelines.inputs import NOT_YAML, is_comparison, is_prediction, priors_of

LATEST = "latest"
LOG = "log.txt"
PARAMETERS = "params.yaml"
PUBLISHED = "published"
COMPARISON = "comparison"
CHECKPOINTS = Path(".cache", "checkpoints")
"""Below the folder of runs: the state of training of runs that were stopped."""
LONGEST = 30
"""Characters of a parameter file's name, or a prior, in the name of a folder."""
NAME = re.compile(r"\d{8}-\d{6}-[\w.+-]+")
COLUMNS = ("time", "params", "lines", "prior", "seed", HEADLINE_METRIC, "size")


def new_folder(runs: Path, name: str, params: Mapping[str, Any]) -> Path:
    """Make the folder of a run, with its parameters, and let `latest` lead to it."""
    parts = [time.strftime("%Y%m%d-%H%M%S"), _plain(name), _plain(_prior(params))]
    try:
        root = _made(runs, "-".join(filter(None, parts)))
    except OSError as error:
        why = str(error.strerror).lower()
        raise InputError(f"{runs}: is not writable ({why}); give --runs <folder>") from None
    said = f"# The same again: make run PARAMS={shlex.quote(str(root / PARAMETERS))}\n"
    text = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
    private(root / PARAMETERS).write_text(said + text)
    _link(runs / LATEST, root.name)
    return root


def private(path: Path) -> Path:
    """Make a file that its owner alone may read, since an address may hold a secret."""
    path.touch(mode=0o600)
    return path


def remove_drafts(root: Path) -> None:
    """Remove what tasks of a run that were killed had begun to write."""
    for draft in root.rglob(f".*{DRAFT}"):
        shutil.rmtree(draft, ignore_errors=True)


def link_results(root: Path, made: Path) -> None:
    """Give what a run made short paths: `published` and, of a comparison, `comparison`."""
    for name, pattern in ((PUBLISHED, "*/publish*/published"), (COMPARISON, "*/compare/*")):
        for found in root.glob(pattern):
            if found == made or found.name == PUBLISHED:
                _link(root / name, str(found.relative_to(root)))


def short(path: Path) -> Path:
    """Return the path as it is shown: relative to the current folder where it lies in that."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def shown_root(root: Path) -> Path:
    """Return the path by which a run is shown: through `latest` as long as that leads to it."""
    latest = root.parent / LATEST
    return short(latest if latest.exists() and latest.resolve() == root.resolve() else root)


def _made(runs: Path, name: str) -> Path:
    """Make a folder that no other run has, even one that starts in the same second."""
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        root = runs / (name if number == 1 else f"{name}-{number}")
        try:
            root.mkdir()
        except FileExistsError:
            number += 1
        else:
            return root


def _link(link: Path, target: str) -> None:
    """Let a link lead elsewhere in one step; where there are no links, do without."""
    beside = link.with_name(f".{link.name}-{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(link)
    except OSError:
        beside.unlink(missing_ok=True)


def _prior(params: Mapping[str, Any]) -> str:
    if is_prediction(params):
        return ""
    if is_comparison(params):
        return f"{len(priors_of(params))}-priors"
    return parse_prior(priors_of(params)[0]).shown


def _plain(text: str) -> str:
    """Return text as part of a file's name."""
    text = re.sub(r"\w+://\S*/", "", text)
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:LONGEST].rstrip("-")


@dataclass(frozen=True)
class Kept:
    """A run that is kept on this machine."""

    root: Path

    @cached_property
    def params(self) -> dict[str, Any]:
        """Its parameters, empty if the file is gone or broken."""
        try:
            found = yaml.safe_load((self.root / PARAMETERS).read_text())
            _prior(found), _lines(found)  # what the list says of it
        except (OSError, InputError, TypeError, ValueError, LookupError, AttributeError, *NOT_YAML):
            return {}
        return dict(found)

    @property
    def name(self) -> str:
        """The name of its parameter file: what its folder says beside time and prior."""
        said = self.root.name.split("-", 2)[2]
        prior = _plain(_prior(self.params)) if self.params else ""
        return re.sub(rf"-{re.escape(prior)}(-\d+)?$", "", said) if prior else said

    @property
    def size(self) -> int:
        """Bytes of its files."""
        size = 0
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):  # a run that is going on removes some
                found = path.lstat()
                size += found.st_size if S_ISREG(found.st_mode) else 0
        return size

    @property
    def report(self) -> Path | None:
        """The page that it ended with, if it came so far."""
        names = (f"{COMPARISON}/report.html", f"{PUBLISHED}/eval/{REPORT_FILE}")
        pages = (self.root / name for name in names)
        return next((page for page in pages if page.exists()), None)

    def row(self) -> tuple[str, ...]:
        """Return what `COLUMNS` names."""
        given = self.params
        prior = _prior(given) if given else ""
        seeds = given.get("seeds", given.get("seed", 0)) if given else ""
        return (
            _time(self.root.name),
            self.name,
            _lines(given),
            prior or "-",
            ",".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds),
            self._score(),
            _bytes(self.size),
        )

    def _score(self) -> str:
        try:
            scores = read_numbers(self.root / PUBLISHED / "eval")
            return f"{scores[MODEL][HEADLINE_METRIC]:.3f}"
        except (OSError, InputError, KeyError, TypeError):
            return "-"


def _time(name: str) -> str:
    day, clock = name.split("-")[:2]
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}"


def _lines(params: Mapping[str, Any]) -> str:
    trained = ", ".join(map(str, params.get("train_lines", [])))
    tested = str(params.get("test_line") or params.get("cell_line") or "")
    return f"{trained} -> {tested}" if trained else tested or "-"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def name_of(params: Path) -> str:
    """Return what a run is called after: its parameter file, or that of the run it repeats."""
    if params.name == PARAMETERS and (params.parent / LOG).exists():
        return Kept(params.parent.resolve()).name
    return params.name.removesuffix(".yaml")


def kept(runs: Path) -> list[Kept]:
    """Return the runs that are kept, the newest first."""
    folders = runs.iterdir() if runs.is_dir() else ()
    named = [path for path in folders if NAME.fullmatch(path.name) and not path.is_symlink()]
    return [Kept(path) for path in sorted(named, key=lambda path: path.name, reverse=True)]


def newest_report(runs: Path) -> Path:
    """Return the report of the newest run that has one."""
    for run in kept(runs):
        if run.report:
            return short(run.report)
    raise InputError(f"{runs}: no run has a report yet; make run makes one")


def table(runs: Path) -> Iterator[str]:
    """Yield a line of titles, then one a run, the newest first."""
    rows = [COLUMNS, *(run.row() for run in kept(runs))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def remove_old(runs: Path, keep: int) -> list[Path]:
    """Remove all runs but the newest ones, and return their folders.

    What finished tasks made lies in their runs' folders: what is gone from there is made again.
    """
    if keep < 0:
        raise InputError(f"KEEP={keep}: expected how many runs stay, 0 or more")
    old = [run.root for run in kept(runs)[keep:]]
    for root in old:
        shutil.rmtree(root)
    if not keep:
        shutil.rmtree(runs / CHECKPOINTS, ignore_errors=True)
    latest = runs / LATEST
    if latest.is_symlink() and not latest.exists():
        latest.unlink()
    return old


def described(params: Mapping[str, Any]) -> list[str]:
    """Return in six lines what a run is about to do."""
    facts = {"dataset": shown(str(params["dataset"]))}
    if is_prediction(params):
        asked = params.get("perturbations") or ["all that the model was trained on"]
        facts |= {
            "line": params.get("cell_line") or "the one of the dataset",
            "model": shown(params["model"]),
            "predicts": ", ".join(map(str, asked)),
            "controls": params.get("control_label", "non-targeting"),
            "seed": params.get("seed", 0),
        }
    else:
        priors = ", ".join(parse_prior(prior).shown for prior in priors_of(params))
        changed = ", ".join(f"{k}={v}" for k, v in (params.get("overrides") or {}).items())
        seeds = params.get("seeds", params.get("seed", 0))
        facts |= {
            "lines": _lines(params),
            "pretrained": shown(params["pretrained"]),
            "prior": priors,
            "recipe": params.get("recipe", "default") + (f" with {changed}" if changed else ""),
            "seed": ", ".join(map(str, seeds)) if isinstance(seeds, list) else seeds,
        }
    lines = (" ".join(f"{name:<12}{fact}".splitlines()) for name, fact in facts.items())
    return [line if len(line) <= 80 else f"{line[:79]}…" for line in lines]
