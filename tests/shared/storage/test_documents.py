"""JSON and text files: what is written can be read by any reader."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.storage.documents import read_json, write_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.json"
    write_json(path, content)
    assert read_json(path, "written.json", "") == content
    assert path.read_bytes().endswith(b"}\n") and path.read_bytes().isascii()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_refused_and_nothing_written(
    tmp_path: Path, number: float
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"scores": [0.5, number]})
    assert not (tmp_path / "x.json").exists()


def test_a_text_is_utf8_where_the_machines_own_encoding_is_another(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\n"
    code += "from components.shared.storage.documents import write_text\n"
    code += "write_text(Path(sys.argv[1]), 'a \\N{GREEK SMALL LETTER ALPHA}')"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "page.html")]
    subprocess.run(command, env=plain, cwd=Path(__file__).resolve().parents[3], check=True)
    assert (tmp_path / "page.html").read_bytes() == b"a \xce\xb1"
