"""What a stage's code imports, read from its source: functions import too."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules_of(stage: str) -> set[Path]:
    """Return the modules of a stage and those of `components` that they reach."""
    todo = list((ROOT / "components" / stage).glob("*.py"))
    found: set[Path] = set()
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            names = (ROOT / f"{name.replace('.', '/')}.py" for name in _imports(module))
            todo += [path for path in names if path.is_file()]
    return found


def packages_of(stage: str) -> set[str]:
    """Return what a stage imports from outside, `google` with its second part: `google.cloud`."""
    names = {name for module in modules_of(stage) for name in _imports(module)}
    parts = (name.split(".") for name in names)
    return {
        ".".join(part[:2]) if part[0] == "google" else part[0]
        for part in parts
        if part[0] not in sys.stdlib_module_names | {"components"}
    }


def _imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
