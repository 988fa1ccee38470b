"""What a run on this machine prints: tasks side by side, each line whole and with its run."""

import io
import logging
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.local_log import label_of, readable_log

ITEM = "Applying expression selector 'x' to parent value: {'prior': '%s', 'seed': %s}"
JSON = ["{", '  "inputs": {', '    "error": "}"', "  }", "}"]


def interleaved(*tasks: list[str]) -> None:
    """Print the lines of tasks in threads of their own, each line in pieces, in turns."""
    turns = [threading.Semaphore(0) for _ in tasks]

    def work(number: int, lines: list[str]) -> None:
        pieces = [piece for line in lines for piece in ("    ", line[:4], line[4:] + "\n")]
        turns[number].acquire()
        logging.info(ITEM, "effects" if number else "none", number)
        logging.info("Executing task 'prior'")
        for piece in pieces:
            turns[(number + 1) % len(tasks)].release()
            turns[number].acquire()
            sys.stdout.write(piece)
        turns[(number + 1) % len(tasks)].release()

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()


def test_two_tasks_side_by_side_are_not_mixed_and_carry_their_runs(capsys):
    with readable_log() as told:
        first = ["[KFP Executor 1] Got executor_input:", *JSON, "note: one", "prior: error: broken"]
        second = ["note: alpha", "note: beta", "[KFP Executor 2] x", "note: gamma", "note: delta"]
        interleaved(first, second + ["note: more"] * 3)
    lines = capsys.readouterr().out.splitlines()
    mine = [line for line in lines if line.startswith("[none seed 0] ")]
    other = [line for line in lines if line.startswith("[effects seed 1] ")]
    assert mine == ["[none seed 0] prior       note: one", "[none seed 0] prior: error: broken"]
    names = ["alpha", "beta", "gamma", "delta", "more"]  # said again, it is progress
    assert other == [f"[effects seed 1] prior       note: {name}" for name in names]
    assert len(lines) == len(mine) + len(other)
    assert told.told_errors == ["prior: error: broken"]


@pytest.mark.parametrize(
    "before",
    [
        ["[KFP Executor 1] Got executor_input:", "{", '  "inputs": {'],
        ["Task outputs:", "metadata={"],
        ["    conclude: result: x"],
    ],
)
def test_an_error_line_never_vanishes(capsys, before):
    with readable_log():
        logging.info("Executing task 'conclude'")
        for line in before:
            print(line)
        print("        split: error: no such line")
        sys.stdout.write("predict: error: without an end")
    out = capsys.readouterr().out
    assert "split: error: no such line" in out and "predict: error: without an end" in out


def test_json_that_ends_deeper_than_it_began_hides_nothing_after_it(capsys):
    with readable_log():
        given = ["[KFP Executor 1] Got executor_input:", *(f"    {line}" for line in JSON)]
        does("finetune", *given, "finetune: WARNING: x")
    assert capsys.readouterr().out.splitlines()[0] == "finetune    WARNING: x"


def does(task, *lines, ends="SUCCESS"):
    """Log and print what KFP and a task do."""
    logging.info("Executing task '%s'", task)
    for line in lines:
        print("    " + line)
    say = logging.info if ends == "SUCCESS" else logging.error
    say("Task '%s' finished with status %s", task, ends)


def test_each_task_is_a_line_with_what_it_made_and_the_rest_is_in_the_log(capsys, tmp_path):
    with readable_log(tmp_path / "log.txt"):
        does("check")
        does("ingest", "ingest: reading", "ingest: wrote /a/b: 6 cells x 3 genes")
        does("finetune-2", "finetune: epoch 1: loss 2", "finetune: WARNING: few", "gs://x: damaged")
        does("evaluate", "evaluate: wrote /c: 3 scored; open /c/report.html")
        logging.info("Task split cache hit (key=0123456789ab); reusing outputs")
        does("conclude", "conclude: what came of it")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["check", "done,", "0", "s"],
        ["ingest", "6", "cells", "x", "3", "genes,", "0", "s"],
        ["finetune", "WARNING:", "few"],
        ["finetune", "gs://x:", "damaged"],
        ["finetune", "done,", "0", "s"],
        ["evaluate", "3", "scored,", "0", "s"],
        ["split", "from", "the", "cache"],
    ]
    log = (tmp_path / "log.txt").read_text()
    for words in ("ingest: reading", "loss 2", "Executing task", "cache hit", "what came of it"):
        assert words in log, words


def test_a_task_that_fails_without_an_error_line_shows_what_it_said_last(capsys):
    with readable_log():
        does("split", "split: error: no such line", "split: more", ends="FAILURE")
        does("predict", *(f"line {n}" for n in range(99)), "KeyError: 3", ends="FAILURE")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["split: error: no such line", "split       failed after 0 s"]
    assert lines[2:-2] == [f"line {n}" for n in range(60, 99)]
    assert lines[-2:] == ["KeyError: 3", "predict     failed after 0 s"]


def test_processes_that_say_why_elsewhere_show_what_they_said(capsys):
    words = ("Traceback (most recent call last):", "KeyError: 3")
    error = "finetune: error: 2 of 2 processes ended early, exit code 1; the line above says why"
    with readable_log():
        does("finetune", *words, error, ends="FAILURE")
        does("finetune", "finetune: error: no such line", error, ends="FAILURE")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [error, *words, "finetune    failed after 0 s"]
    assert lines[4:] == ["finetune: error: no such line", error, "finetune    failed after 0 s"]


