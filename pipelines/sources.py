"""Which files a stage is made of, read from its imports: functions import too."""

import ast
import hashlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from pipelines.images import NOT_CONTENT, ROOT

STYLE = ".css"
KEEPS_ITS_LOOK = ("finetune",)
"""Stages that take hours: how a page of theirs looks makes none of their results stale."""


def digest_of_code(stage: str, root: Path = ROOT) -> str:
    """Return a digest of what a stage is made of; files that it does not reach change nothing."""
    digest = hashlib.sha256()
    for path in files_of(stage, root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()[:16]


def files_of(stage: str, root: Path = ROOT) -> list[Path]:
    """Return the files that a stage is made of, in a fixed order.

    That is all of its own folder, the modules of other folders that it imports, and of the files
    beside those the ones that they name, as a stylesheet.
    """
    own = root / "components" / stage
    modules = modules_of(stage, root)
    found = {path for path in own.rglob("*") if path.is_file() and _is_content(path)}
    for module in modules - found:
        # What Python runs of the packages around a module is a part of it.
        packages = (root / folder / "__init__.py" for folder in module.relative_to(root).parents)
        found |= {module, *_named_beside(module), *filter(Path.is_file, packages)}
    return sorted(p for p in found if p.suffix != STYLE or stage not in KEEPS_ITS_LOOK)


def modules_of(stage: str, root: Path = ROOT) -> set[Path]:
    """Return the modules of a stage and those of `components` that they reach."""
    todo = list((root / "components" / stage).rglob("*.py"))
    found: set[Path] = set()
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            ours = (name for name in imports_of(module) if name.startswith("components."))
            paths = (root / f"{name.replace('.', '/')}.py" for name in ours)
            todo += [path for path in paths if path.is_file()]
    return found


def imports_of(module: Path) -> set[str]:
    """Return the names that a module imports, and what it imports of them: `a`, `a.b`."""
    return _imported(module.read_text())


@cache  # most modules are part of several stages
def _imported(source: str) -> set[str]:
    found: set[str] = set()
    for statement in _statements(source):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            of = statement.module
            found |= {of, *(f"{of}.{alias.name}" for alias in statement.names)}
    return found


def _statements(source: str) -> Iterator[ast.AST]:
    """Yield all statements, and none of the expressions in them, which are ten times as many."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        yield (node := todo.pop())
        for blocks in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, blocks, ())


def _named_beside(module: Path) -> Iterator[Path]:
    """Yield the files and folders beside a module that its source names, modules apart."""
    source = module.read_text()
    for path in module.parent.iterdir():
        quoted = rf"""(["']){re.escape(path.name)}\1"""
        if path.suffix == ".py" or not re.search(quoted, source):
            continue
        inside = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in inside if file.is_file() and _is_content(file))


def _is_content(path: Path) -> bool:
    return not any(fnmatch(path.name, pattern) for pattern in NOT_CONTENT)
