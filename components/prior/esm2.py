"""Proteins embedded by ESM2 (Lin et al. 2023): the last layer, averaged over residues.

Sequences longer than 1,022 residues, the longest that ESM2 was trained on, are cut into the fewest
pieces of equal length (to one residue) that are not, and the average is over the residues of all.
Begin, end and padding are never in it. What is finished is kept in shards, so that a run that was
killed goes on; batches are cut the same way then, so that the result is the same to the bit.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import EsmConfig, EsmModel, EsmTokenizer
from transformers.utils import logging

from components.shared.storage.digests import sha256_of
from components.shared.storage.documents import kind_and_said
from components.shared.storage.downloads import shown
from components.shared.storage.files import fetch_folder, place_for
from components.shared.telling.errors import InputError, refusing, system_errors
from components.shared.telling.progress import bar

CONFIG_FILE, VOCAB_FILE = "config.json", "vocab.txt"
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The weights, or the index of their parts; the first that is there is taken."""
LONGEST = 1022
"""Residues that ESM2 was trained on at most: 1,024 tokens with the first and the last."""
TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 32768}
"""Tokens in a batch, padding among them."""
SECONDS_BETWEEN_SHARDS = 30.0
MAY_BE_MISSING = ("contact_head.", "position_ids", "inv_freq")
"""Parts of a checkpoint that its embeddings do not depend on."""

logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass(frozen=True)
class Esm2:
    """A model ready to embed."""

    model: EsmModel
    tokenizer: EsmTokenizer
    digest: str
    """Of its configuration, vocabulary and weights."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return int(self.model.config.hidden_size)


@dataclass(frozen=True)
class _Piece:
    protein: int
    residues: str


@contextmanager
def fetched_checkpoint(uri: str) -> Iterator[Path]:
    """Yield a local folder with the checkpoint that ``uri`` names, for use inside the block.

    Raises:
        InputError: a file of it is not there.
    """
    with place_for(uri, ("esm2",)) as folder:
        yield _fetch(uri, folder)


def _fetch(uri: str, folder: Path) -> Path:
    path = fetch_folder(uri, folder, (CONFIG_FILE, VOCAB_FILE))
    said = ""
    for name in WEIGHTS_FILES:
        try:
            fetch_folder(uri, folder, (name,))
        except InputError as error:
            said = str(error)
            continue
        if name.endswith(".json"):
            fetch_folder(uri, folder, _parts(path / name))
        return path
    raise InputError(
        f"{shown(uri)}: no weights; expected one of {', '.join(WEIGHTS_FILES)} (the last: {said})"
    )


def _parts(index: Path) -> list[str]:
    """Return the files that hold the weights."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = []
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise InputError(
            f"{index}: is not an index of weights; expected plain names in 'weight_map'"
        )
    return names


