"""The process that holds a Weights & Biases run, so that nothing it meets can hold up training.

`tracking.Tracker` starts this file by its path and writes JSON lines to it: first the order, then
one row per epoch, at last an exit code. It tells of the run in `run.json`. Needs only wandb.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import wandb

# Whatever tells of the machine is left out: it names hosts, users, paths and git remotes.
NAMELESS: dict[str, Any] = {
    "host": "",
    "program": "finetune",
    "docker": "",
    "disable_git": True,
    "save_code": False,
    "x_save_requirements": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
}


def hold(order: dict[str, Any]) -> None:
    """Start the run that ``order`` asks for, log the rows that follow, and finish it."""
    training = os.getppid()
    run, trouble = None, ""
    if order["online"]:
        try:
            run = _start(order, "online")
        except Exception as error:
            trouble = (str(error) or type(error).__name__).splitlines()[0]
    try:
        run = run or _start(order, "offline")
    except Exception as error:  # most often of a setting in the environment
        trouble = (str(error) or type(error).__name__).splitlines()[0]
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        run = _start(order, "offline")
    url = None if run.offline else run.url  # wandb warns of asking an offline run
    _tell({"folder": str(Path(run.dir).parent), "url": url, "trouble": trouble})
    run.finish(exit_code=_log_rows(run))
    if os.getppid() != training:
        # Killed, it can neither keep the run nor tidy up.
        wandb.teardown()
        shutil.rmtree(Path.cwd())


def _log_rows(run: wandb.Run) -> int:
    """Log what comes in; return the exit code that ends it, 1 if it breaks off."""
    for line in sys.stdin:
        facts = json.loads(line)
        if "exit_code" in facts:
            return facts["exit_code"]
        # Shown now, and not when the next epoch comes.
        run.log(facts, step=facts["epoch"], commit=True)
    return 1


def _tell(facts: dict[str, str | None]) -> None:
    part = Path("run.json.part")
    part.write_text(json.dumps(facts))
    part.rename("run.json")


def _start(order: dict[str, Any], mode: Literal["online", "offline"]) -> wandb.Run:
    settings = wandb.Settings(
        **NAMELESS,
        console="off",
        quiet=True,
        show_info=False,
        show_colors=False,
        init_timeout=order["start_seconds"],
        finish_timeout=order["finish_seconds"],
        x_transaction_log_flush_interval=1,  # second: what a kill may take
    )
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "scgpt-perturb"),
        mode=mode,
        dir=".",
        config=order["config"],
        settings=settings,
    )


if __name__ == "__main__":
    hold(json.loads(sys.stdin.readline()))
