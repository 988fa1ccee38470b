"""Artifact folders: written whole or not at all, each with a `provenance.json` its readers check.

A folder's `provenance.json` names its format, the sha256 of every file in it, the digest of every
input artifact, the parameters, the code version and the image. The digest of an artifact is the
sha256 of its `provenance.json`, so the digests form a chain back to the source data.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from components import __version__
from components.shared.artifacts import shapes
from components.shared.storage.digests import sha256_of
from components.shared.storage.documents import check_shape, write_json
from components.shared.telling.addresses import kept
from components.shared.telling.errors import CLOSED, InputError, system_errors

CELLS = "cells/v1"
SPLITS = "splits/v1"
GENE_PRIOR = "gene-prior/v1"
MODEL = "scgpt-checkpoint/v1"
PREDICTIONS = "predictions/v1"
EVALUATION = "evaluation/v1"
PUBLISHED = "published/v1"
COMPARISON = "comparison/v1"
FAILED = "failed/v1"
"""In place of any artifact: why there is none, see `failure`."""

MADE_BY = {
    CELLS: "ingest",
    SPLITS: "split",
    GENE_PRIOR: "prior",
    MODEL: "finetune",
    PREDICTIONS: "predict",
    EVALUATION: "evaluate",
    PUBLISHED: "publish",
    COMPARISON: "compare",
    FAILED: "failed",
}

SUMMARIES = {
    SPLITS: shapes.SPLITS_SUMMARY,
    GENE_PRIOR: shapes.GENE_PRIOR,
    MODEL: shapes.MODEL_SUMMARY,
    PREDICTIONS: shapes.PREDICTIONS_SUMMARY,
    EVALUATION: shapes.EVALUATION_SUMMARY,
    FAILED: shapes.FAILED_SUMMARY,
}
"""Fields of each summary that readers need."""

PROVENANCE = "provenance.json"
DRAFT = ".partial"
"""Ending of the folder beside its target in which an artifact is written."""
READABLE, ENTERED = 0o644, 0o755
"""Mode of every file and folder: some writers make theirs for their own user alone."""

SHOWN = {
    CELLS: ("cells", "genes", "perturbations"),
    SPLITS: ("test_line", "training_cells", "test_cells", "test_perturbations"),
    GENE_PRIOR: ("kind", "covered_genes"),
    MODEL: ("best_val_pearson_delta", "epochs_run", "device"),
    PREDICTIONS: ("test_line", "cells", "perturbations"),
    EVALUATION: ("test_line", "pearson_delta/model"),
    PUBLISHED: ("prior", "pearson_delta"),
    COMPARISON: ("runs", "missing", "conclusion"),
}
"""Facts of each summary that KFP shows; see `describe`."""
LONGEST_SHOWN = 120
"""Letters of such a fact."""


@dataclass(frozen=True)
class Artifact:
    """A checked artifact folder: its path, its digest and what its `provenance.json` says."""

    path: Path
    digest: str
    provenance: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and facts the making task reported."""
        return self.provenance["summary"]