def load_esm2(folder: Path, name: str) -> Esm2:
    """Load a checkpoint that was fetched, on the GPU if there is one; messages name it ``name``.

    Raises:
        InputError: no ESM2, or files that are damaged or do not belong together.
    """
    config = _config(folder, name)
    # A damaged file makes the loaders raise nearly anything.
    with refusing(Exception, f"{name}: cannot be loaded as ESM2", said=kind_and_said):
        loaded: Any = EsmModel.from_pretrained(
            str(folder),
            config=config,
            add_pooling_layer=False,
            local_files_only=True,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        model, found = loaded
        tokenizer = EsmTokenizer(str(folder / VOCAB_FILE))
    missing = [k for k in found["missing_keys"] if not any(part in k for part in MAY_BE_MISSING)]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} tensors of ESM2 are missing in the weights, "
            f"'{sorted(missing)[0]}' first; is it a whole checkpoint?"
        )
    if len(tokenizer.all_tokens) > (config.vocab_size or 0):
        raise InputError(
            f"{name}: {VOCAB_FILE} has {len(tokenizer.all_tokens)} tokens, {CONFIG_FILE} "
            f"{config.vocab_size}; are the files of one checkpoint?"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Esm2(model.eval().to(device), tokenizer, _digest(folder))


def _config(folder: Path, name: str) -> EsmConfig:
    hint = "; expected a folder as facebook/esm2_t33_650M_UR50D"
    # Strict dataclasses raise their own kinds.
    with refusing(Exception, f"{name}: {CONFIG_FILE} is not that of an ESM2 model", hint):
        said = json.loads((folder / CONFIG_FILE).read_text())
        if said.get("model_type") != "esm" or said.get("is_folding_model"):
            raise ValueError(f"model_type is {said.get('model_type')!r}")
        return EsmConfig.from_dict(said)


def _digest(folder: Path) -> str:
    names = {CONFIG_FILE, VOCAB_FILE}
    weights = next(name for name in WEIGHTS_FILES if (folder / name).is_file())
    names |= set(_parts(folder / weights)) if weights.endswith(".json") else {weights}
    lines = [f"{name} {sha256_of(folder / name)}" for name in sorted(names)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def pieces_of(sequence: str) -> list[str]:
    """Cut a sequence into the fewest pieces of at most LONGEST residues, equal to one residue."""
    n = math.ceil(len(sequence) / LONGEST)
    ends = [round(i * len(sequence) / n) for i in range(n + 1)]
    return [sequence[start:end] for start, end in pairwise(ends)]


def embed(esm2: Esm2, sequences: Sequence[str], folder: Path) -> NDArray[np.float32]:
    """Return the embedding of each sequence, [sequences, width].

    Sequences are residues, upper-case letters, each once. Finished embeddings are kept in
    ``folder``; those that are there are not computed again.
    """
    vectors = np.zeros((len(sequences), esm2.width), dtype=np.float32)
    shards = _Shards(folder)
    keys = [hashlib.sha256(sequence.encode()).digest() for sequence in sequences]
    kept = shards.read(esm2.width)
    done = np.array([key in kept for key in keys], dtype=bool)
    for at in np.flatnonzero(done):
        vectors[at] = kept[keys[at]]
    left = [len(sequence) for sequence in sequences]
    begun: dict[int, NDArray[np.float64]] = {}
    with bar(total=sum(left), what="embedding proteins", unit=" residues") as progress:
        for batch in token_batches(sequences, TOKENS_AT_ONCE[esm2.model.device.type]):
            progress.update(sum(len(piece.residues) for piece in batch))
            if all(done[piece.protein] for piece in batch):
                continue
            for piece, total in zip(batch, token_sums(esm2, batch), strict=True):
                i = piece.protein
                if done[i]:
                    continue
                begun[i] = begun[i] + total if i in begun else total
                left[i] -= len(piece.residues)
                if not left[i]:
                    vectors[i] = begun.pop(i) / len(sequences[i])
                    done[i] = True
                    shards.add(keys[i], vectors[i])
    return vectors


def token_batches(sequences: Sequence[str], tokens: int) -> Iterator[list[_Piece]]:
    """Yield batches of pieces of like length, longest first, so that too little memory shows."""
    pieces = [_Piece(i, text) for i, s in enumerate(sequences) for text in pieces_of(s)]
    pieces.sort(key=lambda piece: (-len(piece.residues), piece.protein))
    batch: list[_Piece] = []
    for piece in pieces:
        if batch and (len(batch) + 1) * (len(batch[0].residues) + 2) > tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


@torch.inference_mode()
def token_sums(esm2: Esm2, batch: list[_Piece]) -> NDArray[np.float64]:
    """Return the sum of each piece's last layer over its residues, [pieces, width]."""
    # J, leucine or isoleucine, is the one letter that ESM2 has no token for.
    texts = [piece.residues.replace("J", "X") for piece in batch]
    given: Any = esm2.tokenizer(texts, padding=True, return_tensors="pt").to(esm2.model.device)
    hidden = esm2.model(**given).last_hidden_state.double()
    places = torch.arange(hidden.shape[1], device=hidden.device)
    lengths = torch.tensor([len(text) for text in texts], device=hidden.device)[:, None]
    residues = (places >= 1) & (places <= lengths)
    return (hidden * residues[:, :, None]).sum(1).cpu().numpy()


class _Shards:
    """Finished embeddings in files of a folder, each written whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: list[tuple[bytes, NDArray[np.float32]]] = []
        self.written = time.monotonic()

    def read(self, width: int) -> dict[bytes, NDArray[np.float32]]:
        """Return what is kept, by sha256 of the sequence; a damaged shard is removed."""
        kept: dict[bytes, NDArray[np.float32]] = {}
        for path in sorted(self.folder.glob("proteins-*.safetensors")):
            try:
                shard = load_file(path)
                keys, vectors = shard["sha256"], shard["vectors"]
                fits = keys.shape == (len(vectors), 32) and vectors.shape[1:] == (width,)
            except (SafetensorError, OSError, KeyError):
                fits = False
            if fits:
                kept |= {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}
            else:
                path.unlink()
        if kept:
            print(f"esm2: resumed after {len(kept):,} stored proteins", flush=True)
        return kept

    def add(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """Take an embedding, and write what came since the last shard if it is time."""
        self.pending.append((key, vector))
        if time.monotonic() - self.written < SECONDS_BETWEEN_SHARDS:
            return
        keys = np.stack([np.frombuffer(key, np.uint8) for key, _ in self.pending])
        vectors = np.stack([vector for _, vector in self.pending])
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        partial = self.folder / "partial"
        with system_errors():
            save_file({"sha256": keys, "vectors": vectors}, partial)
        partial.replace(self.folder / f"proteins-{name}.safetensors")
        self.pending = []
        self.written = time.monotonic()
