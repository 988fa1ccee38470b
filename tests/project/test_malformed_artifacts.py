"""Artifacts between stages, damaged and sealed again as if so made: one line, or they are taken.

More are tried with SCGPT_PERTURB_MALFORMED=<number of each>, all with 0.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from components.compare.compare import compare
from components.evaluate import evaluate as evaluation
from components.finetune import finetune as tuning
from components.predict.predict import predict
from components.prior.prior import prior
from components.publish.publish import publish
from components.shared.artifacts.artifact import PROVENANCE
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.compare.evaluations import evaluation as write_evaluation
from tests.compare.evaluations import stats as write_stats
from tests.helpers import cells_artifact, screen
from tests.publish.publish_run import finished_run
from tests.servers.malformed import Chain, Held, bounded, damaged, some

LINES = ("k562", "jurkat")
PERTURBATIONS = ("G0", "G1", "G2", "X0")
VOCABULARY = {f"G{i}": i for i in range(12)} | {"<pad>": 12, "<cls>": 13, "<eoc>": 14}
CELLS_FILE, PREDICTED_FILE = "cells.h5ad", "scgpt_replogle_test.h5ad"


class TakenError(Exception):
    """All was read: what comes then is work on sound numbers."""


def _taken(*_: object, **__: object) -> None:
    raise TakenError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("trained") / "run")
    lines = (*LINES, "rpe1")
    small = screen(
        lines=lines, perturbations=PERTURBATIONS, genes=12, cells_each=4, controls_each=8
    )
    cells_artifact(chain.cells, *small)
    (chain.folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    split_of(chain, chain.splits)
    prior("concat(random:4, effects)", str(chain.folder / "vocab.json"), chain.prior)
    finetune_of(chain, chain.model)
    predict_of(chain, chain.predictions)
    return chain


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("finished") / "run"
    finished_run(folder)
    return Chain(folder)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("scored") / "run"
    folder.mkdir()
    write_evaluation(folder / "evaluation", shift=0.1, seed=0)
    (folder / "model").mkdir()
    write_stats(folder / "model" / "training_stats.json", 0)
    return Chain(folder)


def split_of(chain: Chain, target: Path) -> None:
    split(chain.cells, target, train_lines=list(LINES), test_line="rpe1", val_fraction=0.3)


def finetune_of(chain: Chain, target: Path) -> None:
    tuning.finetune(
        chain.cells,
        chain.splits,
        chain.prior,
        target,
        pretrained=f"random://tiny?vocabulary={chain.folder / 'vocab.json'}",
        recipe="smoke",
        overrides={"epochs": 1, "max_genes": 16},
    )


def predict_of(chain: Chain, target: Path) -> None:
    predict(chain.model, chain.cells, chain.splits, target)


def evaluate_of(chain: Chain, target: Path) -> None:
    evaluation.evaluate(
        chain.predictions, chain.cells, chain.splits, target, prior=chain.prior, threads=1
    )


def publish_of(chain: Chain, target: Path) -> None:
    publish(chain.model, chain.predictions, chain.evaluation, chain.splits, "", target)


def compare_of(chain: Chain, target: Path) -> None:
    stats = chain.model / "training_stats.json"
    compare([chain.evaluation], [stats], [{"prior": "none", "seed": 0}], target)


def until_taken(stage: Callable[[Chain, Path], None], chain: Chain, target: Path) -> None:
    with suppress(TakenError):
        stage(chain, target)


CASES = [
    ("trained", split_of, "cells", CELLS_FILE),
    ("trained", finetune_of, "cells", CELLS_FILE),
    ("trained", finetune_of, "splits", "splits.parquet"),
    ("trained", finetune_of, "prior", "prior.safetensors"),
    ("trained", finetune_of, "prior", "prior.json"),
    ("trained", predict_of, "cells", CELLS_FILE),
    ("trained", predict_of, "splits", PROVENANCE),
    ("trained", predict_of, "splits", "asked.json"),
    ("trained", predict_of, "model", "best_model.pt"),
    ("trained", predict_of, "model", "args.json"),
    ("trained", predict_of, "model", "confidence.json"),
    ("trained", predict_of, "model", "training_effects.safetensors"),
    ("trained", predict_of, "model", "effects.safetensors"),
    ("trained", evaluate_of, "predictions", PREDICTED_FILE),
    ("trained", evaluate_of, "predictions", "perturbations.parquet"),
    ("trained", evaluate_of, "prior", "prior.safetensors"),
    ("finished", publish_of, "model", "training_stats.json"),
    ("finished", publish_of, "model", "confidence.json"),
    ("finished", publish_of, "predictions", PROVENANCE),
    ("finished", publish_of, "splits", PROVENANCE),
    ("finished", publish_of, "evaluation", "metrics.json"),
    ("finished", publish_of, "evaluation", "results.csv"),
    ("scored", compare_of, "evaluation", "metrics.json"),
    ("scored", compare_of, "evaluation", "scores.csv"),
    ("scored", compare_of, "evaluation", "groups.csv"),
    ("scored", compare_of, "model", "training_stats.json"),
]


@pytest.mark.parametrize(
    ("run", "stage", "artifact", "name"),
    CASES,
    ids=[f"{stage.__name__[:-3]}-{artifact}-{name}" for _, stage, artifact, name in CASES],
)
def test_a_damaged_artifact(
    run: str,
    stage: Callable[[Chain, Path], None],
    artifact: str,
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    good: Chain = request.getfixturevalue(run)
    monkeypatch.setattr(evaluation.Yardstick, "of", _taken)
    monkeypatch.setattr(tuning, "announce", _taken)
    held = Held()
    damages = damaged(good.folder / artifact / name, tmp_path / "scratch")
    for what, do in some(damages, f"{stage.__name__} {artifact} {name}"):
        chain = good.copied(tmp_path / "run")
        do(chain.folder / artifact / name)
        chain.seal()
        target = tmp_path / "target"
        # Labels that changed places are sound: what then lacks is told of the line.
        names = str(tmp_path), "cell line"
        held.read(what, lambda: until_taken(stage, chain, target), *names)  # noqa: B023
        assert target.exists() or not list(tmp_path.glob(".target*")), "left half-written"
        if target.exists():
            for file in sorted(target.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            target.rmdir()
    held.ends(refused=0)  # a few drawn at random may all be taken


def test_what_holds_readers_to_their_word_catches_those_that_break_it() -> None:
    def broken() -> Any:
        raise KeyError("x")

    def unnamed() -> Any:
        raise InputError("something is wrong")

    held = Held()
    held.read("a fault of ours", broken)
    held.read("a line without a name", unnamed, "file.h5ad")
    held.read("too much memory", lambda: bytearray(2**33))
    assert len(held.faults) == 3
    with pytest.raises(AssertionError):
        held.ends()
    with bounded():
        pass
