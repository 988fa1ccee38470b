"""Write a screen: `python -m components.ingest.generator URI OUT.h5ad`."""

import sys
from pathlib import Path

from components.ingest.generator.screen import write_raw
from components.shared.telling.errors import InputError, one_line_errors, say


def main() -> None:
    """Write a screen: `python -m components.ingest.generator URI OUT.h5ad`."""
    with one_line_errors("generator"):
        if len(sys.argv) != 3:
            raise InputError("expected two arguments: a sim:// URI and the h5ad file to write")
        write_raw(sys.argv[1], Path(sys.argv[2]))
        say(f"generator: wrote {sys.argv[2]}")


if __name__ == "__main__":
    main()
