"""Validate what a cluster is given: manifests, node pools and compiled pipelines, together.

    python -m pipelines.validate

Nothing here needs a cluster. Every finding is one line; with any, the exit code is 1. Whether the
compiled pipelines are what the code compiles to is for `make check-compiled`, which `make validate`
runs first.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from components.shared.telling.errors import InputError, say
from pipelines.validation import compiled, file_text, gke, kubernetes_objects, readme, rules
from pipelines.validation.tree import Tree

ROOT = Path(__file__).resolve().parents[1]
CHECKS: tuple[Callable[[Tree], list[str]], ...] = (
    kubernetes_objects.check_kustomize,
    kubernetes_objects.check_schemas,
    kubernetes_objects.check_names,
    kubernetes_objects.check_references,
    kubernetes_objects.check_allowed,
    rules.check_rules,
    compiled.check_packages,
    compiled.check_params,
    compiled.check_secrets,
    compiled.check_room,
    gke.check_terraform,
    gke.check_requests,
    gke.check_disk,
    file_text.check_no_secrets,
    file_text.check_retry,
    readme.check_commands,
    readme.check_submits,
    readme.check_named,
)


def findings(root: Path) -> list[str]:
    """Return what is wrong in the tree at ``root``, a line each."""
    tree, found = Tree(root), []
    for check in CHECKS:
        try:
            found += check(tree)
        except InputError as error:  # what the check needs is missing or cannot be read
            found.append(str(error))
    return list(dict.fromkeys(found))


def main() -> int:
    """Validate the repository, or the tree that is given."""
    parser = argparse.ArgumentParser(
        prog="validate", description="Validate manifests and pipelines."
    )
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree to look at")
    root, started = parser.parse_args().root, time.perf_counter()
    found = findings(root)
    for finding in found:
        say(f"validate: {finding}")
    if found:
        say(f"validate: {len(found)} findings")
        return 1
    spent = time.perf_counter() - started
    print(f"validate: {len(CHECKS)} checks found nothing wrong in {spent:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
