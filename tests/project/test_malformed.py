"""Inputs of the stages, damaged in many ways: one line that names the file, or they are taken."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from components.finetune.checkpoints import Checkpoints
from components.finetune.places import Folder
from components.ingest.ingest import ingest
from components.prior.align import align
from components.prior.fasta import read_fasta
from components.prior.other_screens import read_deltas
from components.prior.vector_tables import READERS
from components.shared.artifacts.artifact import CELLS, PROVENANCE, opening
from components.shared.artifacts.splits import REQUEST_FILE, SPLITS_FILE, Splits
from components.shared.model.checkpoint import ARGS_FILE, WEIGHTS_FILE, read_checkpoint
from components.shared.model.model import build, load_pretrained
from components.shared.parameters.aliases import Aliases, read_aliases
from components.shared.parameters.perturbation_list import read_perturbations
from components.shared.telling.errors import InputError, said_by_system
from components.split.split_file import read_split_file
from pipelines.run import PARAMS, check_early, check_settings, read_params
from tests.helpers import cells_artifact, screen
from tests.ingest.files import screen as screen_of_file
from tests.ingest.files import written
from tests.servers.malformed import (
    BROKEN,
    LONGEST,
    ODD,
    Held,
    bounded,
    broken_json,
    damaged,
    documents,
    npz_damaged,
)
from tests.shared.model.checkpoints import ARGS, VOCABULARY, write_checkpoint


def holds(read: Callable[[], object], *names: str) -> bool:
    """Return whether a reader refuses; it does so in one line that names a file, and soon."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except InputError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1500
        assert any(name in said for name in names), said
        return True
    finally:
        assert time.process_time() - start < LONGEST
    return False


# ---- checkpoints ----


def checkpoint(folder: Path) -> object:
    found = read_checkpoint(folder)
    args = found.args | {"pert_pad_id": 0}
    return load_pretrained(build(args, found.vocabulary), found, folder / WEIGHTS_FILE)


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return dict(build(ARGS, VOCABULARY).state_dict())


@pytest.mark.parametrize("name", [ARGS_FILE, "vocab.json"])
def test_documents_of_a_checkpoint(tmp_path: Path, state: dict[str, Any], name: str) -> None:
    folder = write_checkpoint(tmp_path / "model", state)
    good = json.loads((folder / name).read_text())
    for key in [*good][3:-1] if name == "vocab.json" else ():
        good.pop(key)
    for text in broken_json(good):
        (folder / name).write_bytes(text)
        holds(lambda: checkpoint(folder), str(folder))


@pytest.mark.parametrize("size", ["embsize", "nheads", "d_hid", "nlayers", "n_layers_cls"])
@pytest.mark.parametrize("value", [2**13, 2**15, 2**31, 10**30, -1, 0, 1.5, "512", True, None])
def test_sizes_beyond_any_model(
    tmp_path: Path, state: dict[str, Any], size: str, value: Any
) -> None:
    args = ARGS | {size: value} | ({"nheads": 1} if size == "embsize" else {})
    folder = write_checkpoint(tmp_path / "model", state, args)
    assert holds(lambda: checkpoint(folder), str(folder))


def odd_states(state: dict[str, Any]) -> Iterator[Any]:
    name = "encoder.embedding.weight"
    tensor = state[name]
    yield from ODD
    yield {3: tensor}
    yield state | {3: tensor}
    yield state | {name: tensor.to_sparse()}
    yield state | {name: tensor.to("meta")}
    yield state | {name: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)}
    yield state | {name: tensor.to(torch.complex64)}
    yield state | {name: tensor.long()}
    yield state | {name: tensor[:, :3]}
    yield state | {name: torch.tensor(1.0)}
    yield state | {name: torch.zeros(1).expand(2**40)[: 2**20]}
    yield {"state_dict": {"module." + key: value for key, value in state.items()} | {"module.": 1}}


def test_weights_without_plain_numbers(tmp_path: Path, state: dict[str, Any]) -> None:
    for odd in odd_states(state):
        folder = write_checkpoint(tmp_path / "model", odd)
        assert holds(lambda: checkpoint(folder), str(folder)), type(odd)  # noqa: B023


# ---- artifacts ----


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return cells_artifact(tmp_path / "cells", *screen())


