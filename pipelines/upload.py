"""Upload the compiled pipelines to a cluster, each with a short manual that KFP's UI shows.

    python -m pipelines.upload --host https://… [--packages build/release]

A version is named by release and content, so what is there already is not uploaded twice.
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import __version__
from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError, one_line_errors
from pipelines.cluster import OTHER_PAGE, Client, bare_host, connect, one_line_api_errors
from pipelines.form import FROM_EXAMPLE
from pipelines.package import Package, read_package
from pipelines.run import PARAMS, read_params
from pipelines.submit import COMPILED, warn_of_tags

EXAMPLES = {
    "scgpt-perturb": "demo.yaml",
    "compare-priors": "compare-demo.yaml",
    "predict-line": "predict-line.yaml",
}
"""The parameter file that the manual of a pipeline takes its examples from."""
ALWAYS = (*FROM_EXAMPLE, "prior", "model", "perturbations", "publish_to")
"""Parameters that a manual tells even where their default stands in the example."""
LITERAL = re.compile(r"[^\s,;()]*[_<>][^\s,;()]*")
"""Characters that Markdown would take for emphasis or an HTML tag."""
AS_IT_STANDS = (
    "**To try it:** press *Create run*, then *Start*: as it stands the form runs on generated "
    "cells with a tiny model. For cells of your own put in what is below."
)
START = (
    "**To start:** press *Create run*, fill in the form and press *Start*. "
    "Lists and dicts are written as JSON; what is not named here may stay as it is."
)
AGAIN = {
    "prior": "**With another prior:** press *Clone run*, change `prior` and press *Start*. What "
    "the prior does not touch (ingest, split) comes from the cache.",
    "priors": "**With more priors or seeds:** press *Clone run*, add to `priors` or `seeds` and "
    "press *Start*. Runs that were made before come from the cache.",
    "model": "**Another line:** press *Clone run*, change `dataset` and press *Start*. `model` is "
    "the folder that a run of the training pipeline published.",
}
END = "The last task, `conclude`, shows the result of a run, or what failed and how to continue."


@dataclass(frozen=True)
class Uploaded:
    """A version of a pipeline on a cluster."""

    pipeline_id: str
    version_id: str
    new: bool
    """Whether it was not there before."""


def manual(package: Package) -> str:
    """Return what KFP's UI is to say of a pipeline, in Markdown."""
    about = package.spec["pipelineInfo"]
    inputs = package.spec["root"]["inputDefinitions"]["parameters"]
    example = read_params(PARAMS / EXAMPLES[about["name"]], [])
    lines = [f"- {line}" for line in _told(inputs, example)]
    again = [text for name, text in AGAIN.items() if name in inputs]
    needs = f"**Nodes:** {_nodes(inputs)}."
    fields = "\n".join(["**Fill in:**", "", *lines])
    ready = [AS_IT_STANDS] if all(map(_optional, inputs.values())) else []
    return "\n\n".join([f"{about['description']}.", *ready, START, fields, *again, needs, END])


def _told(inputs: Mapping[str, Any], example: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per parameter: those without a default first."""
    for name in sorted(inputs, key=lambda name: (_optional(inputs[name]), name)):
        about = inputs[name]
        value = example.get(name, about.get("defaultValue"))
        differs = name in example and value != about.get("defaultValue")
        if name not in ALWAYS and _optional(about) and not differs:
            continue
        text = " ".join(about.get("description", "").split()).rstrip(".")
        told = differs or name in FROM_EXAMPLE
        typed = value if isinstance(value, str) else json.dumps(value)
        given = f"; for example `{typed}`" if told else ""
        said = LITERAL.sub(r"`\g<0>`", text)
        yield f"`{name}`: {said}{given}"


def _optional(about: Mapping[str, Any]) -> bool:
    return bool(about.get("isOptional"))


def _nodes(inputs: Mapping[str, Any]) -> str:
    gpus = int(inputs["gpus"].get("defaultValue", 0))
    if not gpus:
        return "requests no GPU, so for small data only"
    selector = json.dumps(inputs["node_selector"].get("defaultValue", {}))
    return f"{gpus} GPU on nodes with `{selector}`, unless `gpus` and `node_selector` say otherwise"


def version_of(package: Package) -> str:
    """Return the name of a package's version: the release, and digits of what was compiled."""
    documents = [package.spec, package.platform]
    text = json.dumps(documents, sort_keys=True)  # compiling may write keys in another order
    return f"v{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def upload(client: Client, package: Package, name: str, namespace: str = "") -> Uploaded:
    """Upload a package as a version of the pipeline ``name``, which is made if there is none.

    Raises:
        ApiException, HTTPError: see `API_ERRORS`.
        InputError: an answer that is not KFP's.
    """
    version, told = version_of(package), manual(package)
    found = client.pipeline_id(name, namespace) or client.create_pipeline(name, told, namespace)
    if not found:
        raise InputError(f"{OTHER_PAGE}; check HOST, or forward the port")
    if there := client.version_id(found, version):
        return Uploaded(found, there, new=False)
    with redirect_stdout(io.StringIO()):  # the client prints a link of its own
        made = client.upload_pipeline_version(
            str(package.path), version, pipeline_id=found, description=told
        )
    return Uploaded(found, made.pipeline_version_id, new=True)


def packages_in(folder: Path) -> list[Path]:
    """Return the compiled pipelines of a folder."""
    found = sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    if not found:
        raise InputError(f"{folder}: no compiled pipelines; make compile writes them")
    return found


def argument_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="upload", description="Upload the compiled pipelines.")
    add = parser.add_argument
    add("--host", required=True, help="address of KFP's UI")
    add("--packages", type=Path, default=COMPILED, help="folder of compiled pipelines")
    add("--namespace", default="", help="of the pipelines, in multi-user Kubeflow")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Upload what the command line says."""
    parsed = argument_parser().parse_args(arguments)
    with one_line_errors("upload"):
        host = bare_host(parsed.host)
        packages = [read_package(path) for path in packages_in(parsed.packages)]
        warn_of_tags(packages[0])
        with one_line_api_errors(host):
            client = connect(host)
            for package in packages:
                name = package.path.stem
                made = upload(client, package, name, parsed.namespace)
                what = "uploaded" if made.new else "is there already"
                ui = shown(os.environ.get("KF_PIPELINES_UI_ENDPOINT", host).rstrip("/"))
                page = f"{ui}/#/pipelines/details/{made.pipeline_id}/version/{made.version_id}"
                print(f"{name} {version_of(package)} {what}: {page}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
