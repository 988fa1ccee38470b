"""Downloads from web servers that survive a cut connection and resume where they stopped."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError as BrokenBody
from urllib3.util.retry import Retry

from components.shared.storage.downloads import check_space, part_of, reason, shown, watching
from components.shared.storage.proxies import REQUESTS, check_proxy, through
from components.shared.storage.retries import PASSING, PassingError, asked_wait, trying
from components.shared.telling.errors import InputError

TRIES = 6
"""Requests in a row that bring nothing new before the download is given up."""
FIRST_WAIT = 0.5
"""Seconds before the second try; doubled for each further one."""
TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces of the body."""
PIECE = 2**20


def download(url: str, target: Path) -> None:
    """Download ``url`` to ``target``, resuming `<target>.part` if there is one.

    A part is resumed only if the server confirms by `If-Range` (ETag, else Last-Modified) that the
    file is still the same, and a finished file stays only if it does by `If-None-Match` (ETag);
    otherwise the download starts again. A size other than the server said is refused.
    """
    part = _Part(url, target)
    check_proxy(url, shown(url), REQUESTS)
    try:
        with requests.Session() as session:
            trying(
                shown(url),
                lambda: _request(session, url, part),
                tries=TRIES,
                first_wait=FIRST_WAIT,
                size=lambda: part.size,
            )
    except PassingError as fault:
        size = part.size
        part.remove_if_empty()
        kept = f"; {size} bytes are kept; run it again to resume" if size else ""
        raise InputError(f"{shown(url)}: {fault} after {TRIES} tries{kept}") from None
    except InputError:
        part.remove_if_empty()
        raise
    part.finish()


def in_part(
    url: str, headers: Mapping[str, str] | None = None
) -> tuple[int, Callable[[int, int], bytes]]:
    """Return the size of a file, and what fetches its bytes from a start up to an end.

    Nothing that fails is tried twice, since who reads in part can do without; but a connection that
    was kept open and that the server has closed since is opened anew. A server that sends no parts
    is refused.
    """
    check_proxy(url, shown(url), REQUESTS)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=Retry(total=1, connect=0, status=0)))
    given = {"Accept-Encoding": "identity", **(headers or {})}

    def ask(start: int, end: int) -> requests.Response:
        asked = given | {"Range": f"bytes={start}-{end - 1}"}
        try:
            response = session.get(url, headers=asked, stream=True, timeout=TIMEOUT)
            if response.status_code == 206:
                response.content  # noqa: B018  reads the body
                return response
            response.close()
        except requests.RequestException as error:
            raise InputError(f"{shown(url)}: {reason(error)}") from None
        if response.status_code == 200:
            raise InputError(f"{shown(url)}: the server sends no parts of a file")
        raise InputError(f"{shown(url)}: HTTP {response.status_code} {response.reason}")

    said = ask(0, 1).headers.get("Content-Range", "")
    size = _number(r"bytes \d+-\d+/(\d+)", said)
    if size is None:
        raise InputError(f"{shown(url)}: the server does not say the size")
    return size, lambda start, end: ask(start, end).content


class _Part:
    """The part of a file that is here, and what tells whether it is still the same file.

    Once the part has become the file itself, the notes stay beside it, if they hold an ETag.
    """

    def __init__(self, url: str, target: Path) -> None:
        self.target = target
        self.path, self.notes = part_of(target)
        # A digest, since the query of a signed URL is a secret.
        self.of = hashlib.sha256(url.encode()).hexdigest()
        try:
            notes = json.loads(self.notes.read_bytes())
            usable = notes["of"] == self.of and isinstance(notes["validator"], str)
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        self.validator: str = notes["validator"] if usable else ""
        if not self.is_whole and (not self.validator or not self.path.is_file()):
            self.restart("")

    @property
    def is_whole(self) -> bool:
        """Whether the file itself is here."""
        known = self.validator.startswith('"')
        return known and not self.path.exists() and self.target.is_file()

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return (self.target if self.is_whole else self.path).stat().st_size

    def restart(self, validator: str) -> None:
        """Throw away what is here; ``validator`` identifies the file that comes now."""
        self.path.write_bytes(b"")
        self.validator = validator
        self.notes.write_text(json.dumps({"of": self.of, "validator": validator}))

    def finish(self) -> None:
        """Give the whole file its name."""
        if self.is_whole:
            return
        self.path.replace(self.target)
        if not self.is_whole:
            self.notes.unlink()

    def remove_if_empty(self) -> None:
        """Leave nothing behind of a download of which nothing came."""
        if not self.size:
            self.path.unlink(missing_ok=True)
            self.notes.unlink()


