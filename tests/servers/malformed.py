"""What can be wrong with a file, by its format, and how a reader is held to one line about it."""

import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.shared.artifacts.artifact import PROVENANCE
from components.shared.storage.digests import sha256_of
from components.shared.telling.errors import InputError

EXAMPLES = int(os.environ.get("SCGPT_PERTURB_MALFORMED", "12"))
"""Damages of a file that a slow reader is given, drawn at random; 0 = all there are."""
LONGEST = 20
"""Seconds of the processor that a reader may take: on a busy machine the clock says little."""
WAITING = 10 * LONGEST
"""Seconds by the clock, for a reader that waits for something."""
ROOM = 4 * 2**30
"""Bytes of addresses that a reader may take beyond what the process has."""
ODD: list[Any] = [None, [], {}, "x", -1, 0.5, 10**30, [[1]], {"x": {"y": 1}}, True]
BROKEN = [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'"x"', b"[1]", b"\xff\xfe\x00", b"NaN"]

Damage = tuple[str, Callable[[Path], object]]
"""What is done to a file, in words, and what does it."""


class Held:
    """Holds readers to their word, and tells at the end which of them broke it."""

    def __init__(self) -> None:
        self.refused = self.taken = 0
        self.faults: list[str] = []

    def read(self, what: str, read: Callable[[], object], *names: str) -> None:
        """Let a reader read; it takes the input, or refuses it in one line that has a name."""
        try:
            with bounded(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except InputError as error:
            self.refused += 1
            said = str(error)
            if "\n" in said or len(said) >= 1500:
                self.faults.append(f"{what}: says too much: {said[:200]}")
            if names and not any(name in said for name in names):
                self.faults.append(f"{what}: names none of {names}: {said[:300]}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [f for f in where if "/components/" in f.filename or "/pipelines/" in f.filename]
            at = [f"{Path(f.filename).name}:{f.lineno}" for f in ours[-2:]]
            self.faults.append(f"{what}: {type(error).__name__} {str(error)[:120]} at {at}")
        else:
            self.taken += 1

    def ends(self, *, refused: int = 1) -> None:
        """Fail if a reader broke its word, or if hardly anything was refused."""
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults)
        assert self.refused >= refused, f"{self.refused} refused, {self.taken} taken"


@contextmanager
def bounded() -> Iterator[None]:
    """Bound the time and the memory that what is done within may take."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"took more than {LONGEST} s, or waited {WAITING} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = [signal.signal(each, too_long) for each in (signal.SIGALRM, signal.SIGPROF)]
    signal.alarm(WAITING)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    try:
        yield
    finally:
        give_back_the_lock_of_hdf5()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for each, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(each, handler)


def give_back_the_lock_of_hdf5() -> None:
    """Release the lock that h5py holds on to where a column of an odd type made it raise.

    Threads of a later test that read a file would wait for it for ever.
    """
    with suppress(RuntimeError):  # it is not held, as it should be
        while True:
            h5py._objects.phil.release()


def some(damages: Iterator[Damage], seed: str, count: int = EXAMPLES) -> list[Damage]:
    """Return some of the damages, drawn at random but always the same; all if ``count`` is 0."""
    every = list(damages)
    return random.Random(seed).sample(every, min(count, len(every))) if count else every


# ---- any file ----


def bytes_damaged(good: bytes, seed: int = 0) -> Iterator[Damage]:
    """Yield a file that is gone, a folder, cut, of other bytes, or with some bytes changed."""
    rng = random.Random(seed)

    def gone(path: Path) -> None:
        path.unlink()

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    yield "gone", gone
    yield "folder", folder
    texts = {"empty": b"", "random": rng.randbytes(len(good)), "zeros": bytes(len(good))}
    texts |= {f"cut to {share}": good[: int(len(good) * share)] for share in (0.1, 0.5, 0.9, 0.99)}
    texts |= {"reversed": good[::-1], "other format": b"PK\3\4" + good[4:], "twice": good + good}
    for number in range(8):
        changed = bytearray(good)
        for _ in range(8 if changed else 0):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        texts[f"changed {number}"] = bytes(changed)
    for what, raw in texts.items():
        yield what, lambda path, raw=raw: path.write_bytes(raw)


# ---- JSON ----


def documents(good: dict[str, Any], depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Yield documents in which one value is missing or odd."""
    for key in good:
        yield f"no {key}", {name: value for name, value in good.items() if name != key}
        for odd in ODD:
            yield f"{key}={odd!r:.20}", good | {key: copy.deepcopy(odd)}
        inside = good[key]
        if isinstance(inside, list) and inside and isinstance(inside[0], dict) and depth > 1:
            for what, inner in documents(inside[0], depth - 1):
                yield f"{key}[0].{what}", good | {key: [inner, *inside[1:]]}
        if isinstance(inside, dict) and depth > 1:
            for what, inner in documents(inside, depth - 1):
                yield f"{key}.{what}", good | {key: inner}


def broken_json(good: dict[str, Any], depth: int = 2) -> Iterator[bytes]:
    """Yield texts that are no such document."""
    yield from BROKEN
    yield from (json.dumps(document).encode() for _, document in documents(good, depth))


def json_damaged(good: bytes, depth: int = 3) -> Iterator[Damage]:
    """Yield documents that are none, or in which a value is missing or odd."""
    for raw in BROKEN:
        yield f"{raw[:9]!r}", lambda path, raw=raw: path.write_bytes(raw)
    for what, document in documents(json.loads(good), depth):
        yield what, lambda path, d=document: path.write_text(json.dumps(d))


# ---- tables ----


def table_damaged(good: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield tables without a column, with one of another kind, of other lengths, or empty."""
    for column in good:
        rows = len(good)
        yield f"no {column}", good.drop(columns=column)
        for what, values in {
            "text": ["x"] * rows,
            "number": np.arange(rows) - 2.5,
            "huge": [2**62] * rows,
            "nothing": [None] * rows,
            "nan": [np.nan] * rows,
            "time": pd.to_datetime(["2020-01-01"] * rows),
            "list": [["x"]] * rows,
            "bytes": [b"\xff"] * rows,
            "same": good[column].iloc[[0] * rows].to_numpy() if rows else [],
        }.items():
            yield f"{column} is {what}", good.assign(**{str(column): values})
    yield "no rows", good[:0]
    yield "a row", good[:1]
    yield "fewer rows", good[:-1]
    yield "more rows", pd.concat([good, good], ignore_index=True)
    yield "backwards", good[::-1]
    yield "another", pd.DataFrame({"x": [1]})
    yield "nothing", pd.DataFrame()


def parquet_damaged(good: bytes) -> Iterator[Damage]:
    """Yield parquet files with such tables."""
    for what, table in table_damaged(pd.read_parquet(io.BytesIO(good))):
        yield what, lambda path, table=table: table.to_parquet(path)


def csv_damaged(good: bytes) -> Iterator[Damage]:
    """Yield csv files with such tables, and with lines that are none."""
    table = pd.read_csv(io.BytesIO(good), keep_default_na=False)
    for what, odd in table_damaged(table):
        yield what, lambda path, odd=odd: odd.to_csv(path, index=False)
    lines = good.decode().splitlines()
    for what, text in {
        "no header": lines[1:],
        "ragged": [*lines[:2], "x,x,x,x,x,x,x,x,x,x,x,x", *lines[2:]],
        "short": [lines[0], lines[0].split(",")[0]],
        "quote": [lines[0], '"' + "x" * 200_000],
        "columns": [",".join(str(i) for i in range(20_000))],
        "twice": [lines[0] + "," + lines[0], *lines[1:]],
        "nul": [lines[0], "\0" * 9],
    }.items():
        yield what, lambda path, text=text: path.write_text("\n".join(text))
    yield "not text", lambda path: path.write_bytes(b"\xff\xfe" + good)


# ---- HDF5 ----


def h5_parts(good: bytes, tops: tuple[str, ...]) -> list[str]:
    """Return the parts of an HDF5 file below some groups, and those groups."""
    parts: list[str] = []
    with h5py.File(io.BytesIO(good)) as file:
        file.visit(parts.append)
    return [part for part in parts if part.split("/")[0] in tops]


def h5_damaged(good: bytes, tops: tuple[str, ...] = ("X", "obs", "var")) -> Iterator[Damage]:
    """Yield HDF5 files in which a part is gone, of another kind, shape or length, or odd."""
    for part in h5_parts(good, tops):
        with h5py.File(io.BytesIO(good)) as file:
            kinds = _values(file[part]) if isinstance(file[part], h5py.Dataset) else {}
            names = list(file[part].attrs)
        for what in ("gone", "group", "scalar", "vast", "text", "short"):
            yield f"{part} {what}", lambda path, p=part, w=what: _replace(path, p, w)
        for what, value in kinds.items():
            yield f"{part} {what}", lambda path, p=part, v=value: _replace(path, p, v)
        for name in names:
            for odd in (None, 7, "x", [], ["x", "y"], [9, 9, 9], [-1, 2**40]):
                yield (
                    f"{part}@{name}={odd}",
                    lambda path, p=part, n=name, o=odd: _attribute(path, p, n, o),
                )


def _values(data: h5py.Dataset) -> dict[str, Any]:
    values = data[()]
    if not isinstance(values, np.ndarray) or not values.size:
        return {}
    found = {"square": values[:, None], "shorter": values[:-1], "longer": np.r_[values, values[:1]]}
    found |= {"backwards": values[::-1], "same": np.repeat(values[:1], len(values), axis=0)}
    if values.dtype.kind in "iufb":
        found["words"] = np.full(values.shape, "x", dtype=object)
        found["complex"] = values.astype(complex)
        found["negative"] = -(values.astype(float)) - 1
        found["nan"] = np.full(values.shape, np.nan)
        found["infinite"] = np.full(values.shape, np.inf)
        found["vast numbers"] = np.full(values.shape, 2**62)
        found["bytes"] = values.astype(np.int8)
        found["of halves"] = values.astype(float) + 0.5
    else:
        found["numbers"] = np.arange(values.size).reshape(values.shape)
        found["not text"] = np.full(values.shape, b"\xff\xfe").astype("S2")
        found["empty"] = np.full(values.shape, "", dtype=object)
        found["control characters"] = np.full(values.shape, "a\x1b[31m\n", dtype=object)
    return found


def _replace(path: Path, part: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        attributes = dict(file[part].attrs)
        del file[part]
        if isinstance(value, str) and value == "gone":
            return
        if isinstance(value, str) and value == "group":
            file.create_group(part)
        elif isinstance(value, str) and value == "vast":
            file.create_dataset(part, (2**40,), np.float64, chunks=(2**10,))
        elif isinstance(value, str):
            odd: Any = {"scalar": 7.5, "text": ["x"] * 60, "short": np.arange(3.0) - 9}[value]
            file.create_dataset(part, data=odd)
        else:
            file.create_dataset(part, data=value)
        file[part].attrs.update(attributes)


def _attribute(path: Path, part: str, name: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[part].attrs[name]
        if value is not None:
            file[part].attrs[name] = np.array(value) if value == [] else value


# ---- tensors ----


def odd_tensors(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return tensors of other shapes, types and values than one."""
    found = {
        "scalar": torch.tensor(1.0),
        "empty": tensor[:0],
        "flat": tensor.flatten(),
        "longer": torch.cat([tensor, tensor]) if tensor.ndim else tensor[None],
        "double": tensor.double(),
        "whole": tensor.long(),
        "bool": tensor.bool(),
        "half": tensor.half(),
        "nan": torch.full(tensor.shape, torch.nan),
        "infinite": torch.full(tensor.shape, torch.inf),
        "negative": -tensor.float() - 1,
        "vast": torch.full(tensor.shape, 1e38),
    }
    return {what: odd.contiguous() for what, odd in found.items()}


def safetensors_damaged(good: bytes, folder: Path) -> Iterator[Damage]:
    """Yield safetensors files with another tensor or other metadata."""
    folder.mkdir(exist_ok=True)
    (folder / "good.safetensors").write_bytes(good)
    tensors = load_file(folder / "good.safetensors")
    with safe_open(str(folder / "good.safetensors"), framework="pt") as file:
        metadata = file.metadata() or {}

    def saves(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Callable[[Path], object]:
        return lambda path: save_file(dict(tensors), path, metadata=dict(metadata) or None)

    for name, tensor in tensors.items():
        yield f"no {name}", saves({k: v for k, v in tensors.items() if k != name}, metadata)
        yield f"{name} renamed", saves({f"{k}x": v for k, v in tensors.items()}, metadata)
        for what, odd in odd_tensors(tensor).items():
            yield f"{name} {what}", saves(tensors | {name: odd}, metadata)
    yield "no tensors", saves({}, metadata)
    yield "no metadata", saves(tensors, {})
    for key in metadata:
        yield f"no {key}", saves(tensors, {k: v for k, v in metadata.items() if k != key})
        for odd in ("", "[" * 50_000, "3", "null", "{}", '"x"', "[1]", "[]", '["x"]', "\x00"):
            yield f"{key}={odd[:9]}", saves(tensors, metadata | {key: odd})


def weights_damaged(good: bytes) -> Iterator[Damage]:
    """Yield files of weights that are no state_dict, or of another model."""
    state = torch.load(io.BytesIO(good), weights_only=True)
    name = next(iter(state))
    odd_states: dict[str, Any] = {f"is {odd!r:.20}": odd for odd in ODD}
    odd_states |= {
        "whole keys": {3: state[name]},
        "a whole key": state | {3: state[name]},
        "sparse": state | {name: state[name].to_sparse()},
        "meta": state | {name: state[name].to("meta")},
        "complex": state | {name: state[name].to(torch.complex64)},
        "unstored": state | {name: torch.zeros(1).expand(2**40)[: 2**20]},
        "named twice": {
            "state_dict": {f"module.{k}": v for k, v in state.items()} | {"module.": 1}
        },
        "a tensor less": {k: v for k, v in state.items() if k != name},
        "a tensor more": state | {"another": torch.zeros(1)},
    }
    odd_states |= {f"{name} {w}": state | {name: t} for w, t in odd_tensors(state[name]).items()}
    for what, odd in odd_states.items():
        yield what, lambda path, odd=odd: torch.save(odd, path)


def damaged(path: Path, scratch: Path) -> Iterator[Damage]:
    """Yield what can be wrong with a file, by its ending."""
    good = path.read_bytes()
    yield from bytes_damaged(good)
    if path.suffix == ".json":
        yield from json_damaged(good)
    elif path.suffix == ".parquet":
        yield from parquet_damaged(good)
    elif path.suffix == ".csv":
        yield from csv_damaged(good)
    elif path.suffix == ".h5ad":
        yield from h5_damaged(good, ("X", "obs", "var", "uns", "layers", "varm"))
    elif path.suffix == ".safetensors":
        yield from safetensors_damaged(good, scratch)
    elif path.suffix == ".pt":
        yield from weights_damaged(good)


# ---- artifacts ----


class Chain:
    """The artifacts of a run, which can be changed and still fit each other."""

    ORDER = ("cells", "splits", "prior", "model", "predictions", "evaluation", "comparison")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> Path:
        return self.folder / name

    def copied(self, folder: Path) -> "Chain":
        """Return a copy, of which any file may be written anew."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        return Chain(folder)

    def seal(self) -> None:
        """Write every provenance as if each artifact had been made so."""
        digests: dict[str, str] = {}
        for name in self.ORDER:
            file = self.folder / name / PROVENANCE
            if not file.is_file():
                continue
            try:
                provenance = dict(json.loads(file.read_bytes()))
            except (ValueError, TypeError, RecursionError):
                return
            files, inputs = provenance.get("files"), provenance.get("inputs")
            for path in list(files) if isinstance(files, dict) else ():
                there = file.parent / path
                if there.is_file() and isinstance(files[path], dict):
                    files[path] |= {"sha256": sha256_of(there)} if "sha256" in files[path] else {}
                elif not there.exists():
                    del files[path]
            for key, digest in digests.items():
                if isinstance(inputs, dict) and isinstance(inputs.get(key), dict):
                    inputs[key] |= {"sha256": digest} if "sha256" in inputs[key] else {}
            file.write_text(json.dumps(provenance))
            digests[name] = sha256_of(file)
            digests |= {"gene_prior": digests[name]} if name == "prior" else {}


def npz_damaged(good: bytes) -> Iterator[Damage]:
    """Yield npz files without an array, or with one of another kind, shape or length."""
    with np.load(io.BytesIO(good)) as file:
        arrays = dict(file)
    for name, array in arrays.items():
        yield (
            f"no {name}",
            lambda p, n=name: np.savez(p, **{k: arrays[k] for k in arrays if k != n}),
        )
        odd = {
            "scalar": np.float64(1),
            "empty": array[:0],
            "shorter": array[:-1],
            "cube": array.reshape(*array.shape, 1, 1),
            "objects": np.array([object()] * len(array)),
            "bytes": np.full(array.shape, b"\xff"),
            "words": np.full(array.shape, "x"),
            "complex": np.full(array.shape, 1j),
            "nan": np.full(array.shape, np.nan),
            "vast": np.full(array.shape, 1e300),
        }
        for what, value in odd.items():
            yield f"{name} {what}", lambda p, n=name, v=value: np.savez(p, **(arrays | {n: v}))