class FailedError(InputError):
    """An artifact that says why there is none; see `failure`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage} failed before: {reason}")
        self.stage, self.reason = stage, reason


@dataclass
class Draft:
    """A folder being written; `summary` goes into its provenance when it is finished."""

    path: Path
    summary: dict[str, Any] = field(default_factory=dict)


@cache
def code_version() -> dict[str, str]:
    """Return the package version and, where it can be known, the revision of the source."""
    revision = os.environ.get("SCGPT_PERTURB_REVISION", "")
    if not revision:
        root = Path(__file__).resolve().parents[3]
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        found = (
            subprocess.run(git, capture_output=True, text=True, check=False)
            if (root / ".git").exists() and shutil.which("git")
            else None
        )
        revision = found.stdout.strip() if found and found.returncode == 0 else "unknown"
    return {"version": __version__, "revision": revision}


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, which must not exist, that becomes it on success."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target}: exists already; give another folder or remove it first")
    draft = _draft(target)
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _draft(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = f".{target.name}."
        return Path(tempfile.mkdtemp(prefix=name, suffix=DRAFT, dir=target.parent))
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        raise InputError(
            f"{target}: is not writable ({str(error.strerror).lower()}); give another folder"
        ) from None


@contextmanager
def writing(
    target: Path | str,
    format: str,
    *,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Artifact] | None = None,
) -> Iterator[Draft]:
    """Yield a draft of an artifact folder; on success hash its files and move it to ``target``.

    The folder appears whole or not at all; one that is there already and not empty is refused.
    ``format`` is a marker of this module, ``parameters`` what the stage was called with, anything
    that JSON can hold, and ``inputs`` the artifacts that were read, by name.
    """
    with beside(Path(target)) as folder, system_errors():
        draft = Draft(folder)
        yield draft
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        _make_readable(folder)
        provenance = {
            "format": format,
            "made_by": MADE_BY[format],
            "code": code_version(),
            "image": os.environ.get("SCGPT_PERTURB_IMAGE", "none"),
            "parameters": kept(dict(parameters)),
            "inputs": {
                name: {"format": artifact.provenance["format"], "sha256": artifact.digest}
                for name, artifact in (inputs or {}).items()
            },
            "summary": kept(draft.summary),
            "files": {
                str(path.relative_to(folder)): {
                    "sha256": sha256_of(path),
                    "bytes": path.stat().st_size,
                }
                for path in files
            },
        }
        write_json(folder / PROVENANCE, provenance)
        _make_readable(folder)


def _make_readable(folder: Path) -> None:
    """Let everyone read what is in ``folder``; what they can read is left as it is."""
    for path in folder.rglob("*"):
        mode = ENTERED if path.is_dir() else READABLE
        if not path.is_symlink() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot (other disk, bucket mount)."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def opening(path: Path | str, format: str) -> Artifact:
    """Check an artifact folder's format marker and its files, and return it.

    One in place of which a task says that it failed is a `FailedError`.
    """
    path = Path(path)
    maker = f"expected a {format} artifact as made by the {MADE_BY[format]} task"
    try:
        text = (path / PROVENANCE).read_bytes()
        provenance = json.loads(text)
        found = provenance["format"] = str(provenance["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: no readable {PROVENANCE}; {maker}") from None
    provenance = _checked(provenance, path)
    if found == FAILED != format:
        raise FailedError(provenance["summary"]["stage"], provenance["summary"]["reason"])
    if found != format:
        raise InputError(
            f"{path}: is a {found[:60]} artifact as made by the "
            f"{MADE_BY.get(found, 'unknown')} task; {maker}"
        )
    for name, facts in provenance["files"].items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file}: missing though {PROVENANCE} lists it; {_anew(path)}")
        if sha256_of(file) != facts["sha256"]:
            raise InputError(
                f"{file}: sha256 is not the one in {PROVENANCE}; the file changed or is damaged, "
                f"{_anew(path)}"
            )
    return Artifact(path, hashlib.sha256(text).hexdigest(), provenance)


class _Facts(dict[str, Any]):
    """A part of a provenance; one that lacks what a reader needs says so."""

    def __init__(self, facts: Mapping[str, Any], where: str) -> None:
        super().__init__(facts)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.where} has no '{name}'; it was made by another version or changed")


def _checked(provenance: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a provenance of the shape that `writing` gives it, of files in its folder alone."""
    where = f"{path / PROVENANCE}:"
    check_shape(provenance, shapes.PROVENANCE, where[:-1], _anew(path))
    name = f"{where} 'summary'"
    check_shape(provenance["summary"], SUMMARIES.get(provenance["format"], {}), name, _anew(path))
    for name in provenance["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{where} '{name[:80]}' is outside of its folder; {_anew(path)}")
    for part in ("parameters", "inputs", "summary", "files"):
        provenance[part] = _Facts(provenance[part], f"{where} '{part}'")
    return _Facts(provenance, where)


def _anew(path: Path) -> str:
    """Say how to have an artifact made again: a cache would only give the same one."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "submit the run again with --no-cache"
    return f"remove the folder {path}, and the next run makes it again"


def describe(path: Path | str) -> dict[str, Any]:
    """Return what KFP should show of an artifact folder: format, digest and its main facts.

    KFP copies this into the command of every later task that takes the artifact, six times into
    the workflow's own object, and into one argument for each run of a grid: so it is short, and
    everything else is in the folder's `provenance.json`.
    """
    text = (Path(path) / PROVENANCE).read_bytes()
    provenance = json.loads(text)
    shown = {"format": provenance["format"], "sha256": hashlib.sha256(text).hexdigest()}
    for name in SHOWN.get(provenance["format"], ()):
        if (value := provenance["summary"].get(name)) is not None:
            shown[name] = _short(value)
    return shown


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    long = isinstance(value, str) and len(value) > LONGEST_SHOWN
    return value[: LONGEST_SHOWN - 1] + "…" if long else value
