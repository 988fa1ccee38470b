"""Golden loss curves, against which every change of training is tested.

    make golden REASON="validation sets are weighed by reliability"

A few fine-tunes of seconds each, with fixed seeds on one thread of the CPU, by the stages that
users run. `tests/finetune/test_golden.py` repeats them. A change that should not affect training
leaves the curves as they are; one that should rewrites them with its reason, and the diff shows
what moved.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.finetune.finetune import finetune
from components.ingest.ingest import ingest
from components.prior.prior import prior
from components.shared.model.checkpoint_files import STATS_FILE
from components.split.split import split

STORED = Path(__file__).resolve().parents[1] / "tests" / "finetune" / "golden.json"
SCREEN = "sim://screen?cells=600&genes=40&perturbations=8&lines=3&seed=11"
TRAIN_LINES, TEST_LINE = ["k562", "jurkat"], "hepg2"
PRETRAINED = "random://tiny"
SMALL = {"epochs": 3, "batch_size": 32, "max_genes": 24, "predict_window": 24}
CASES: Mapping[str, tuple[str, str]] = {
    "default": ("default", "none"),
    "known effects": ("default", "effects"),
    "vectors of genes": ("default", "random:8"),
    "reference": ("reference", "none"),
}
"""Recipe and prior by name: each path that a gradient takes."""
CURVES = ("train_loss", "train_delta_loss", "val_loss", "val_pearson_delta")

Curves = dict[str, list[float | None]]
"""One value per epoch, by curve; None where there is none."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let sums be taken in one order, whatever the machine's number of CPUs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def screen(folder: Path) -> None:
    """Write the cells and splits that every fine-tune here learns from."""
    ingest(SCREEN, folder / "cells")
    split(
        folder / "cells",
        folder / "splits",
        train_lines=TRAIN_LINES,
        test_line=TEST_LINE,
        val_fraction=0.2,
    )


def curves(folder: Path, name: str, **overrides: Any) -> Curves:
    """Return the curves of one of `CASES`, on what `screen` wrote.

    Args:
        folder: of the cells and splits; the model is written beside them.
        name: of the case.
        overrides: settings to replace, for a test that the curves would show it.
    """
    recipe, kind = CASES[name]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, one_thread():
        table, model = Path(scratch, "prior"), Path(scratch, "model")
        prior(kind, PRETRAINED, table, seed=0)
        finetune(
            folder / "cells",
            folder / "splits",
            table,
            model,
            pretrained=PRETRAINED,
            recipe=recipe,
            overrides=SMALL | overrides,
            seed=0,
        )
        history = json.loads((model / STATS_FILE).read_text())["history"]
    return {curve: [row[curve] for row in history] for curve in CURVES}


def main() -> None:
    """Write the curves anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--reason", required=True, help="why training changed")
    reason = parser.parse_args().reason.strip()
    if not reason:
        parser.error('give REASON="why training changed"')
    with tempfile.TemporaryDirectory() as scratch:
        screen(Path(scratch))
        found = {name: curves(Path(scratch), name) for name in CASES}
    STORED.write_text(json.dumps({"reason": reason, "curves": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
