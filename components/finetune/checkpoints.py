"""Checkpoints of a fine-tune under way: whole or not there, checksummed, the last two kept.

A checkpoint is a folder, or the objects below a prefix of a bucket: a file for each part of the
training state, and a manifest with the sha256 of the parts and what the state belongs to (its
identity). The manifest comes last, so a checkpoint without one does not exist.
"""

import json
import os
import pickle
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from components.finetune.places import MANIFEST, Place
from components.shared.storage.digests import sha256_of
from components.shared.telling.addresses import without_secrets
from components.shared.telling.errors import InputError, say, system_errors

FORMAT = "finetune-checkpoint/v1"
KEPT = 2
"""Should the newest be damaged, there is one before it."""

Identity = Mapping[str, str | int | float | bool]
"""Facts that must be equal to resume from a checkpoint, by name; a sha256 stands for data."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read: where it is, and the parts of the training state on the CPU."""

    uri: str
    epoch: int
    """The epoch under way."""
    step: int
    """Steps done in it."""
    parts: dict[str, Any]


class _DamageError(Exception):
    """A checkpoint is not what was written."""


class Checkpoints:
    """The checkpoints of one fine-tune at one place."""

    def __init__(self, place: Place, identity: Identity) -> None:
        self._place = place
        self._identity = dict(identity)
        self._own: list[str] = []
        """Names that were read or written here, in order."""

    @property
    def where(self) -> str:
        """The folder or URI, to be given again to resume."""
        return self._place.where

    def save(self, parts: Mapping[str, Any], epoch: int, step: int) -> str:
        """Write a checkpoint, then delete all but it and the one before; return its URI.

        ``parts`` is the training state by name, tensors and plain containers of them; ``step`` are
        the steps done in the epoch under way.

        Raises:
            InputError: it could not be written; the others are as they were.
        """
        name = f"epoch-{epoch:04d}-step-{step:06d}-{uuid.uuid4().hex[:8]}"
        try:
            draft = self._place.draft(name)
            try:
                manifest = {
                    "format": FORMAT,
                    "identity": self._identity,
                    "sha256": {part: _write(draft, part, parts[part]) for part in parts},
                }
                with (draft / MANIFEST).open("w") as file:
                    file.write(json.dumps(manifest, indent=2) + "\n")
                    _flush(file)
                self._place.put(draft, name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise InputError(f"checkpoints {self.where}: {error.strerror or error}") from None
        self._own.append(name)
        self.keep(KEPT)
        return self._uri(name)

    def load(self) -> Saved | None:
        """Return the newest checkpoint that is whole, None if there is none.

        Raises:
            InputError: it is of another fine-tune, or the place cannot be read.
        """
        whole = [name for name, whole in self._place.names().items() if whole]
        names = sorted(whole, key=_position, reverse=True)
        for i, name in enumerate(names):
            with tempfile.TemporaryDirectory(prefix="checkpoint.") as scratch:
                try:
                    parts = self._read(name, Path(scratch))
                except _DamageError as damage:
                    before = names[i + 1] if i + 1 < len(names) else "the beginning"
                    _warn(f"{self._uri(name)} is damaged ({damage}); going back to {before}")
                    continue
            self._own.append(name)
            return Saved(self._uri(name), *_position(name), parts)
        return None

    def keep(self, count: int) -> None:
        """Delete all but the last ``count`` checkpoints that were read or written here."""
        self._own = self._own[-count:]
        try:
            for name in self._place.names():
                if name not in self._own:
                    self._place.delete(name)
        except (InputError, OSError) as error:
            _warn(f"an older one could not be deleted: {error}")

    def _read(self, name: str, scratch: Path) -> dict[str, Any]:
        digests = self._digests(name, scratch)
        return {part: self._read_part(name, part, digests[part], scratch) for part in digests}

    def _digests(self, name: str, scratch: Path) -> dict[str, str]:
        """Return the sha256 of each part, having checked what the checkpoint belongs to."""
        try:
            manifest = json.loads(self._place.fetch(name, MANIFEST, scratch).read_bytes())
            there = {"format": manifest["format"]} | dict(manifest["identity"])
            digests = dict(manifest["sha256"])
            if not all(re.fullmatch("[a-z]+", part) for part in digests):
                raise ValueError
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            raise _DamageError(f"{MANIFEST} is not a manifest") from None
        here = {"format": FORMAT} | self._identity
        if there != here:
            raise InputError(
                f"{self._uri(name)}: is of another fine-tune: {_difference(there, here)}; give "
                "another checkpoints= or remove it"
            )
        return digests

    def _read_part(self, name: str, part: str, digest: str, scratch: Path) -> Any:
        file = f"{part}.pt"
        try:
            path = self._place.fetch(name, file, scratch)
        except FileNotFoundError:
            raise _DamageError(f"{file} is missing") from None
        try:
            if sha256_of(path) != digest:
                raise _DamageError(f"sha256 of {file} is not the one in {MANIFEST}")
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise _DamageError(f"{file}: {error.strerror}") from None
        except pickle.UnpicklingError:
            raise _DamageError(f"{file} does not load with weights_only=True") from None

    def _uri(self, name: str) -> str:
        return f"{self.where}/{name}"


def _write(folder: Path, part: str, content: Any) -> str:
    """Write one part, through to the disk, and return its sha256."""
    path = folder / f"{part}.pt"
    with path.open("wb") as file:
        with system_errors():
            torch.save(content, file)
        _flush(file)
    return sha256_of(path)


def _flush(file: IO[Any]) -> None:
    """Write through to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _position(name: str) -> tuple[int, int]:
    _, epoch, _, step, _ = name.split("-")
    return int(epoch), int(step)


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return f"sha256 {value[:12]}" if re.fullmatch("[0-9a-f]{64}", str(value)) else repr(value)

    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    told = [f"{n} was {shown(there.get(n))} and is {shown(here.get(n))}" for n in names[:3]]
    return ", ".join(told) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _warn(text: str) -> None:
    say(f"finetune: WARNING: checkpoint: {without_secrets(text)}")
