"""Digests that stores of S3 keep of an object, and how they are computed from a file."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from awscrt import checksums as crc


def _crc(compute: Callable[[bytes, int], int], size: int) -> Callable[[Path], str]:
    def of(path: Path) -> str:
        value = 0
        for block in _blocks(path):
            value = compute(block, value)
        return base64.b64encode(value.to_bytes(size)).decode()

    return of


def _hashed(name: str) -> Callable[[Path], str]:
    def of(path: Path) -> str:
        with path.open("rb") as file:
            return base64.b64encode(hashlib.file_digest(file, name).digest()).decode()

    return of


CHECKSUMS: Mapping[str, Callable[[Path], str]] = {
    "CRC64NVME": _crc(crc.crc64nvme, 8),
    "CRC32C": _crc(crc.crc32c, 4),
    "CRC32": _crc(crc.crc32, 4),
    "SHA256": _hashed("sha256"),
    "SHA1": _hashed("sha1"),
}
"""Checksums that S3 keeps, as it writes them: base64, big-endian."""


def md5_etag(facts: Mapping[str, Any]) -> str:
    """Return an ETag if it is an MD5, of the content or of its parts' MD5, else an empty string."""
    keyed = facts.get("ServerSideEncryption", "").startswith("aws:kms")
    etag = facts["ETag"].strip('"').lower()
    customer = "SSECustomerAlgorithm" in facts
    return etag if re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag) and not (keyed or customer) else ""


def md5(content: bytes) -> bytes:
    """Return the MD5 of bytes; it finds damage, and keeps no secret."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def md5_base64(content: bytes) -> str:
    """Return the MD5 as Content-MD5 writes it."""
    return base64.b64encode(md5(content)).decode()


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_of_parts(digests: list[bytes]) -> str:
    """Return the ETag of an object that came in parts with these MD5s."""
    return f"{md5(b''.join(digests)).hex()}-{len(digests)}"


def etag_of_parts(path: Path, part: int) -> str:
    """Return the ETag of a file that goes in parts of so many bytes."""
    return md5_of_parts([md5(block) for block in _blocks(path, part)])


def _blocks(path: Path, size: int = 2**20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
