"""The predict stage: the test line's control cells under every test perturbation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from components.shared.artifact import MODEL, PREDICTIONS, opening, writing
from components.shared.cells import Cells
from components.shared.checkpoint import WEIGHTS_FILE, read_checkpoint
from components.shared.errors import InputError
from components.shared.inference import predict_cells
from components.shared.model import load_finetuned
from components.shared.perturbation import CONTROL, genes_of
from components.shared.predictions import PREDICTIONS_FILE, TRUTH
from components.shared.progress import bar
from components.shared.splits import TEST, Splits
from components.shared.tokens import GeneTokens, Ints

HIGHEST = 14.999
"""cell-eval refuses values below 0 and from 15 up."""


def predict(
    model: Path | str, cells: Path | str, splits: Path | str, target: Path | str, *, seed: int = 0
) -> None:
    """Predict every test cell from a random basal control cell of the test line.

    Genes outside the model's vocabulary keep the control cell's value. Values are clipped to what
    log1p of counts per 10,000 can be; how many were is counted.

    Args:
        model: model artifact.
        cells: cells artifact.
        splits: splits artifact made from it.
        target: folder of the predictions artifact.
        seed: draws the control partners.

    Raises:
        InputError: an artifact that cannot be used, or no test cells.
    """
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    trained = opening(model, MODEL)
    line = split.test_line
    test = split.rows(TEST, line=line)
    reference = split.reference(line)
    if not len(test) or not len(split.basal(line)) or not len(reference):
        raise InputError(f"{split.artifact.path}: no test cells or no controls of '{line}'")
    # Cells of one perturbation together: a batch then has few targets, so windows waste little.
    labels = split.table["perturbation"].to_numpy(str)
    test = test[np.argsort(labels[test], kind="stable")]
    inputs = {"model": trained, "cells": opened.artifact, "splits": split.artifact}
    with writing(target, PREDICTIONS, parameters={"seed": seed}, inputs=inputs) as draft:
        predictor = _Predictor(trained.path, opened, seed)
        control = opened.rows(split.basal(line))
        partners = draw_partners(labels[test], control.shape[0], seed)
        obs = _obs(opened, split, test, reference)
        blocks = predictor.blocks(control, partners, labels[test])
        file = draft.path / PREDICTIONS_FILE
        clipped = _write(file, opened, obs, test, reference, blocks)
        perturbations = sorted(set(labels[test]))
        draft.summary |= predictor.facts(perturbations) | {
            "test_line": line,
            "cells": len(test),
            "controls": len(reference),
            "perturbations": len(perturbations),
            "clipped_fraction": clipped / (len(test) * len(opened.genes)),
        }
    print(
        f"predict: wrote {Path(target) / PREDICTIONS_FILE}: {len(test)} cells of "
        f"{len(perturbations)} perturbations in {line} and {len(reference)} real controls",
        flush=True,
    )


def draw_partners(labels: NDArray[np.str_], n_controls: int, seed: int) -> Ints:
    """Draw a control cell for each cell, without replacement within a perturbation if it can be.

    A perturbation's mean then strays as little as can be from the mean of the control pool.

    Args:
        labels: perturbation of each cell, [cells].
        n_controls: size of the control pool.
        seed: seed of the draw.

    Returns:
        Positions in the control pool, [cells].
    """
    rng = np.random.default_rng([seed, 4])
    partners = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        rounds = -(-len(cells) // n_controls)
        pool = np.concatenate([rng.permutation(n_controls) for _ in range(rounds)])
        partners[cells] = pool[: len(cells)]
    return partners


class _Predictor:
    """A fine-tuned model with the tokens of this screen's genes."""

    def __init__(self, folder: Path, cells: Cells, seed: int) -> None:
        checkpoint = read_checkpoint(folder)
        self.settings: dict[str, Any] = checkpoint.args["scgpt_perturb"]["settings"]
        self.genes = cells.genes
        self.tokens = GeneTokens.of(self.genes, checkpoint.vocabulary)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_finetuned(checkpoint, folder / WEIGHTS_FILE).to(self.device)
        self.order: Ints = np.random.default_rng([seed, 5]).permutation(len(self.tokens.ids))

    def blocks(
        self, control: csr_matrix, partners: Ints, labels: NDArray[np.str_]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield predicted expression in batches, [cells of the batch, genes], not clipped."""
        size = self.settings["batch_size"]
        targets = {label: self._targets(label) for label in set(labels)}
        with bar(total=len(labels), what="predicting", unit=" cells") as progress:
            for start in range(0, len(labels), size):
                dense = control[partners[start : start + size]].toarray()
                basal = torch.from_numpy(dense[:, self.tokens.columns])
                predicted = predict_cells(
                    self.model,
                    basal,
                    [targets[label] for label in labels[start : start + size]],
                    self.tokens.ids,
                    self.order,
                    window=self.settings["predict_window"],
                    contrast=self.settings["contrast"],
                    device=self.device,
                    precision=self.settings["precision"],
                )
                dense[:, self.tokens.columns] = predicted.numpy()
                yield dense
                progress.update(len(dense))

    def _targets(self, label: str) -> Any:
        keep = self.settings["token_for_unmeasured"]
        return self.tokens.targets(label, token_for_unmeasured=keep)

    def facts(self, perturbations: list[str]) -> dict[str, Any]:
        """Return what could not be done as one would wish, counted."""
        measured = set(self.genes)
        unflagged = [label for label in perturbations if not self._targets(label).flagged]
        return {
            "genes": len(self.genes),
            "genes_modelled": len(self.tokens.ids),
            "doubles": sum(len(genes_of(label)) > 1 for label in perturbations),
            "unmeasured_targets": sum(
                not set(genes_of(label)) <= measured for label in perturbations
            ),
            "unflagged_perturbations": len(unflagged),
            "unflagged": unflagged,
        }


def _obs(cells: Cells, splits: Splits, test: Ints, reference: Ints) -> pd.DataFrame:
    obs = cells.obs.iloc[np.concatenate([test, reference])].copy()
    seen = splits.training_perturbations()
    obs["is_control"] = obs["perturbation"] == CONTROL
    obs["seen_in_training"] = obs["perturbation"].isin(seen)
    for column in ("perturbation", "cell_line"):
        obs[column] = obs[column].astype("category")
    return obs


def _write(
    file: Path,
    cells: Cells,
    obs: pd.DataFrame,
    test: Ints,
    reference: Ints,
    blocks: Iterator[NDArray[np.float32]],
) -> int:
    """Write the h5ad, predictions block by block; return how many values were clipped."""
    truth = vstack([cells.rows(test), cells.rows(reference)], format="csr")
    shell = anndata.AnnData(
        obs=obs,
        var=pd.DataFrame(index=cells.genes),
        layers={TRUTH: truth},
        uns={"perturbation_column": "perturbation", "control": CONTROL},
    )
    shell.write_h5ad(file)
    clipped, start = 0, 0
    with h5py.File(file, "r+") as h5:
        h5.pop("X", None)
        written = h5.create_dataset("X", shape=shell.shape, dtype=np.float32)
        written.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for block in blocks:
            if not np.isfinite(block).all():
                label = obs["perturbation"].iloc[start]
                raise InputError(
                    f"the model predicts NaN or infinity (near '{label}'); train again"
                )
            kept = np.clip(block, 0.0, HIGHEST)
            clipped += int((kept != block).sum())
            written[start : start + len(block)] = kept
            start += len(block)
        written[start:] = truth[start:].toarray()
    return clipped
