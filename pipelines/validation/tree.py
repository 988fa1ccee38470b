"""Files to validate: rendered overlays, compiled pipelines, and the files beside them."""

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hcl2
import yaml
from lark.exceptions import LarkError

from components.shared.telling.errors import InputError

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Compiled pipelines are long; the loader in C reads them ten times faster."""
NAMESPACE = "kubeflow"
TERRAFORM = "manifests/gke/main.tf"
SECRETS = "manifests/secrets.example.yaml"
POOL = "google_container_node_pool"
OWN = "scgpt-perturb"
"""Name of our service account, role, quota and priority class."""
COMPILED = "pipelines/compiled"
RELEASE = "build/release"
"""Where the same pipelines are with images by digest, as `make check-compiled` makes sure."""


@dataclass(frozen=True)
class Object:
    """A Kubernetes object, and the overlays that render it; or a resource of Terraform's."""

    data: dict[str, Any]
    overlays: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.data.get("kind"))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.data["metadata"]["name"])

    @property
    def spec(self) -> dict[str, Any]:
        """Its spec, or nothing."""
        return self.data.get("spec") or {}

    def __str__(self) -> str:
        where = (
            TERRAFORM if TERRAFORM in self.overlays else f"manifests ({', '.join(self.overlays)})"
        )
        return f"{where}: {self.kind}/{self.name}"


class Tree:
    """The repository, or a copy of the part of it that concerns clusters."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def rendered(self) -> dict[str, list[dict[str, Any]] | str]:
        """Objects of each overlay as kustomize renders it, or kustomize's complaint."""
        kubectl = shutil.which("kubectl")
        if not kubectl:
            raise InputError(
                "kubectl is not on PATH; install 1.27 or later (https://kubernetes.io/docs/tasks/tools)"
            )
        results: dict[str, list[dict[str, Any]] | str] = {}
        for path in sorted(self.root.glob("manifests/overlays/*/kustomization.yaml")):
            done = subprocess.run(
                [kubectl, "kustomize", str(path.parent)],
                capture_output=True,
                text=True,
                check=False,
            )
            results[path.parent.name] = (
                (done.stderr.strip() or "no output").splitlines()[-1]
                if done.returncode
                else documents(path.parent.name, done.stdout)
            )
        return results

    @cached_property
    def overlays(self) -> dict[str, list[dict[str, Any]]]:
        """Objects of each overlay that kustomize renders."""
        return {name: found for name, found in self.rendered.items() if isinstance(found, list)}

    @cached_property
    def patches(self) -> list[dict[str, Any]]:
        """Patches of KFP's own objects, each as the part of the object that it sets."""
        found = self.files("manifests/kfp/*.yaml")
        return [document for name, text in found for document in _objects(name, text)]

    @cached_property
    def objects(self) -> list[Object]:
        """All objects and patches; one that several overlays render alike is there once."""
        seen: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for overlay, found in (self.overlays | {"kfp": self.patches}).items():
            for document in found:
                seen.setdefault(json.dumps(document, sort_keys=True), (document, []))[1].append(
                    overlay
                )
        return [Object(document, tuple(names)) for document, names in seen.values()]

    def all_of(self, kind: str, name: str | None = None) -> list[Object]:
        """Return the objects of a kind, perhaps only those of a name."""
        return [o for o in self.objects if o.kind == kind and name in (None, o.name)]

    def in_each_overlay(self, check: Callable[[str, list[dict[str, Any]]], list[str]]) -> list[str]:
        """Return what ``check`` finds in the objects of each overlay, what is alike in one line."""
        overlays = defaultdict(list)
        for overlay, rendered in self.overlays.items():
            for finding in check(overlay, rendered):
                overlays[finding].append(overlay)
        return [f"manifests ({', '.join(names)}): {found}" for found, names in overlays.items()]

    @cached_property
    def packages(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Each compiled pipeline: file, pipeline spec, platform spec."""
        found = []
        for name, text in self.files(f"{COMPILED}/*.yaml"):
            spec, platform = [*documents(name, text), {}, {}][:2]
            if not (spec.get("root", {}).get("inputDefinitions") and platform.get("platforms")):
                raise InputError(f"{name}: is not a compiled pipeline; run make compile")
            found.append((name, spec, platform))
        return found

    @cached_property
    def secrets(self) -> dict[str, set[str]]:
        """Keys of each secret that the example names."""
        found = _objects(SECRETS, self.text(SECRETS))
        return {d["metadata"]["name"]: set(d.get("stringData") or {}) for d in found}

    @cached_property
    def _hcl(self) -> dict[str, list[dict[str, Any]]]:
        options = hcl2.SerializationOptions(
            strip_string_quotes=True, with_comments=False, explicit_blocks=False
        )
        try:
            found: dict[str, list[dict[str, Any]]] = hcl2.loads(
                self.text(TERRAFORM), serialization_options=options
            )
        except LarkError as error:
            raise InputError(f"{TERRAFORM}: not Terraform ({str(error).splitlines()[0]})") from None
        return found

    @cached_property
    def terraform(self) -> list[Object]:
        """Terraform's resources."""
        return [
            Object(body | {"kind": kind, "metadata": {"name": name}}, (TERRAFORM,))
            for block in self._hcl.get("resource", [])
            for kind, named in block.items()
            for name, body in named.items()
        ]

    @cached_property
    def pools(self) -> dict[str, dict[str, Any]]:
        """Terraform's node pools with H100s by name."""
        return {
            name: pool
            for block in self._hcl.get("locals", [])
            for name, pool in block.get("h100_pools", {}).items()
        }

    @cached_property
    def cpu_node(self) -> dict[str, Any]:
        """Terraform's settings of a node without GPU."""
        pools = [o for o in self.terraform if (o.kind, o.name) == (POOL, "cpu")]
        return dict(pools[0].data["node_config"][0]) if pools else {}

    def files(self, *patterns: str) -> Iterator[tuple[str, str]]:
        """Yield path and text of the files that match, in order."""
        for path in sorted({path for pattern in patterns for path in self.root.glob(pattern)}):
            if path.is_file():
                yield str(path.relative_to(self.root)), path.read_text()

    def text(self, path: str) -> str:
        """Return the text of a file, empty if it is not there."""
        file = self.root / path
        return file.read_text() if file.is_file() else ""


def documents(path: str, text: str) -> list[dict[str, Any]]:
    """Return the mappings in a YAML file."""
    try:
        loaded = yaml.load_all(text, Loader=LOADER)
        return [document for document in loaded if isinstance(document, dict)]
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise InputError(f"{path}: not YAML ({told}); correct it") from None


def _objects(path: str, text: str) -> list[dict[str, Any]]:
    found = documents(path, text)
    for document in found:
        if not {"apiVersion", "kind"} <= set(document) or not (document.get("metadata") or {}).get(
            "name"
        ):
            raise InputError(f"{path}: expected objects with apiVersion, kind and metadata.name")
    return found
