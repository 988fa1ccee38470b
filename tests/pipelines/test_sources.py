"""What a stage is made of: a change of anything else leaves its finished work in the cache."""

import ast
from pathlib import Path

import pytest

from pipelines.images import NOT_CONTENT, ROOT, stages
from pipelines.sources import digest_of_code, files_of

TREE = {
    "components/__init__.py": "",
    "components/shared/__init__.py": "",
    "components/shared/cells.py": "def read():\n    from components.shared import deep\n",
    "components/shared/deep.py": "import numpy",
    "components/shared/page.py": "STYLE = 'page.css'",
    "components/shared/telling/page.css": "body {}",
    "components/shared/README.md": "",
    "components/train/__init__.py": "",
    "components/train/train.py": "from components.shared.cells import read",
    "components/train/recipes/default.yaml": "epochs: 3",
    "components/train/README.md": "",
    "components/report/report.py": "from components.shared import page",
    "components/report/card.md.j2": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("components/__init__.py", {"train", "report"}),
        ("components/shared/__init__.py", {"train", "report"}),
        ("components/shared/cells.py", {"train"}),
        ("components/shared/deep.py", {"train"}),
        ("components/shared/page.py", {"report"}),
        ("components/shared/page.css", {"report"}),
        ("components/shared/new.py", set()),
        ("components/shared/README.md", set()),
        ("components/train/train.py", {"train"}),
        ("components/train/new.py", {"train"}),
        ("components/train/recipes/default.yaml", {"train"}),
        ("components/train/README.md", set()),
        ("components/train/.editor.swp", set()),
        ("components/report/report.py", {"report"}),
        ("components/report/card.md.j2", {"report"}),
    ],
)
def test_a_change_makes_stale_the_stages_that_reach_it(tree, changed, stale):
    def digests():
        return {stage: digest_of_code(stage, tree) for stage in ("train", "report")}

    before = digests()
    assert digests() == before
    (tree / changed).write_text(f"{TREE.get(changed, '')}\n# changed")
    after = digests()
    assert {stage for stage in after if after[stage] != before[stage]} == stale


def test_neither_a_stylesheet_nor_a_card_trains_again():
    trained = {str(path.relative_to(ROOT)) for path in files_of("finetune")}
    assert "components/shared/telling/page.css" not in trained
    assert not any(name.startswith("components/publish/") for name in trained)
    assert "components/shared/parameters/recipes/default.yaml" in trained
    assert "components/shared/model/transformer.py" in trained
    assert ROOT / "components/shared/telling/page.css" in files_of("evaluate")


def test_every_file_of_components_belongs_to_a_stage():
    everything = {
        path
        for path in (ROOT / "components").rglob("*")
        if path.is_file() and not any(path.match(name) for name in NOT_CONTENT)
    }
    for_callers = {ROOT / "components/shared/errors.py"}
    assert everything - for_callers == {path for stage in stages() for path in files_of(stage)}


def test_no_module_imports_relative_to_itself():
    """Such an import would not be followed."""
    for path in (ROOT / "components").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or not node.level, path
