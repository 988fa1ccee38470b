"""What a run on this machine prints: tasks side by side, each line whole and with its run."""

import io
import logging
import sys
import threading
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
        interleaved(
            ["[KFP Executor 1] Got executor_input:", *JSON, "prior: one", "prior: error: broken"],
            ["prior: alpha", "prior: beta", "[KFP Executor 2] x", "prior: gamma", "prior: delta"]
            + ["prior: more"] * 3,
        )
    lines = capsys.readouterr().out.splitlines()
    mine = [line for line in lines if line.startswith("[none seed 0] ")]
    other = [line for line in lines if line.startswith("[effects seed 1] ")]
    assert mine == ["[none seed 0] prior: one", "[none seed 0] prior: error: broken"]
    names = ["alpha", "beta", "gamma", "delta", "more", "more", "more"]
    assert other == [f"[effects seed 1] prior: {name}" for name in names]
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
        print("    [KFP Executor 1] Got executor_input:")
        for line in JSON:
            print(" " * 8 + line)
        print("    finetune: epoch 1")
    assert capsys.readouterr().out.strip() == "finetune: epoch 1"


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


def test_a_bar_is_drawn_over_the_one_before_on_a_terminal_and_is_in_the_log(monkeypatch, tmp_path):
    terminal, log = Terminal(), tmp_path / "log.txt"
    monkeypatch.setattr(sys, "stdout", terminal)
    with readable_log(log):
        print("    epoch 1/2:  50%|####      | 5/10\n    epoch 1/2: 100%|########| 10/10")
        print(f"    finetune: wrote {Path.cwd()}/runs/model")
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\r\x1b[K    finetune: wrote runs/model\n")
    assert "50%|" in log.read_text() and len(log.read_text().splitlines()) == 3


def test_the_runs_of_a_comparison_that_are_done_are_counted(capsys):
    with readable_log(runs=3):
        for _ in range(3):
            logging.info("Task 'evaluate' finished with status SUCCESS")
            logging.info("Task 'predict' finished with status SUCCESS")
    counted = [line for line in capsys.readouterr().out.splitlines() if "runs done" in line]
    assert counted == [
        "1 of 3 runs done, about 1 min left",
        "2 of 3 runs done, about 1 min left",
        "3 of 3 runs done",
    ]