def test_provenance(cells: Path) -> None:
    good = json.loads((cells / PROVENANCE).read_text())
    for text in broken_json(good):
        (cells / PROVENANCE).write_bytes(text)
        holds(lambda: opening(cells, CELLS), str(cells))
    for name in ("../outside", "/etc/passwd", "a/../../outside"):
        document = good | {"files": {name: {"sha256": "0" * 64}}}
        (cells / PROVENANCE).write_text(json.dumps(document))
        with pytest.raises(InputError, match="is outside of its folder"):
            opening(cells, CELLS)


def test_splits(tmp_path: Path, cells: Path) -> None:
    from components.shared.artifacts.cells import Cells
    from components.split.split import split

    target = tmp_path / "splits"
    split(cells, target, train_lines=["k562", "jurkat", "hepg2"], test_line="rpe1")
    opened, provenance = Cells.open(cells), json.loads((target / PROVENANCE).read_text())
    provenance["files"] = {}

    def read() -> None:
        found = Splits.open(target, opened)
        assert found.requested is not None and found.other_names is not None
        assert isinstance(found.test_line, str) and isinstance(found.train_lines, list)

    table = pd.read_parquet(target / SPLITS_FILE)
    for _, document in documents(provenance, 3):
        (target / PROVENANCE).write_text(json.dumps(document))
        holds(read, str(target))
    (target / PROVENANCE).write_text(json.dumps(provenance))
    asked = json.loads((target / REQUEST_FILE).read_text())
    for of_no_name in ({"perturbations": [[1]]}, {"other_names": {"A": 1}}):
        (target / REQUEST_FILE).write_text(json.dumps(asked | of_no_name))
        assert holds(read, REQUEST_FILE)
    for text in broken_json(asked):
        (target / REQUEST_FILE).write_bytes(text)
        holds(read, REQUEST_FILE)
    (target / REQUEST_FILE).write_text(json.dumps(asked))
    whole = (target / SPLITS_FILE).read_bytes()
    for raw in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2] + bytes(99), whole[::-1]):
        (target / SPLITS_FILE).write_bytes(raw)
        assert holds(read, SPLITS_FILE)
    tables = [table[:5], table[["cell"]], table.drop(columns="role"), pd.DataFrame({"x": [1]})]
    tables += [table[::-1], *(table.assign(**{column: "x"}) for column in table)]
    for odd in tables:
        odd.to_parquet(target / SPLITS_FILE)
        assert holds(read, SPLITS_FILE)


# ---- cells ----


def h5ad_damages(file: h5py.File) -> list[tuple[str, str]]:
    """Return the ways to damage a file: a part and what is done to it."""
    parts: list[str] = []
    file.visit(parts.append)
    kept = [p for p in parts if p.split("/")[0] in ("X", "obs", "var")]
    ways = [(p, way) for p in kept for way in ("del", "scalar", "text", "short", "group", "vast")]
    return ways + [(p, f"@{name}") for p in kept for name in file[p].attrs]


def damage(file: h5py.File, part: str, way: str) -> None:
    if way.startswith("@"):
        file[part].attrs[way[1:]] = 7
        return
    attributes = dict(file[part].attrs)
    del file[part]
    if way == "del":
        return
    if way == "group":
        file.create_group(part)
    elif way == "vast":
        file.create_dataset(part, (2**40,), np.float64, chunks=(2**10,))
    else:
        odd: Any = {"scalar": 7.5, "text": ["x"] * 60, "short": np.arange(3.0) - 9}[way]
        file.create_dataset(part, data=odd)
    file[part].attrs.update(attributes)


def test_cells_of_strangers(tmp_path: Path) -> None:
    good = Path(written(tmp_path, screen_of_file(), "good.h5ad")).read_bytes()
    (tmp_path / "in.h5ad").write_bytes(good)
    with h5py.File(tmp_path / "in.h5ad") as file:
        ways = h5ad_damages(file)
    for number, (part, way) in enumerate(ways):
        (tmp_path / "in.h5ad").write_bytes(good)
        with h5py.File(tmp_path / "in.h5ad", "r+") as file:
            damage(file, part, way)
        print(part, way)
        target = tmp_path / f"out{number}"
        holds(lambda: ingest(str(tmp_path / "in.h5ad"), target), "in.h5ad")  # noqa: B023


def test_bytes_that_were_flipped_or_cut(tmp_path: Path) -> None:
    good = Path(written(tmp_path, screen_of_file(), "good.h5ad")).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        raw = bytearray(good[: rng.integers(1, len(good))] if number % 4 == 0 else good)
        for at in rng.integers(0, len(raw), 8):
            raw[at] = rng.integers(256)
        (tmp_path / "in.h5ad").write_bytes(raw)
        target = tmp_path / f"out{number}"
        holds(lambda: ingest(str(tmp_path / "in.h5ad"), target), "in.h5ad")  # noqa: B023


