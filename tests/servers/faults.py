"""Faults of a store, as a test plans them, and what the store was asked."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """The connection breaks after so many bytes of the body, the client's or the answer's."""

    after: int


@dataclass(frozen=True)
class Lost:
    """The request is carried out, and the connection breaks before the answer."""


@dataclass(frozen=True)
class Damaged:
    """The last byte of the body, the client's or the answer's, arrives changed."""


Fault = int | Cut | Lost | Damaged | None
"""What befalls a request: an int is a status to answer with, None lets it pass."""


class Faults:
    """Faults to come, what was asked of the store, and what came to be in it."""

    scheme: str
    """Of the store's URIs."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.uploads: list[str] = []
        """Names of the objects in the order of their uploads."""
        self.requests: list[tuple[str, str, str]] = []
        """Kind, object's name and range of each request."""
        self._faults: dict[tuple[str, str], Iterator[Fault | Callable[[], object]]] = {}

    def uri(self, place: str) -> str:
        """Return the URI of ``<bucket>/<name>``."""
        return f"{self.scheme}://{place}"

    def fail(
        self, kind: str, faults: Iterable[Fault | Callable[[], object]], name: str = ""
    ) -> None:
        """Let the coming requests of a kind fail, one fault each.

        Args:
            kind: ``facts``, ``list``, ``download``, ``upload`` (simple), ``session`` (begin a
                resumable upload), ``chunk`` (of one) or ``delete``.
            faults: perhaps endless; a function is called when its request comes, and lets it pass.
            name: end of the name of the object.
        """
        self._faults[kind, name] = iter(faults)

    def mend(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def fault(self, kind: str, name: str) -> Fault:
        """Return what is to befall a request."""
        with self.lock:
            plans = [
                faults
                for (of_kind, end), faults in self._faults.items()
                if of_kind == kind and name.endswith(end)
            ]
            fault = next(plans[0], None) if plans else None
        if callable(fault):
            fault()
            return None
        return fault

    def ranges(self, kind: str = "download") -> list[str]:
        """Return the ranges of the requests of a kind, in order."""
        return [span for of_kind, _, span in self.requests if of_kind == kind]


def taken(fault: Fault, size: int) -> int:
    """Return how much of a body of ``size`` bytes comes through."""
    return min(fault.after, size) if isinstance(fault, Cut) else size


def changed(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
