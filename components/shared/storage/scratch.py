"""Folders for downloads that outlast their process, so that the next one resumes where it ended."""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError, say

PREFIX = f"scgpt-perturb-{os.geteuid()}-"
"""How the folders of this user begin, in the folder for temporary files (`TMPDIR`, else /tmp)."""


@contextmanager
def scratch_for(uri: str, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a folder for the download of ``uri``, the same one in every process of this user.

    It is removed when the block ends well. When the block fails or its process is killed, it is
    kept with what is in it. Of several processes at once one has it, the others a temporary folder
    each, which is not kept. Of a folder's URI other ``names`` go elsewhere.

    Raises:
        InputError: what has the folder's name is a link, or not this user's alone.
    """
    folder = folder_for(uri, names)
    lock = _lock(folder)
    if lock is None:
        say(f"{shown(uri)}: note: another process downloads it too; what comes here is not kept")
        with tempfile.TemporaryDirectory(prefix=PREFIX) as private:
            yield Path(private)
        return
    try:
        yield folder
        shutil.rmtree(folder)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # if nothing came
        if folder.exists():
            say(
                f"{shown(uri)}: note: what came is kept in {folder}; remove it if it is not run "
                "again"
            )
        raise
    finally:
        os.close(lock)


def folder_for(uri: str, names: tuple[str, ...] = ()) -> Path:
    """Return the folder that is kept for ``uri``, named by a digest: names are for all to see.

    Passwords and signatures are no part of the digest, since guesses could be tried against it; and
    so a URL that was signed again finds its folder.
    """
    digest = hashlib.sha256("\n".join([shown(uri), *names]).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"{PREFIX}{digest[:32]}"


def _lock(folder: Path) -> int | None:
    """Make the folder if need be and return what holds its lock, None if another process does.

    The kernel frees the lock of a process that is killed.
    """
    while True:
        try:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check_owner(folder)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # Another process was done with it and removed it just now.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # Taken, or a file system without locks.
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        os.close(lock)


def _check_owner(folder: Path) -> None:
    # Others may write to the folder for temporary files, and wait there for what is downloaded.
    found = folder.lstat()
    mine = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if not stat.S_ISDIR(found.st_mode) or not mine:
        raise InputError(
            f"{folder}: is not a folder of this user alone; remove it, or set TMPDIR to another "
            "folder for temporary files"
        )
