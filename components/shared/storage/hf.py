"""Files of the Hugging Face Hub; `HF_ENDPOINT` names another hub, `HF_TOKEN` gives access."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, logging
from tqdm import tqdm

from components.shared.storage import http as storage_http
from components.shared.storage import retries
from components.shared.storage.downloads import check_remote_path, check_space, reason, shown
from components.shared.storage.proxies import HTTPX, check_proxy, through
from components.shared.storage.retries import PASSING, PassingError, asked_wait
from components.shared.telling.errors import InputError, say
from components.shared.telling.progress import as_lines

KINDS = {"datasets": "dataset", "models": "model"}
FORM = "expected hf://datasets/<owner>/<name>/<file>[@revision] or hf://models/…"
TRIES = 4
"""Calls in a row that fail before they are given up."""
FIRST_WAIT = 2.0
"""Seconds before the second try; doubled for each further one, or what the Hub asks for."""
URL = re.compile(r"https?://[^\s'\")>]+")
T = TypeVar("T")

# What the client says of its own tries names signed addresses.
logging.set_verbosity_error()


class _Bar(tqdm):
    """The library's own bar, in lines of its own off a terminal as in `progress.bar`."""

    def __init__(self, *args: Any, name: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | as_lines(columns=100)))


def split_uri(uri: str) -> tuple[str, str, str, str | None]:
    """Return kind of repository, its id, the file's path in it, and the revision."""
    path, _, revision = uri.split("://", 1)[1].partition("@")
    kind, owner, name, file = [*path.split("/", 3), "", "", "", ""][:4]
    if kind not in KINDS or not owner or not name or not file:
        raise InputError(f"{uri}: {FORM}")
    check_remote_path(file, uri)
    return KINDS[kind], f"{owner}/{name}", file, revision or None


def download(uri: str, folder: Path) -> Path:
    """Download one file of a repository into ``folder``, under its path in the repository.

    Raises:
        InputError: no such repository, revision or file, no access, or another digest.
    """
    kind, repository, file, revision = split_uri(uri)
    with errors(uri, repository):
        url = hf_hub_url(repository, file, repo_type=kind, revision=revision)
        facts = get_hf_file_metadata(url)
        _make_ready(folder, file, facts.size or 0, uri)
        # By its commit, so that a branch that moves now cannot mix two versions.
        path = hf_hub_download(
            repository,
            file,
            repo_type=kind,
            revision=facts.commit_hash or revision,
            local_dir=folder,
            tqdm_class=_Bar,
        )
    _check_digest(Path(path), facts.etag or "", uri)
    say(f"{uri}: is commit {facts.commit_hash}")
    return Path(path)


def in_part(uri: str) -> tuple[int, Callable[[int, int], bytes]]:
    """Return the size of a file, and what fetches its bytes from a start up to an end."""
    kind, repository, file, revision = split_uri(uri)
    with errors(uri, repository):
        url = hf_hub_url(repository, file, repo_type=kind, revision=revision)
        facts = get_hf_file_metadata(url)
        pinned = hf_hub_url(
            repository, file, repo_type=kind, revision=facts.commit_hash or revision
        )
    # Of the Hub's answer, a redirect, requests follows to another host without the token.
    return storage_http.in_part(pinned, build_hf_headers())


def _make_ready(folder: Path, file: str, size: int, uri: str) -> None:
    """Make room in ``folder`` for a file that is not there yet."""
    # The client goes on with no part: each download has a name of its own, left behind by a kill.
    for part in folder.glob(".cache/huggingface/download/**/*.incomplete"):
        part.unlink()
    if not (folder / file).is_file():
        check_space(folder, size, uri)


def _check_digest(path: Path, etag: str, uri: str) -> None:
    """Compare a file with what the Hub calls it: sha256 of a big file, git's digest of others."""
    with path.open("rb") as file:
        if len(etag) == 64:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        elif len(etag) == 40:
            blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
            found = hashlib.file_digest(file, lambda: blob).hexdigest()
        else:
            return
    if found != etag:
        path.unlink()
        raise InputError(
            f"{uri}: digest is {found}, the Hub says {etag}; the transfer was damaged, run it again"
        )


@contextmanager
def errors(uri: str, repository: str) -> Iterator[None]:
    """Turn what the client library raises into one line; its own text may name tokens and URLs."""
    check_proxy(ENDPOINT, uri, HTTPX)
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{uri}: '{repository}' is gated; accept its terms on the Hub and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{uri}: no repository '{repository}', or no access to it; check the name, or set "
            "HF_TOKEN if it is private"
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{uri}: '{repository}' has no such revision; check what follows @"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(f"{uri}: {_unreached(error)}") from None
    except EntryNotFoundError:
        raise InputError(f"{uri}: '{repository}' has no such file; check the path in it") from None
    except HFValidationError:
        raise InputError(f"{uri}: '{repository}' is not the name of a repository; {FORM}") from None
    except HfHubHTTPError as error:
        hint = "; check HF_TOKEN and its permissions" if _status(error) in (401, 403) else ""
        raise InputError(f"{uri}: {_fault(error)}{hint}") from None
    except HTTPError as error:
        raise InputError(f"{uri}: {_fault(error)}") from None
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of this machine: a full disk, …
        # Refused metadata of a card, or an upload that failed for good.
        said = URL.sub(lambda url: shown(url[0]), " ".join(str(error).splitlines()[:4]))[:300]
        why = f" ({_fault(error)})" if _status(error) else ""
        raise InputError(f"{uri}: {said or reason(error)}{why}") from None


def trying(uri: str, call: Callable[[], T]) -> T:
    """Return what ``call`` does, called again while the Hub may come round.

    An answer can get lost, so ``call`` must be one that may be made twice.
    """

    def once() -> T:
        try:
            return call()
        except HTTPError as error:
            if _status(error) not in (0, *PASSING):
                raise
            response = getattr(error, "response", None)
            wait = 0.0 if response is None else asked_wait(response.headers)
            raise PassingError(_fault(error), wait) from error

    try:
        return retries.trying(uri, once, tries=TRIES, first_wait=FIRST_WAIT)
    except PassingError as fault:
        error = fault.__cause__ or fault
        raise error from error.__cause__


def _status(error: BaseException | None) -> int:
    """Return the HTTP status an error or a cause of it tells of, 0 if there was no answer."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return int(error.response.status_code)
        error = error.__cause__
    return 0


def _fault(error: BaseException) -> str:
    status = _status(error)
    if status:
        return f"the Hub answers HTTP {status}"
    return _unreached(error)


def _unreached(error: BaseException) -> str:
    return f"the Hub cannot be reached{through(ENDPOINT)} ({reason(error)})"
