"""Speed of a download from gs:// in chunks, several at a time, beside one at a time.

    python -m benchmarks.gs_download [--mib 64] [--latency 0.02] [--rate 8]

A local emulator answers each request after the latency and at the rate (MB/s of one connection),
which is how a bucket limits one connection to far less than a node can take. The last rows leave
both out; emulator and client then share one process, and its interpreter is the limit.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from components.shared.storage import chunks
from components.shared.storage import gs as storage_gs
from tests.servers.bucket_server import emulating

NOW = chunks.WORKERS, chunks.CHUNK
ONE_BY_ONE = 1, 32 * 2**20


def seconds(workers: int, chunk: int) -> float:
    """Return how long a download takes with so many workers and bytes a chunk."""
    chunks.WORKERS, chunks.CHUNK = workers, chunk
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        chunks.download("gs://bucket/object", Path(folder))
        return time.perf_counter() - start


def compare(size: int, limits: str) -> None:
    """Print a row for each way."""
    slow = 0.0
    for workers, chunk in (ONE_BY_ONE, NOW):
        taken = seconds(workers, chunk)
        slow = slow or taken
        print(
            f"| {limits} | {workers} | {chunk / 2**20:g} | {taken:.2f} | "
            f"{size / taken / 1e6:.0f} | {slow / taken:.1f} |",
            flush=True,
        )


def main() -> None:
    """Fill a bucket, download from it both ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before an answer")
    parser.add_argument("--rate", type=float, default=8.0, help="MB/s of one connection")
    arguments = parser.parse_args()
    size = arguments.mib * 2**20
    with emulating() as emulator:
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{emulator.port}"
        emulator.bucket("bucket")
        storage_gs.client().bucket("bucket").blob("object").upload_from_string(os.urandom(size))
        print("| limits | workers | MiB a chunk | s | MB/s | times |")
        print("|---|---|---|---|---|---|")
        emulator.latency, emulator.rate = arguments.latency, arguments.rate * 1e6
        limits = f"{arguments.latency * 1e3:g} ms, {arguments.rate:g} MB/s"
        compare(size, limits)
        emulator.latency = emulator.rate = 0
        compare(size, "none")


if __name__ == "__main__":
    main()
