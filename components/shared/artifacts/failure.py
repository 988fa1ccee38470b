"""A failure as a result: in a grid of runs, one that fails must not take the others with it.

KFP loses every result of a loop when one of its tasks fails. So a task in a grid that cannot do its
work writes, in place of its artifact, one that says why, and ends well. `artifact.opening` refuses
such an artifact with that reason, so the tasks after it end the same way, and the reason reaches
the task that collects the grid.

What kills the process from outside (a lost node, the kernel for memory) fails the task as ever.
"""

import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.shared.artifacts.artifact import FAILED, FailedError, writing
from components.shared.telling.addresses import visible, without_secrets
from components.shared.telling.errors import InputError, any_text, one_line_errors, say


@contextmanager
def errors_of(stage: str, target: Path | str, *, in_grid: bool) -> Iterator[None]:
    """Tell what goes wrong in a stage, as `one_line_errors`, or in a grid as a failed artifact.

    ``target`` is the folder of its artifact.
    """
    if not in_grid:
        with one_line_errors(stage):
            yield
        return
    any_text()
    try:
        yield
    except FailedError as error:  # told before, by the stage that failed
        _write(error.stage, error.reason, target)
    except InputError as error:
        _write(stage, str(error), target)
    except Exception as error:  # of ours or of the machine; its place in the code is in the log
        traceback.print_exc()
        _write(stage, f"{type(error).__name__}: {error}", target)


def _write(stage: str, reason: str, target: Path | str) -> None:
    reason = visible(without_secrets(" ".join(reason.split())))
    say(f"{stage}: error: {reason}; the other runs continue")
    shutil.rmtree(target, ignore_errors=True)
    with writing(target, FAILED, parameters={}) as draft:
        draft.summary |= {"stage": stage, "reason": reason}
