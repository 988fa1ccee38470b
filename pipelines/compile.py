"""Compile the pipeline to YAML, or check that the YAML in the repository is what it compiles to."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.pipeline import scgpt_perturb

COMPILED = Path(__file__).parent / "compiled" / "scgpt-perturb.yaml"


def compile_to(path: Path) -> None:
    """Compile the pipeline to ``path``."""
    compiler.Compiler().compile(scgpt_perturb, str(path))


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the pipeline spec and the platform spec of a compiled file, SDK version set aside.

    Compiling is not byte-deterministic, so documents are compared rather than text.
    """
    parsed = [document for document in yaml.safe_load_all(path.read_text()) if document]
    for document in parsed:
        document.pop("sdkVersion", None)
    return parsed


def check_protos(path: Path) -> None:
    """Parse a compiled file into KFP's own messages; unknown fields are refused.

    Raises:
        google.protobuf.json_format.ParseError: the file is not what a KFP backend reads.
    """
    pipeline, platform = list(yaml.safe_load_all(path.read_text()))
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
    """Return whether the compiled file in the repository is what the code compiles to."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / COMPILED.name
        compile_to(fresh)
        check_protos(fresh)
        if COMPILED.exists() and documents(COMPILED) == documents(fresh):
            print(f"{COMPILED.name} is what the pipeline compiles to")
            return True
    print(f"{COMPILED}: not what the pipeline compiles to; run make compile", file=sys.stderr)
    return False


def main() -> int:
    """Compile, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if parser.parse_args().check:
        return 0 if check() else 1
    COMPILED.parent.mkdir(exist_ok=True)
    compile_to(COMPILED)
    check_protos(COMPILED)
    print(f"wrote {COMPILED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
