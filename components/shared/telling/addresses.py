"""What strangers give, as it may be printed and kept: addresses without secrets, text that is seen.

A password, a token or a signature stands in front of a host or in the query of an address. Neither
is ever needed to tell what was read.
"""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

DIGEST = "#sha256="
OURS = ("sim", "random")
"""Schemes whose query is ours to read, and holds no secret but in addresses within it."""
DIGEST_KEPT = ("gs", "s3", "minio", "hf")
"""Schemes of stores whose own digest every download is compared with."""
USER = re.compile(r"(://)[^\s/'\"]*@")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\[\]{}()|`]*")
WITHIN = re.compile(r"(?<==)[^&\s]*(?:://|%3[Aa]%2[Ff])[^\s]*")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
"""A token of the Hugging Face Hub, wherever it stands."""
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of text, so that it reads as what it is not."""
LOCAL = ("", "file")
"""Schemes of this machine's own files."""
JOIN = " + "
"""Separator that ingest writes between several sources."""


def shown(uri: str) -> str:
    """Return ``uri`` as it may be printed: no user, no query (signed URLs), no fragment."""
    if "://" not in uri:
        return TOKEN.sub("…", uri.split(DIGEST)[0])
    scheme, rest = uri.split("://", 1)
    if scheme.lower() in OURS:
        return WITHIN.sub(lambda found: shown(unquote(found[0])), uri.split(DIGEST)[0])
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    path, mark, _ = rest.split(DIGEST)[0].partition("?")
    host, slash, below = path.partition("/")
    port = host.rpartition("@")[2].partition(":")[2]
    if "@" in below and not port.isdigit() and port:  # a password with a slash in it
        host, slash, below = below.rpartition("@")[2].partition("/")
    bare = f"{scheme}://{host.rpartition('@')[2]}{slash}{below}{'?…' if mark else ''}"
    return TOKEN.sub("…", bare)


def without_secrets(text: str) -> str:
    """Return a text whose addresses are as `shown` shows them."""
    text = USER.sub(r"\1", text) if "://" in text else text
    return TOKEN.sub("…", ADDRESS.sub(lambda found: _shown_within(found[0]), text))


def _shown_within(address: str) -> str:
    """Show an address in a sentence, whose full stop or colon is no part of it."""
    bare = address.rstrip(".,:;")
    if "?" not in bare and "@" not in bare:
        return address
    return shown(bare) + address[len(bare) :]


def kept(value: Any) -> Any:
    """Return a value as an artifact may keep it: the texts in it without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: kept(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [kept(inner) for inner in value]
    return value


def unchecked(source: str) -> str:
    """Say which files of a source came without a digest of their store's; empty if none did.

    Of several addresses, as ingest says them, `` + `` stands between.
    """
    with_digest = tuple(f"{scheme}://" for scheme in (*OURS, *DIGEST_KEPT))
    bare = [uri for uri in source.split(" + ") if uri and not uri.lower().startswith(with_digest)]
    if not bare:
        return ""
    others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
    return (
        f"No store keeps a digest of {bare[0].rpartition('/')[2]}{others}: unless the address "
        "ended in #sha256=… as its publisher gives it, a damaged file that still reads cannot be "
        "told."
    )


def is_hidden(character: str) -> bool:
    """Return whether a character steers a terminal or turns the direction of text."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in DIRECTIONS


def hides(text: str) -> bool:
    """Return whether a text has such characters; tabs, and blanks at its ends, are none."""
    return any(map(is_hidden, text.strip().replace("\t", " ")))


def visible(text: str) -> str:
    r"""Return a text with such characters written out, as ``\x1b``."""
    if not any(map(is_hidden, text)):
        return text
    return "".join(ascii(c)[1:-1] if is_hidden(c) else c for c in text)


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI in lower case, an empty string for a plain path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return found[1].lower() if found else ""


def public(uri: str) -> str:
    """Return a URI, or several joined by `JOIN`, as a page that is passed on may show it."""
    return JOIN.join(_public(one) for one in uri.split(JOIN))


def _public(uri: str) -> str:
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return f"local file {Path(uri).name}"
    if scheme == "random":
        size, _, vocabulary = uri.partition("?vocabulary=")
        return (
            f"{size} with the vocabulary of {_public(unquote(vocabulary))}" if vocabulary else size
        )
    return shown(uri)


def dataset_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return where cells are from, as a page may show it; empty where that is not known."""
    source = str(summary.get("source", ""))
    return {"dataset": public(source)} if source else {}
