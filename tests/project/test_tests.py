"""Each test module stands by itself, and knows of the product what the product offers to others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "tests").rglob("*.py"))
OURS = ("components", "pipelines", "benchmarks", "tests")
PRIVATE = re.compile(r"(components|pipelines|benchmarks)(\.\w+)*\._[a-z]\w*")


def is_ours(name: str | None) -> bool:
    return (name or "").split(".")[0] in OURS


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what a module imports of the project's: its full name, and the name it has here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_ours(node.module):
            yield from ((f"{node.module}.{a.name}", a.asname or a.name) for a in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, a.asname or a.name) for a in node.names if is_ours(a.name))


def is_module(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).with_suffix(".py").exists()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(text: str) -> set[str]:
    """Return the project's private names that a module imports, looks up or replaces."""
    tree = ast.parse(text)
    names = dict(imported(tree))
    found = {name for name in names if any(map(is_private, name.split(".")))}
    modules = {here for name, here in names.items() if is_module(name)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                found |= {f"{owner}.{name}"} if owner in modules and is_private(name) else set()
            case ast.Constant(value=str(name)) if PRIVATE.fullmatch(name):
                found.add(name)
            case ast.Call(args=[ast.Name(id=owner), ast.Constant(value=str(name)), *_]):
                # monkeypatch.setattr(module, "_name", …)
                found |= {f"{owner}.{name}"} if owner in modules and is_private(name) else set()
    return found


def imported_tests(text: str) -> set[str]:
    """Return the test modules that a module imports."""
    names = (name for name, _ in imported(ast.parse(text)))
    return {name for name in names if re.search(r"(^|\.)test_", name)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_imports_a_test_or_a_private_name(path: Path) -> None:
    assert not imported_tests(path.read_text())
    assert not private_names(path.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "from tests.split.test_split import run",
        "from tests.split import test_split",
        "import tests.split.test_split",
    ],
)
def test_the_import_of_a_test_is_found(text: str) -> None:
    assert imported_tests(text)


@pytest.mark.parametrize(
    "text",
    [
        "from components.predict.predict import _mean",
        "import components.predict._parts",
        "from pipelines import images\nimages._source()",
        "def test(m):\n    from pipelines import images as i\n    m.setattr(i, '_source', 1)",
        "setattr('components.shared.storage.files._download', 1)",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert private_names(text)
