"""Bad input is told in one line: what is wrong, where, what was expected, what to do."""

import difflib
import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Something a user gave cannot be used; the message is one line that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """Turn an InputError, or a full disk, into one line on standard error and exit code 1.

    Any other exception keeps its traceback, since it is a fault of ours.
    """
    try:
        yield
    except InputError as error:
        print(f"{stage}: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{stage}: error: the disk is full ({error}); free some room", file=sys.stderr)
        raise SystemExit(1) from None


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``, nearest: 'x'`` for the choice most like ``name``, or an empty string."""
    folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.4)
    return f", nearest: '{folded[found[0]]}'" if found else ""


def shortlist(names: Iterable[str], most: int = 5) -> str:
    """Join the first few names for a message, and count the rest."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + rest