def _request(session: requests.Session, url: str, part: _Part) -> None:
    """Ask for what is missing and append it, until the file is whole.

    A `PassingError` is what another try may fix.
    """
    headers = {"Accept-Encoding": "identity"}
    if part.size and not part.validator:
        part.restart("")
    if part.is_whole:
        headers["If-None-Match"] = part.validator
    elif part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 304 and part.is_whole:
                return
            total = _begin(response, url, part)
            if total != part.size:
                _append(response, part, total)
    except (requests.ConnectionError, requests.Timeout, BrokenBody) as error:
        raise PassingError(f"connection lost{through(url)} ({reason(error)})") from None
    except requests.RequestException as error:
        raise InputError(f"{shown(url)}: {reason(error)}; check the URL") from None


def _begin(response: requests.Response, url: str, part: _Part) -> int | None:
    """Check the head of a response; return the size of the whole file if the server says it."""
    status = response.status_code
    if status in PASSING:
        raise PassingError(f"HTTP {status}", asked_wait(response.headers))
    if status == 416 and part.size:
        total = _number(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if total == part.size and _validator(response) in ("", part.validator):
            return total
        part.restart("")
        raise PassingError("the file is shorter than the part that is here, starting again")
    if status not in (200, 206):
        raise InputError(f"{shown(url)}: HTTP {status} {response.reason}; check the URL and access")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{shown(url)}: the server compresses what it sends; give another source")
    if status == 200:
        part.restart(_validator(response))
        total = _number(r"(\d+)", response.headers.get("Content-Length", ""))
    else:
        total = _total_of_range(response, part)
    if total is not None:
        check_space(part.path.parent, total - part.size, url)
    elif "chunked" not in response.headers.get("Transfer-Encoding", ""):
        # Neither a size nor an end mark: a cut connection would look like the end of the file.
        raise InputError(f"{shown(url)}: the server does not say the size; give another source")
    return total


def _total_of_range(response: requests.Response, part: _Part) -> int | None:
    said = response.headers.get("Content-Range", "")
    if _number(r"bytes (\d+)-\d+/(?:\d+|\*)", said) != part.size:
        part.restart("")
        raise PassingError(f"got '{said}' instead of the rest, starting again")
    # Some servers ignore If-Range; a part of another version must not be resumed.
    if _validator(response) not in ("", part.validator):
        part.restart("")
        raise PassingError("the file changed meanwhile, starting again")
    return _number(r"bytes \d+-\d+/(\d+)", said)


def _append(response: requests.Response, part: _Part, total: int | None) -> None:
    name = part.path.name.removesuffix(".part")
    with part.path.open("ab") as file, watching(total, f"downloading {name}", part.size) as moved:
        # read1 hands over what has come; read would lose a piece that is cut short.
        while piece := response.raw.read1(PIECE):
            file.write(piece)
            moved(len(piece))
    if total is not None and part.size > total:
        size = part.size
        part.restart("")
        raise PassingError(f"got {size} bytes, {total} were announced, starting again")
    if total is not None and part.size < total:
        raise PassingError(f"got {part.size} of {total} bytes")


def _validator(response: requests.Response) -> str:
    """Return what identifies this version of the file; a weak ETag does not (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _number(pattern: str, text: str) -> int | None:
    found = re.fullmatch(pattern, text.strip())
    return int(found[1]) if found else None
