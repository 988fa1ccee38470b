"""Pages: their encoding."""

import subprocess
import sys
from pathlib import Path


def test_a_page_is_utf8_where_the_machines_own_encoding_is_another(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom components.shared.telling.page import *\n"
    code += "write_page(Path(sys.argv[1]), 'a \\N{GREEK SMALL LETTER ALPHA}')"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, str(tmp_path / "page.html")]
    subprocess.run(command, env=plain, cwd=root, check=True)
    assert (tmp_path / "page.html").read_bytes() == b"a \xce\xb1"
