"""Ctrl-C ends a run in one line, and the same command continues it."""

import re
from pathlib import Path

from tests.pipelines.runs import interrupt, no_process_left, started, started_warm, wait_for


def test_ctrl_c_keeps_a_checkpoint_from_which_the_same_command_resumes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with started(tmp_path / "runs", first) as run:
        wait_for(r"epoch [23]/400", tmp_path / "runs", run.poll)
        assert interrupt(run) == 130
        assert no_process_left(run.pid)
    said = first.read_text()
    assert not re.search("Traceback|KeyboardInterrupt|Skipping|conclude", said)
    assert len(re.findall("stopped at epoch", said)) == 1
    assert not re.search(r"failed after|epoch \d+/", said.partition("stopped at epoch")[2])
    assert re.search(r"finetune +stopped at epoch (\d+), step \d+; .*same command resumes", said)
    assert said.rstrip().splitlines()[-1].startswith("run: stopped; the same command continues")
    with started_warm(tmp_path / "runs", second) as again:
        resumed = r"finetune: resuming from epoch ([2-9]|\d\d)"
        wait_for(resumed, tmp_path / "runs", lambda: again.exitcode)
