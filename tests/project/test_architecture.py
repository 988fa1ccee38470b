"""Data flow one way, and so do imports: what may use what, and no module in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = {
    "telling": set(),
    "storage": {"telling"},
    "artifacts": {"storage", "telling"},
    "model": {"artifacts", "storage", "telling"},
    "parameters": {"model", "artifacts", "storage", "telling"},
    "reading": {"parameters", "artifacts", "storage", "telling"},
    "findings": {"parameters", "artifacts", "storage", "telling"},
}
EVALUATE = {
    "inputs": set(),
    "measures": {"inputs"},
    "contenders": {"inputs", "measures"},
    "pages": {"inputs", "measures", "contenders"},
}


def imports() -> dict[str, set[str]]:
    """Return the project's modules that each module imports, when or after it is loaded."""
    found = {}
    for path in (ROOT / "components").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        nodes = ast.walk(ast.parse(path.read_text()))
        froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
        named = {f"{n.module}.{alias.name}" for n in froms for alias in n.names}
        found[name] = {n.module for n in froms} | named
    return {name: {x for x in used if x in found} - {name} for name, used in found.items()}


IMPORTS = imports()


@pytest.mark.parametrize(("root", "rules"), [("shared", SHARED), ("evaluate", EVALUATE)])
def test_packages_use_those_below_them_alone(root, rules):
    folder = ROOT / "components" / root
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(rules)
    prefix = f"components.{root}."
    for name, used in IMPORTS.items():
        package, *rest = name.removeprefix(prefix).split(".")
        if name.startswith(prefix) and rest:
            others = {x.removeprefix(prefix).split(".")[0] for x in used if x.startswith(prefix)}
            assert others <= rules[package] | {package}, name


def test_no_stage_uses_another():
    for name, used in IMPORTS.items():
        stages = {x.split(".")[1] for x in used if "." in x} - {"shared", *name.split(".")[1:2]}
        assert not stages, f"{name} uses {stages}"


def test_no_module_is_in_a_circle_of_imports():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for used in IMPORTS[name]:
                visit(used, (*above, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())
