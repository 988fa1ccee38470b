"""Compile the pipeline to YAML, or check that the YAML in the repository is what it compiles to."""

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.telling.errors import one_line_errors, say
from pipelines import compare, line, pipeline
from pipelines.form import make_form
from pipelines.images import development_images, released_images
from pipelines.lean import make_lean
from pipelines.scheduling import CPU, H100

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FOLDER = Path(__file__).parent / "compiled"
RELEASES = Path(__file__).resolve().parents[1] / "build" / "release"
PIPELINES = {
    pipeline.NAME: pipeline.pipeline_on,
    compare.NAME: compare.comparison_on,
    line.NAME: line.prediction_on,
}
PROFILES = {
    Path(profile.package(name)).name: (pipeline_on, profile)
    for name, pipeline_on in PIPELINES.items()
    for profile in (H100, CPU)
}
"""Compiled files: file name to the pipeline and the kind of cluster it is for."""
DEFAULT = re.compile(r"^(#    \w+: (?:dict|list) \[Default: )(.*)\]$", re.MULTILINE)
"""A comment line of a compiled file that shows a default which may have keys."""


def compile_to(folder: Path, images: Mapping[str, str]) -> list[Path]:
    """Compile every pipeline for every profile into ``folder``; check and return what was written.

    Each file is replaced only when the new one is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (pipeline_on, profile) in PROFILES.items():
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as scratch:
            draft = Path(scratch) / name
            made = pipeline_on(profile, images)
            make_lean(made.pipeline_spec)
            make_form(made.pipeline_spec, profile)
            compiler.Compiler().compile(made, str(draft))
            draft.write_text(in_fixed_order(draft.read_text()))
            check_protos(draft)
            written.append(draft.replace(folder / name))
    return written


def in_fixed_order(text: str) -> str:
    """Return a compiled file in which the defaults of its comment lines have their keys sorted.

    KFP writes them in the order of a protocol buffer's map, another one in each process.
    """
    return DEFAULT.sub(lambda found: f"{found[1]}{_sorted(ast.literal_eval(found[2]))}]", text)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the pipeline spec and the platform spec of a compiled file, SDK version set aside."""
    parsed = [document for document in yaml.load_all(path.read_text(), Loader=LOADER) if document]
    for document in parsed:
        document.pop("sdkVersion", None)
    return parsed


def check_protos(path: Path) -> None:
    """Parse a compiled file into KFP's own messages; unknown fields are refused."""
    pipeline, platform = list(yaml.load_all(path.read_text(), Loader=LOADER))
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    spec = pipeline_spec_pb2.PlatformSpec()
    json_format.ParseDict(platform, spec)
    executors = spec.platforms["kubernetes"].deployment_spec.executors
    for executor in executors.values():
        json_format.ParseDict(
            json_format.MessageToDict(executor),
            kubernetes_executor_config_pb2.KubernetesExecutorConfig(),
        )


def check() -> bool:
    """Return whether the compiled files here, a release's too, are what the code compiles to.

    Raises:
        InputError: there is a release, and no lock of images of this code.
    """
    folders = {FOLDER: development_images()}
    if RELEASES.is_dir():
        folders[RELEASES] = released_images()
    old = []
    for folder, images in folders.items():
        with tempfile.TemporaryDirectory() as scratch:
            old += [folder / name for name in stale(folder, compile_to(Path(scratch), images))]
    for path in old:
        release = " RELEASE=1" if path.parent == RELEASES else ""
        say(f"{path}: not what the pipeline compiles to; run make compile{release}")
    if not old:
        print(f"{', '.join(PROFILES)}: what the pipeline compiles to")
    return not old


def stale(folder: Path, fresh: Iterable[Path]) -> list[str]:
    """Return which files of ``folder`` are not there or say something else than ``fresh`` ones."""
    return [
        path.name
        for path in fresh
        if not (folder / path.name).exists() or documents(folder / path.name) != documents(path)
    ]


def argument_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument(
        "--release", action="store_true", help=f"images by digest, into {RELEASES.name}"
    )
    return parser


def main(given: list[str] | None = None) -> int:
    """Compile, or with --check compare."""
    arguments = argument_parser().parse_args(given)
    with one_line_errors("compile"):
        if arguments.check:
            return 0 if check() else 1
        if arguments.release:
            written = compile_to(RELEASES, released_images())
        else:
            written = compile_to(FOLDER, development_images())
    for path in written:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