# ---- what people write ----

TOML = """[datasets]
replogle = "/data"
[training]
replogle = "train"
[zeroshot]
"replogle.rpe1" = "test"
[fewshot."replogle.hepg2"]
val = ["A"]
test = ["B"]
"""


def test_split_files(tmp_path: Path) -> None:
    path = tmp_path / "split.toml"
    lines = TOML.splitlines()
    texts = [text.decode("latin1") for text in BROKEN]
    texts += ["a = " + "[" * 50_000, f"a = {'1' * 5000}", "a = 2020-13-45", "a = 1e999"]
    for i, line in enumerate(lines):
        odd = ["", line[:-1], *(f"{line.split('=')[0]} = {x}" for x in ("1", "[]", "{}", "[[1]]"))]
        texts += ["\n".join([*lines[:i], other, *lines[i + 1 :]]) for other in odd]
    for text in texts:
        path.write_text(text, encoding="latin1")
        holds(lambda: read_split_file(path, str(path)), str(path))


def test_parameter_files(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    good = yaml.safe_load((PARAMS / "demo.yaml").read_text())
    odd = (b"seed: 2020-13-45", b"seed: " + b"1" * 5000, b"seed: !!bool x", b"seed: !!float x")
    for text in (*broken_json(good), *odd, b"&a [*a]", b"\xff\xfes\0e\0", b"a: &a [*b]"):
        path.write_bytes(text)
        holds(lambda: check_settings(read_params(path, [])), "")


def test_lists_of_perturbations(tmp_path: Path) -> None:
    path = tmp_path / "wanted.csv"
    for raw in (*BROKEN, b"\0\0\0", b"gene\n", b'"' * 200_000, b"A+B+\n+\n", b"x" * 200_000):
        path.write_bytes(raw)
        holds(lambda: read_perturbations(str(path)), str(path))


@pytest.mark.parametrize(
    "read", [lambda path: read_perturbations(str(path)), lambda path: read_split_file(path, "x")]
)
def test_a_file_of_cells_in_place_of_a_list_is_refused_before_it_is_read(tmp_path, read) -> None:
    path = tmp_path / "cells.csv"
    with path.open("wb") as file:
        file.truncate(2**40)  # of which nothing is stored
    with pytest.raises(InputError, match="is larger than 64 MiB"), bounded():
        read(path)


# ---- what a model brings along ----


def test_tables_of_a_model(tmp_path: Path) -> None:
    from components.shared.artifacts.confidence import Confidence
    from components.shared.artifacts.gene_prior import EFFECTS_FILE, OtherEffects
    from components.shared.artifacts.known_effects import EffectTable
    from components.shared.artifacts.training_effects import TrainingEffects

    tensors = {"change": np.zeros((1, 1, 2), np.float32), "cells": np.zeros((1, 1), np.int64)}
    names = {"lines": '["k562"]', "perturbations": '["A"]', "genes": '["A", "B"]', "origin": "[]"}
    path = tmp_path / "table.safetensors"
    for reader in (TrainingEffects, EffectTable):
        for text in BROKEN:
            path.write_bytes(text)
            assert holds(lambda: reader.read(path), str(path))  # noqa: B023
        for key in names:
            for odd in ("[" * 50_000, "3", "null", "{}", '"x"', "[1]"):
                save_file(tensors, path, metadata=names | {key: odd})
                assert holds(lambda: reader.read(path), str(path))  # noqa: B023
    confidence = tmp_path / "confidence.json"
    for text in broken_json({"perturbations": {"label": ["A"]}, "held_out": [], "scale": 1.0}):
        confidence.write_bytes(text)
        assert holds(lambda: Confidence.read(confidence), str(confidence))
    effects = tmp_path / EFFECTS_FILE
    good = pd.DataFrame({"perturbation": ["A"], "cell_line": ["k562"], "A": [0.5]})
    for odd in (good[["A"]], good.assign(A="x"), good.assign(perturbation=[["A"]]), good[:0]):
        odd.to_parquet(effects)
        holds(lambda: OtherEffects.read(tmp_path), str(effects))


# ---- priors ----

GENES = [f"G{i}" for i in range(12)]
VECTORS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)


