"""Bad input is reported in one line: what is wrong, where, what was expected, what to do."""

import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from components.shared.telling.addresses import visible, without_secrets

LONGEST = 1400
"""Letters of a message; of one that repeats far longer input the middle is left out."""


class InputError(Exception):
    """Something a user gave cannot be used; the message is one line that says what to do."""

    def __init__(self, message: str) -> None:
        said = visible(without_secrets(" ".join(message.split())))
        half = LONGEST // 2
        super().__init__(said if len(said) <= LONGEST else f"{said[:half]} … {said[-half:]}")


def say(text: object) -> None:
    """Print a line for people, beside what a program gives out."""
    print(text, file=sys.stderr, flush=True)


FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNUSABLE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ESTALE)


NO_TEMPORARY = "No usable temporary directory"
"""How Python begins when it finds no folder for temporary files."""


HIDDEN = re.compile(r"\b(?:os error |errno[ =]+|\[errno )(\d+)", re.IGNORECASE)
"""How safetensors, HDF5 and Arrow say in a text of their own what the system said."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise what the system said where a library that writes a file makes another error of it.

    PyTorch has to be given a file that Python opened: of a path it keeps nothing that was said.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        if not getattr(error, "errno", None) and (number := HIDDEN.search(str(error))):
            hidden = OSError(int(number[1]), os.strerror(int(number[1])))
            if said_by_system(hidden):  # of any other, the traceback says more
                raise hidden from None
        raise


def said_by_system(error: OSError) -> str:
    """Return in one line what the operating system refuses; empty if it may be a fault of ours."""
    if error.errno == errno.EPIPE:
        return "the program that reads this output has ended; let it read to the end, or use a file"
    if NO_TEMPORARY in str(error):
        return (
            f"no folder for temporary files may be written (TMPDIR is "
            f"'{os.environ.get('TMPDIR', '')}'); set TMPDIR to one that may"
        )
    if error.errno in FULL:
        return f"the disk is full ({error}); free some room"
    if error.errno == errno.EFBIG:
        return f"no file may be as large here ({error}); raise the limit, see ulimit -f"
    where, why = str(error.filename or "a file"), str(error.strerror or error).lower()
    if error.errno in CLOSED:
        return (
            f"{where}: cannot be read or written ({why}); change its permissions or those of its "
            "folder, or give another path"
        )
    if error.errno in UNUSABLE and error.filename:
        return f"{where}: cannot be used ({why}); give another path"
    return ""


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """Turn an InputError, or what the system refuses, into one line and exit code 1.

    Any other exception keeps its traceback, since it is a fault of ours.
    """
    any_text()
    try:
        yield
    except InputError as error:
        say(f"{stage}: error: {error}")
        raise SystemExit(1) from None
    except OSError as error:
        if not (said := said_by_system(error)):
            raise
        if error.errno == errno.EPIPE:
            _drop_output()
        say(f"{stage}: error: {visible(without_secrets(said))}")
        raise SystemExit(1) from None


@contextmanager
def refusing(
    faults: tuple[type[Exception], ...] | type[Exception],
    what: str,
    hint: str = "",
    said: Callable[[Exception], str] = str,
) -> Iterator[None]:
    """Turn ``faults`` of a library into one line: ``what`` is wrong, what is ``said``, the hint."""
    try:
        yield
    except faults as error:
        raise InputError(f"{what} ({said(error)}){hint}") from None


def any_text() -> None:
    """Let output take any text: what its encoding lacks is written out by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let what is left to write go nowhere, so that Python does not fail on it once more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return ``, nearest: 'x'`` for the choice most like ``name``, or an empty string.

    What YAML takes for a name may be a number.
    """
    folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.4)
    return f", nearest: '{folded[found[0]]}'" if found else ""


def shortlist(names: Iterable[str], most: int = 5) -> str:
    """Join the first few names for a message, and count the rest."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{visible(str(name))}'" for name in names[:most]) + rest
