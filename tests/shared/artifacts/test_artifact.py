import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from components.shared.artifacts.artifact import (
    CELLS,
    COMPARISON,
    LONGEST_SHOWN,
    MODEL,
    SPLITS,
    describe,
    opening,
    writing,
)
from components.shared.telling.errors import InputError, nearest, one_line_errors


def write(folder: Path, format: str = CELLS, **kwargs) -> Path:
    with writing(folder, format, parameters={"seed": 1}, **kwargs) as draft:
        (draft.path / "data.txt").write_text("cells")
        draft.summary["cells"] = 3
    return folder


def test_a_finished_artifact_opens_with_its_summary_and_hashes(tmp_path):
    artifact = opening(write(tmp_path / "cells"), CELLS)
    assert artifact.summary == {"cells": 3}
    assert artifact.provenance["files"]["data.txt"]["bytes"] == 5
    assert artifact.provenance["code"]["version"]


def test_what_kfp_shows_of_an_artifact_is_its_format_digest_and_main_facts(tmp_path):
    facts = {"best_val_pearson_delta": 0.12345678912, "epochs_run": 4, "device": "cpu"}
    with writing(tmp_path / "model", MODEL, parameters={}) as draft:
        draft.summary |= facts | {"stop_reason": "all 4 epochs done", "history": [{}] * 1000}
    assert describe(tmp_path / "model") == {
        "format": MODEL,
        "sha256": opening(tmp_path / "model", MODEL).digest,
        "best_val_pearson_delta": 0.123457,
        "epochs_run": 4,
        "device": "cpu",
    }


def test_what_kfp_shows_stays_short(tmp_path):
    with writing(tmp_path / "comparison", COMPARISON, parameters={}) as draft:
        draft.summary |= {"conclusion": "a" * 5000, "runs": 2, "missing": None}
    shown = describe(tmp_path / "comparison")
    assert shown["conclusion"] == "a" * (LONGEST_SHOWN - 1) + "…"
    assert "missing" not in shown


def test_digests_chain_back_to_the_inputs(tmp_path):
    cells = opening(write(tmp_path / "cells"), CELLS)
    splits = opening(write(tmp_path / "splits", SPLITS, inputs={"cells": cells}), SPLITS)
    assert splits.provenance["inputs"]["cells"] == {"format": CELLS, "sha256": cells.digest}


def test_whoever_may_see_an_artifact_may_read_all_of_it(tmp_path):
    before = os.umask(0o077)
    try:
        with writing(tmp_path / "out", CELLS, parameters={}) as draft:
            (draft.path / "own").mkdir(mode=0o700)
            for name in ("a.txt", "own/b.txt"):
                (draft.path / name).touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"a.txt": 0o644, "own": 0o755, "b.txt": 0o644, "provenance.json": 0o644}


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "out", CELLS, parameters={}) as draft:
        (draft.path / "half.txt").write_text("half")
        raise RuntimeError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_target(tmp_path):
    code = f"""
        import os, signal
        from components.shared.artifacts.artifact import CELLS, writing
        with writing({str(tmp_path / "out")!r}, CELLS, parameters={{}}) as draft:
            (draft.path / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out")  # and the next try is not in its way
    opening(tmp_path / "out", CELLS)


def test_an_existing_target_is_refused_and_left_alone(tmp_path):
    folder = write(tmp_path / "cells")
    before = (folder / "provenance.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write(folder)
    assert (folder / "provenance.json").read_bytes() == before


def test_an_empty_target_folder_is_filled(tmp_path):
    (tmp_path / "cells").mkdir()
    opening(write(tmp_path / "cells"), CELLS)


def test_a_wrong_format_names_what_it_is_what_was_wanted_and_who_makes_it(tmp_path):
    folder = write(tmp_path / "cells")
    with pytest.raises(InputError) as error:
        opening(folder, MODEL)
    message = str(error.value)
    assert "cells/v1" in message
    assert "scgpt-checkpoint/v1" in message
    assert "finetune task" in message
    assert "\n" not in message


def test_a_changed_file_is_noticed(tmp_path):
    folder = write(tmp_path / "cells")
    (folder / "data.txt").write_text("cellz")
    with pytest.raises(InputError, match="sha256"):
        opening(folder, CELLS)


def test_a_missing_file_is_noticed(tmp_path):
    folder = write(tmp_path / "cells")
    (folder / "data.txt").unlink()
    with pytest.raises(InputError, match="missing"):
        opening(folder, CELLS)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_readable_provenance_is_no_artifact(tmp_path, content):
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(InputError, match="ingest task"):
        opening(tmp_path, CELLS)


def test_provenance_is_the_same_for_the_same_content(tmp_path):
    one = json.loads((write(tmp_path / "a") / "provenance.json").read_text())
    two = json.loads((write(tmp_path / "b") / "provenance.json").read_text())
    assert one == two


def test_an_input_error_is_one_line_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors("split"):
        raise InputError("file x:\n  row 3")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "split: error: file x: row 3\n"


def test_a_full_disk_is_one_line_and_other_faults_keep_their_traceback(capsys):
    with pytest.raises(SystemExit), one_line_errors("ingest"), Path("/dev/full").open("w") as full:
        full.write("cells")
        full.flush()
    assert capsys.readouterr().err.startswith("ingest: error: the disk is full")
    with pytest.raises(FileNotFoundError), one_line_errors("ingest"):
        Path("/no/such/file").read_text()


@pytest.mark.parametrize(
    ("said", "told"),
    [("I/O error: no room (os error 28)", OSError), ("no such group, errno = 2", ValueError)],
)
def test_what_the_system_said_is_raised_where_a_line_can_be_made_of_it(tmp_path, said, told):
    with pytest.raises(told), writing(tmp_path / "cells", CELLS, parameters={}):
        raise ValueError(said)
    assert not list(tmp_path.iterdir())


def test_nearest_ignores_case_and_says_nothing_when_nothing_is_near():
    assert nearest("k562", ["K562", "RPE1"]) == ", nearest: 'K562'"
    assert nearest("zzz", ["K562"]) == ""


def test_what_everyone_can_read_is_left_as_it_is_and_the_rest_is_made_so(tmp_path):
    with writing(tmp_path / "cells", CELLS, parameters={}) as draft:
        (draft.path / "inside").mkdir()
        made = {name: draft.path / name for name in ("open.txt", "closed.txt", "inside/too.txt")}
        for path in made.values():
            path.write_text("cells")
            path.chmod(0o644 if path.name == "open.txt" else 0o600)
        changed = made["open.txt"].stat().st_ctime_ns
    assert (tmp_path / "cells" / "open.txt").stat().st_ctime_ns == changed
    for name in made:
        assert (tmp_path / "cells" / name).stat().st_mode & 0o777 == 0o644
