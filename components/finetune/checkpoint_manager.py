"""When a checkpoint is written: by the clock, after each epoch, and on SIGTERM."""

import os
import signal
import threading
import time
from types import FrameType

from components.finetune.checkpoints import Checkpoints, Saved
from components.finetune.places import OWN_PLACE
from components.finetune.state import TrainingState
from components.shared.telling.errors import InputError, say

CHECKPOINT_MINUTES = 10.0
"""About the most that a crash costs where an epoch takes longer."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that ended by this signal, as shells write it."""


class CheckpointManager:
    """Saves the state of a fine-tune; without a place to save it, does nothing.

    As a context manager it handles SIGTERM: it finishes the current step, writes the state and
    ends the process with code 143. A checkpoint that cannot be written never ends a run.
    """

    def __init__(
        self, store: Checkpoints | None, state: TrainingState, saved: Saved | None
    ) -> None:
        self._store = store
        self._state = state
        self._workers = state.workers
        self.terminated = False
        """Whether SIGTERM came to this process."""
        self._last = saved.uri if saved else ""
        self._last_position = state.position if saved else None
        self._written = time.monotonic()

    def __enter__(self) -> "CheckpointManager":
        main = threading.current_thread() is threading.main_thread()
        self._handles = bool(self._store) and main  # a notebook's thread cannot
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._ask) or signal.SIG_DFL
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Restore the signal's handler; a signal that came after the last step is not lost."""
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)
        if error is None:
            self.leave_if_terminated()

    def after_step(self) -> None:
        """Write a checkpoint if the last is `CHECKPOINT_MINUTES` old; leave if terminated."""
        self.leave_if_terminated()
        if self._store and time.monotonic() - self._written >= CHECKPOINT_MINUTES * 60:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, unless this very state is saved already; warn if it fails."""
        # The next loss reports weights that are not finite; the last good ones are kept.
        new = self._state.position != self._last_position
        if self._store and self._workers.first and new and self._state.finite():
            started = time.monotonic()
            try:
                self._last = self._store.save(self._state.parts(), *self._state.position)
                self._last_position = self._state.position
                seconds = time.monotonic() - started
                name = self._last.rpartition("/")[2]
                print(f"finetune: checkpoint {name}, {seconds:.1f} s", flush=True)
            except InputError as error:
                say(
                    f"finetune: WARNING: no checkpoint of {self._here()}: {error}; training "
                    f"continues, next attempt after this epoch or {CHECKPOINT_MINUTES:g} minutes"
                )
        self._written = time.monotonic()

    def leave_if_terminated(self) -> None:
        """Save and end the process with code 143 if it, or one that trains with it, got SIGTERM.

        Processes that train together have to call this at the same place: all leave there or none.

        Raises:
            SystemExit: code 143.
        """
        # Only the signal sets `terminated`; one that comes during the agreement counts next time.
        if not self._store or not self._workers.any(self.terminated):
            return
        self.save()
        self._workers.meet()  # whoever ended before the first has written would end it too
        if self._workers.first:
            say(f"finetune: stopped at {self._here()}{self.last_good()}; {self._how_to_resume()}")
        raise SystemExit(TERMINATED)

    def last_good(self) -> str:
        """Return ``; the last good checkpoint is <uri>``, or an empty string."""
        return f"; the last good checkpoint is {self._last}" if self._last else ""

    def _how_to_resume(self) -> str:
        """Return how; a run on one machine keeps checkpoints where it looks for them itself."""
        where = self._store.where if self._store else ""
        if where.startswith(os.environ.get(OWN_PLACE) or "?"):
            return "the same command resumes from it"
        return f"run it again with checkpoints={where} to resume"

    def _here(self) -> str:
        epoch, step = self._state.position
        return f"epoch {epoch}, step {step}"

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