def tables_of_vectors(folder: Path) -> Iterator[Path]:
    """Write a table of gene vectors in each format."""
    frame = pd.DataFrame(VECTORS, columns=[f"d{i}" for i in range(4)])
    frame.insert(0, "gene", GENES)
    frame.to_parquet(folder / "t.parquet")
    np.savez(folder / "t.npz", genes=np.array(GENES), embeddings=VECTORS)
    save_file({"prior": VECTORS}, folder / "t.safetensors", metadata={"genes": json.dumps(GENES)})
    torch.save(
        {gene: torch.from_numpy(v) for gene, v in zip(GENES, VECTORS, strict=True)}, folder / "t.pt"
    )
    yield from (folder / f"t{ending}" for ending in READERS)


def test_tables_of_gene_vectors(tmp_path: Path) -> None:
    vocabulary = {gene: i for i, gene in enumerate(GENES)}
    held = Held()
    for path in tables_of_vectors(tmp_path):
        good = path.read_bytes()
        ways = [*damaged(path, tmp_path / "scratch")]
        ways += npz_damaged(good) if path.suffix == ".npz" else []
        for what, do in ways:
            undone(path, good)
            do(path)

            def read() -> None:
                table = READERS[path.suffix](path, str(path))  # noqa: B023
                align(table, vocabulary, str(path), Aliases())  # noqa: B023

            held.read(f"{path.suffix} {what}", read, str(path))
    held.ends(refused=60)


def undone(path: Path, good: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    path.write_bytes(good)


def test_tables_of_names(tmp_path: Path) -> None:
    held = Held()
    good = b"symbol,alias\nA,B\nC,D\n"
    for name, read in (
        ("t.csv", read_aliases),
        ("t.parquet", read_aliases),
        ("t.fasta", read_fasta),
    ):
        path = tmp_path / name
        path.write_bytes(good)
        if path.suffix == ".parquet":
            pd.DataFrame({"symbol": ["A", "C"], "alias": ["B", "D"]}).to_parquet(path)
        elif path.suffix == ".fasta":
            path.write_bytes(b">sp|P1|A_HUMAN x OS=Homo sapiens GN=A PE=1\nMKV\n>B\nMKL\n")
        whole = path.read_bytes()
        for what, do in damaged(path, tmp_path / "scratch"):
            undone(path, whole)
            do(path)
            held.read(f"{name} {what}", lambda: read(path, str(path)), str(path))  # noqa: B023
    held.ends()


def test_deltas_of_other_screens(tmp_path: Path) -> None:
    path, held = tmp_path / "deltas.parquet", Held()
    frame = pd.DataFrame({"perturbation": ["A", "B"], "cell_line": ["k", "k"], "cells": [3, 4]})
    frame.assign(A=[0.5, 0.1], B=[0.0, 1.0]).to_parquet(path)
    good = path.read_bytes()
    for what, do in damaged(path, tmp_path / "scratch"):
        undone(path, good)
        do(path)
        held.read(what, lambda: read_deltas(path, str(path)), str(path))
    held.ends()


# ---- checkpoints of a training ----


def test_checkpoints_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    place, identity = Folder(tmp_path / "kept"), {"seed": 1}
    Checkpoints(place, identity).save({"weights": {"a": torch.ones(3)}}, 1, 2)
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    held = Held()
    for path in files:
        good = path.read_bytes()
        for what, do in damaged(path, tmp_path / "scratch"):
            undone(path, good)
            do(path)
            held.read(f"{path.name} {what}", lambda: Checkpoints(place, identity).load(), "kept")
        undone(path, good)
    held.ends()
    assert Checkpoints(place, identity).load() is not None


# ---- parameters ----

TEXTS = ["", " ", "\0", "a\0b", "http://[::1", "x" * 5000, "../" * 900, "hf://", "s3://", "\ud800"]
NUMBERS = [-1, 2**70, 1e308, float("nan"), True, None, 0.5]


def looked_at(file: Path) -> None:
    try:
        check_early(read_params(file, []))
    except OSError as error:  # which `one_line_errors` tells
        if said := said_by_system(error):
            raise InputError(said) from None
        raise


def test_parameters(tmp_path: Path) -> None:
    good = read_params(PARAMS / "demo.yaml", []) | {"publish_to": "", "checkpoints": ""}
    held = Held()
    for name in good:
        for odd in (*TEXTS, *NUMBERS, [], {}, [""], [None], {"x": 1}, ["k562", 7], [["k562"]]):
            file = tmp_path / "p.yaml"
            file.write_text(yaml.safe_dump(good | {name: odd}))
            held.read(f"{name}={odd!r:.20}", lambda: looked_at(file))  # noqa: B023
    held.ends(refused=100)
