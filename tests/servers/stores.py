"""Both object stores for tests, behind one interface: a test of either is written once."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from components.shared.storage import gs as storage_gs
from components.shared.storage import s3 as storage_s3
from tests.servers.bucket_server import Emulator, emulating
from tests.servers.s3_server import Store, serving_s3

AnyStore = Emulator | Store
SERVERS = {"gs": emulating, "s3": serving_s3}


@contextmanager
def serving(scheme: str, monkeypatch: pytest.MonkeyPatch, *buckets: str) -> Iterator[AnyStore]:
    """Run the store of a scheme with these buckets, and say to this process where it is."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with SERVERS[scheme]() as store:
        for bucket in buckets:
            store.bucket(bucket)
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


def try_for(monkeypatch: pytest.MonkeyPatch, seconds: float, *, quick: bool = True) -> None:
    """Let a request be tried again for so long, at once if ``quick``."""
    for client in (storage_gs, storage_s3):
        retry = client.RETRY.with_timeout(seconds)
        monkeypatch.setattr(client, "RETRY", retry.with_delay(0.01, 0.02) if quick else retry)
