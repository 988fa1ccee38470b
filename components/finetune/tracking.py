"""Weights & Biases: offline unless a key is set, and never the reason a run fails or waits long."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from components.shared.telling.errors import nearest, say

OFFLINE, DISABLED = "offline", "disabled"
MODES = ("online", OFFLINE, DISABLED, "dryrun", "run", "shared")
"""Allowed values of WANDB_MODE."""
SENT = ("online", "run", "shared")
"""Those with which a run is sent, given a key."""
PROCESS = Path(__file__).with_name("wandb_run.py")
START_SECONDS = 30.0
"""For reaching the service, else the run is kept offline; training does not wait for it."""
FINISH_SECONDS = 45.0
"""For sending what is left at the end."""
END_SECONDS = 60.0
"""For all of the end, the start of a very short run included; then the process is killed."""
WARNING = re.compile(r"wandb: (?:WARNING|ERROR) (.+?)\.?(?: *$|\. )")
LEADING_FOLDERS = re.compile(r"(^|=)(?:file://)?/(?:.*/)?(?=[^/])")
"""Of a path, or of the one in the query of a ``random://`` model."""


class Tracker:
    """A Weights & Biases run in a process of its own; without it, training continues."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Start a run: online with `WANDB_API_KEY` if that works, else offline, or none at all."""
        self._facts: dict[str, Any] = {}
        mode = _mode()
        # The process goes on writing logs for a while, so the run is kept outside the artifact.
        self._scratch = Path(tempfile.mkdtemp(prefix="wandb."))
        self._process = None if mode == DISABLED else self._started(mode)
        self._send(
            {
                "online": mode in SENT and bool(os.environ.get("WANDB_API_KEY")),
                "config": without_paths(dict(config)),
                "start_seconds": START_SECONDS,
                "finish_seconds": FINISH_SECONDS,
            }
        )

    def _started(self, mode: str) -> "subprocess.Popen[bytes]":
        with (self._scratch / "messages").open("wb") as messages:
            # -P: the folder of the file has modules with the names of others' modules.
            process = subprocess.Popen(
                [sys.executable, "-P", str(PROCESS)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=messages,
                stderr=subprocess.STDOUT,
                cwd=self._scratch,
                env=_environment(mode),
                start_new_session=True,  # an interrupt from the keyboard is for training alone
            )
        os.set_blocking(cast(IO[bytes], process.stdin).fileno(), False)
        return process

    def log(self, facts: Mapping[str, Any]) -> None:
        """Log the numbers of one epoch; ``facts`` has an `epoch`."""
        self._send(facts)
        self._hear()

    def finish(self, folder: Path) -> str:
        """End the run and keep it in ``folder``/wandb, where `wandb sync` can send it later.

        Return its URL when online, else its folder relative to ``folder``, '' without a run.
        """
        self._send({"exit_code": 0})
        trouble = self._end()
        if self._kept:
            # The log alone: `wandb sync` makes the other files of it anew, and what it changed
            # would no longer be what the artifact's provenance says.
            (folder / self._kept).mkdir(parents=True)
            for log in (self._scratch / self._kept).glob("*.wandb"):
                shutil.copy(log, folder / self._kept)
        if trouble:
            self._say(trouble)
        return self._facts.get("url") or self._kept

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        """End a run that was not finished, marked as failed, and tidy up."""
        self._send({"exit_code": 1})
        self._end()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def _kept(self) -> str:
        """The run's folder, in the scratch folder as in the artifact; '' before it has one."""
        return self._facts.get("folder", "")

    def _send(self, facts: Mapping[str, Any]) -> None:
        """Write one line; a process that has ended, or reads no more, is written to no more."""
        if not self._process:
            return
        line, to = json.dumps(facts).encode() + b"\n", cast(IO[bytes], self._process.stdin)
        try:
            whole = to.write(line) == len(line)
        except (OSError, ValueError):
            whole = False
        if not whole:
            to.close()

    def _hear(self) -> None:
        """Take in what the process has to tell of the run, once it has, and pass trouble on."""
        told = self._scratch / "run.json"
        if not self._facts and told.exists():
            self._facts = json.loads(told.read_text())
            if self._facts["trouble"]:
                self._say(self._facts["trouble"])

    def _end(self) -> str:
        """Wait for the process, for a while; return what went wrong, '' if nothing did."""
        if not self._process:
            return ""
        cast(IO[bytes], self._process.stdin).close()
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._hear()
            return f"not done within {END_SECONDS:g} s"
        self._hear()
        messages = (self._scratch / "messages").read_text(errors="replace").splitlines()
        warned = [found[1] for line in messages if (found := WARNING.match(line))]
        if warned:
            return warned[0]
        last = messages[-1] if messages else f"exit code {code}"
        return f"its process failed: {last}" if code else ""

    def _say(self, trouble: str) -> None:
        kept = (
            f"the run is kept, `wandb sync --include-online {self._kept}` in the model's folder "
            "sends it"
            if self._kept
            else "the run is not kept"
        )
        say(f"finetune: note: Weights & Biases: {trouble[:200]}; {kept}")


def _mode() -> str:
    given = os.environ.get("WANDB_MODE") or "online"
    mode = given.strip().lower()
    if mode in MODES:
        return mode
    say(
        f"finetune: note: Weights & Biases: WANDB_MODE is '{given}'{nearest(given, MODES)}; "
        f"expected {', '.join(MODES)}; the run is kept {OFFLINE}"
    )
    return OFFLINE


def _environment(mode: str) -> dict[str, str]:
    # Not the service of a caller's own run, which would outlive this one; and no crash reports.
    kept = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    own = {"WANDB_MODE": mode} if "WANDB_MODE" in kept else {}
    return kept | own | {"WANDB_ERROR_REPORTING": "false"}


def without_paths(value: Any) -> Any:
    """Return ``value`` with every absolute local path in it cut down to its last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return LEADING_FOLDERS.sub(r"\1", value) if isinstance(value, str) else value
