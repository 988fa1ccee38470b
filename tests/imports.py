"""What a stage's code imports from outside."""

import sys

from pipelines.sources import imports_of, modules_of


def packages_of(stage: str) -> set[str]:
    """Return what a stage imports from outside, `google` with its second part: `google.cloud`."""
    names = {name for module in modules_of(stage) for name in imports_of(module)}
    parts = (name.split(".") for name in names)
    return {
        ".".join(part[:2]) if part[0] == "google" else part[0]
        for part in parts
        if part[0] not in sys.stdlib_module_names | {"components"}
    }