def test_a_task_that_ends_because_the_run_was_told_to_stop_has_not_failed(capsys):
    with readable_log() as told:
        told.stopped = lambda: True
        does("finetune", "epoch 1/2: 50%|", "finetune: stopped at epoch 1, step 2", ends="FAILURE")
        does("predict", ends="FAILURE")
    assert capsys.readouterr().out.splitlines() == ["finetune    stopped at epoch 1, step 2"]


def test_the_last_words_are_heard_without_the_end_of_their_line(capsys):
    with readable_log():
        logging.info("Executing task 'predict'")
        sys.stdout.write("    Killed")
        logging.error("Task 'predict' finished with status FAILURE")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["Killed", "predict     failed after 0 s"]


@pytest.mark.parametrize(
    ("task", "line", "shown"),
    [
        (
            "publish-best",
            "publish: wrote /a: b/c: 3 files; open /a: b/c/x",
            "publish     3 files, 0 s",
        ),
        ("check-grid", "check: note: few", "check       note: few"),
        (
            "finetune",
            "finetune: note: Weights & Biases: away",
            "finetune    note: Weights & Biases: away",
        ),
        (
            "ingest",
            "s3://: note: no credentials found",
            "ingest      s3://: note: no credentials found",
        ),
        (
            "predict",
            "gs://b/x: HTTP 503; trying again in 1 s",
            "predict     gs://b/x: HTTP 503; trying again in 1 s",
        ),
    ],
)
def test_what_a_task_made_and_what_its_reader_must_know_is_shown(capsys, task, line, shown):
    with readable_log():
        does(task, line)
    assert capsys.readouterr().out.splitlines()[0] == shown


def test_off_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with readable_log():
        logging.info("Executing task 'finetune'")
        for second in range(25):
            clock[0] = second
            print(f"    finetune: step {second}")
    assert capsys.readouterr().out.splitlines() == ["finetune: step 10", "finetune: step 20"]


def test_what_kfp_says_to_itself_is_told_with_verbose_and_kept_in_the_log(
    capsys, monkeypatch, tmp_path
):
    def told(file):
        with readable_log(file):
            logging.info("Task 'a' outputs:\n    x: {'y': 1}")
            print("-" * 80)
            logging.info("Executing task '\x1b[96mb\x1b[0m'")
        return capsys.readouterr().out

    quiet = told(tmp_path / "log.txt")
    assert "outputs" not in quiet and "---" not in quiet
    monkeypatch.setenv("VERBOSE", "1")
    loud = told(None)
    assert "x: {'y': 1}" in loud and "-" * 80 in loud
    kept = (tmp_path / "log.txt").read_text()
    assert [line.split(" ", 1)[-1] for line in kept.splitlines()] == [
        line.split(" ", 1)[-1] for line in loud.splitlines()
    ]


@pytest.mark.parametrize(
    "item", ['{"prior": "effects", "seed": 1.0, "repeat": "x"}', "{'prior': 'effects', 'seed': 1}"]
)
def test_a_run_is_named_by_its_item_of_the_loop(item):
    assert label_of(f"Applying expression selector 's' to parent value: {item}") == "effects seed 1"
    assert label_of("After expression selector: {'prior': 'effects'}") == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_drawn_over_and_what_stays_is_80_columns_wide(
    monkeypatch, tmp_path
):
    terminal, log = Terminal(), tmp_path / "log.txt"
    monkeypatch.setattr(sys, "stdout", terminal)
    with readable_log(log):
        does(
            "finetune",
            "epoch 1/2:  50%|####      | 5/10",
            "epoch 1/2: 100%|########| 10/10" + " " * 200 + "end",
            "finetune: WARNING: " + "many words " * 20,
            f"finetune: wrote {Path.cwd()}/runs/model: " + "epochs " * 20,
        )
    shown = terminal.getvalue()
    assert shown.endswith("\r\x1b[K")  # nothing is left of the last line of progress
    stays = [line.rpartition("\r\x1b[K")[2] for line in shown.split("\n")]
    assert max(map(len, stays)) <= 80 and "50%" not in "".join(stays)
    assert [line[:12].strip() for line in stays] == ["finetune", *[""] * 3, "finetune", "", "", ""]
    drawn = shown.split("\r\x1b[K")
    assert "epoch 1/2:  50%|####      | 5/10" in drawn and "end" not in shown
    assert "50%|" in log.read_text() and "end" in log.read_text()


def test_the_runs_of_a_comparison_that_are_done_are_counted(capsys):
    with readable_log(runs=4):
        for _ in range(3):
            logging.info("Task 'evaluate' finished with status SUCCESS")
            logging.info("Task 'predict' finished with status SUCCESS")
        logging.info("Task evaluate-2 cache hit (key=0123456789ab); skipping execution.")
    counted = [line for line in capsys.readouterr().out.splitlines() if "runs done" in line]
    assert counted == [
        "1 of 4 runs done, about 1 min left",
        "2 of 4 runs done, about 1 min left",
        "3 of 4 runs done, about 1 min left",
        "4 of 4 runs done",
    ]
