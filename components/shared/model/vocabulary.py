"""Gene vocabularies in scGPT's form: a JSON object of token to id, special tokens among them."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.shared.storage.documents import read_json
from components.shared.telling.errors import InputError

PAD = "<pad>"
SPECIAL_TOKENS = (PAD, "<cls>", "<eoc>")
VOCAB_FILE = "vocab.json"

Vocabulary = Mapping[str, int]


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read a `vocab.json`: every id from 0 to n-1 once, `<pad>` among the tokens.

    Raises:
        InputError: missing, not JSON, or ids that are not 0 to n-1.
    """
    vocabulary = read_json(path, str(path), "expected scGPT's vocab.json")
    ids = list(vocabulary.values())
    if any(type(i) is not int for i in ids) or set(ids) != set(range(len(ids))):
        raise InputError(f"{path}: expected an object of token to id with each id 0 to n-1 once")
    if PAD not in vocabulary:
        raise InputError(f"{path}: token '{PAD}' is missing; add it with the next free id")
    return vocabulary


def packaged_vocabulary() -> dict[str, int]:
    """Return scGPT's whole-human vocabulary as its package ships it (60,697 tokens).

    The package's `tokenizer/default_census_vocab.json` holds the genes; the published checkpoint's
    `vocab.json` is the same with the three special tokens at the end.
    """
    found = importlib.util.find_spec("scgpt")
    if found is None or not found.submodule_search_locations:
        raise InputError("package scgpt is not installed; pip install --no-deps scgpt==0.2.4")
    folder = Path(found.submodule_search_locations[0])
    genes = (folder / "tokenizer" / "default_census_vocab.json").read_text()
    vocabulary: dict[str, int] = json.loads(genes)
    return vocabulary | {token: len(vocabulary) + i for i, token in enumerate(SPECIAL_TOKENS)}


def vocabulary_digest(vocabulary: Vocabulary) -> str:
    """Return the sha256 of a vocabulary's tokens and ids, whatever the order of its file."""
    text = json.dumps(sorted(vocabulary.items(), key=lambda item: item[1]))
    return hashlib.sha256(text.encode()).hexdigest()


def token_ids(vocabulary: Vocabulary, genes: Iterable[str]) -> NDArray[np.int64]:
    """Return the token id of each gene, -1 for one the vocabulary lacks; shape [genes]."""
    return np.array([vocabulary.get(gene, -1) for gene in genes], dtype=np.int64)
