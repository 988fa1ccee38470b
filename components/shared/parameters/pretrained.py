"""The parameter `pretrained`: a checkpoint folder, or a model to start fresh, and its vocabulary.

`random://<size>` starts fresh with the vocabulary of the scgpt package;
`random://<size>?vocabulary=<uri of a vocab.json>` with another. In a query `&` and `%` of that URI
are written `%26` and `%25`, as in any URL; `+` stands for itself.
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from components.shared.model.checkpoint_files import CHECKPOINT_FILES
from components.shared.model.vocabulary import VOCAB_FILE, packaged_vocabulary, read_vocabulary
from components.shared.storage.downloads import shown
from components.shared.storage.files import (
    SHA256,
    ending_of,
    fetched,
    fetched_folder,
    folder_of,
    local_path,
)
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, nearest

RANDOM = "random"
SIZES = {
    "tiny": {"embsize": 64, "nheads": 4, "d_hid": 64, "nlayers": 2, "dropout": 0.0},
    "small": {"embsize": 128, "nheads": 4, "d_hid": 128, "nlayers": 4, "dropout": 0.1},
    "whole-human": {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12, "dropout": 0.2},
}
"""Models that can be started fresh with random://<size>."""
FORM = "random://<size> or random://<size>?vocabulary=<uri of a vocab.json>"


@dataclass(frozen=True)
class Pretrained:
    """A parsed `pretrained` parameter."""

    uri: str
    random_size: str
    """Size of a model to start fresh; empty for a checkpoint."""
    vocabulary_uri: str
    """A vocab.json or a folder with one; empty = the vocabulary of the scgpt package."""

    @property
    def folder(self) -> str:
        """The checkpoint's folder; the path or URI of a file in it stands for it."""
        return folder_of(self.uri, CHECKPOINT_FILES)

    @property
    def shown(self) -> str:
        """The URI as it may be printed and kept: without the secrets of a signed URL."""
        if not self.random_size:
            return shown(self.uri)
        vocabulary = f"?vocabulary={shown(self.vocabulary_uri)}" if self.vocabulary_uri else ""
        return f"{RANDOM}://{self.random_size}{vocabulary}"


def parse_pretrained(uri: str) -> Pretrained:
    """Take a `pretrained` parameter apart; what is not written as the module says is refused."""
    if not uri.strip():
        raise InputError(f"pretrained is empty; expected a checkpoint folder or its URI, or {FORM}")
    if scheme_of(uri) != RANDOM:
        return Pretrained(uri, "", folder_of(uri, CHECKPOINT_FILES[:2]))
    size, _, query = uri.split("://", 1)[1].partition("?")
    # A vocabulary may be at a signed URL, which no message may show.
    bare = f"pretrained '{RANDOM}://{size}?…'" if query else f"pretrained '{uri}'"
    if not size:
        raise InputError(f"{bare}: names no size; expected {FORM}")
    values: dict[str, str] = {}
    for key, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if key != "vocabulary":
            raise InputError(
                f"{bare}: query key '{key}' is unknown{nearest(key, ['vocabulary'])}; "
                f"expected {FORM}"
            )
        if key in values or not value:
            raise InputError(f"{bare}: expected one non-empty '{key}'; {FORM}")
        values[key] = value
    if query and not values:
        raise InputError(f"{bare}: the part after '?' is not a query; expected {FORM}")
    if size not in SIZES:
        raise InputError(
            f"pretrained {RANDOM}://{size}: the size is unknown{nearest(size, SIZES)}; "
            f"allowed: {', '.join(SIZES)}"
        )
    return Pretrained(uri, size, values.get("vocabulary", ""))


def resolve_vocabulary(pretrained: str) -> dict[str, int]:
    """Return the vocabulary that belongs to a `pretrained` parameter, token to id.

    It is in a vocab.json, or in the folder of one, or is that of a ``random://`` URI (see the
    module).
    """
    uri = parse_pretrained(pretrained).vocabulary_uri
    if not uri:
        return packaged_vocabulary()
    if _names_a_file(uri):
        with fetched(uri) as path:
            return read_vocabulary(path)
    with fetched_folder(uri, (VOCAB_FILE,)) as folder:
        return read_vocabulary(folder / VOCAB_FILE)


def _names_a_file(uri: str) -> bool:
    """Tell a vocab.json from a folder: by looking where that is possible, else by its ending."""
    bare = uri.partition(SHA256)[0]
    if scheme_of(bare) in ("", "file"):
        path = local_path(bare)
        return path.is_file() or (ending_of(uri) == ".json" and not path.is_dir())
    return ending_of(uri) == ".json"
