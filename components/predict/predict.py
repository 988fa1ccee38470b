"""The predict stage: the test line's control cells under every test perturbation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from tqdm import tqdm

from components.shared.artifact import MODEL, PREDICTIONS, opening, writing
from components.shared.cells import Cells
from components.shared.checkpoint import WEIGHTS_FILE, read_checkpoint
from components.shared.csr_writer import CsrWriter
from components.shared.effects import EFFECTS_FILE, EffectTable
from components.shared.errors import InputError
from components.shared.inference import predict_cells
from components.shared.model import load_finetuned
from components.shared.perturbation import CONTROL, genes_of
from components.shared.predictions import (
    CELLS_KIND,
    KNOWN_MEANS,
    MEANS,
    PERTURBATIONS,
    PREDICTIONS_FILE,
    TRUTH,
)
from components.shared.progress import bar
from components.shared.rank_cells import HIGHEST, RANK, draw_partners, rank_cells
from components.shared.splits import TEST, Splits
from components.shared.tokens import GeneTokens, Ints, Targets

Floats = NDArray[np.float32]


def predict(
    model: Path | str, cells: Path | str, splits: Path | str, target: Path | str, *, seed: int = 0
) -> None:
    """Predict every test cell from a random basal control cell of the test line.

    Genes outside the model's vocabulary keep the control cell's value. Values are clipped to what
    log1p of counts per 10,000 can be, the mean kept where the recipe predicts a change; how many
    were clipped is counted. Where the recipe says so, the control cells mapped by rank to the
    perturbation's mean prediction take the place of the single predictions.

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
        perturbations = np.unique(labels[test]).tolist()
        shell = _shell(opened, obs, test, reference, perturbations, predictor.kind)
        known = predictor.known(perturbations)
        _write(
            file, shell, blocks, None if known is None else np.maximum(_mean(control) + known, 0)
        )
        draft.summary |= predictor.facts(perturbations) | {
            "test_line": line,
            "cells": len(test),
            "controls": len(reference),
            "perturbations": len(perturbations),
            CELLS_KIND: predictor.kind,
            "clipped_fraction": predictor.clipped / (len(test) * len(opened.genes)),
        }
    print(
        f"predict: wrote {Path(target) / PREDICTIONS_FILE}: {len(test)} cells of "
        f"{len(perturbations)} perturbations in {line} and {len(reference)} real controls",
        flush=True,
    )


def clipped_keeping_mean(cells: Floats) -> Floats:
    """Clip one perturbation's cells at 0 without raising any gene's mean.

    A control cell's zero cannot fall, so clipping alone would shrink a predicted fall by the share
    of zeros but leave a rise whole. Each gene is scaled back to the mean it had before.

    Args:
        cells: predicted expression of all cells of a perturbation, [cells, genes].

    Returns:
        Values from 0 up, with the means of ``cells`` (0 where those are negative), [cells, genes].
    """
    clipped = np.maximum(cells, 0.0)
    wanted = np.maximum(cells.mean(axis=0, dtype=np.float64), 0.0)
    raised = clipped.mean(axis=0, dtype=np.float64)
    factor = np.divide(wanted, raised, out=np.ones_like(wanted), where=raised > 0)
    return clipped * factor.astype(np.float32)


class _Predictor:
    """A fine-tuned model with the tokens of this screen's genes."""

    def __init__(self, folder: Path, cells: Cells, seed: int) -> None:
        checkpoint = read_checkpoint(folder)
        self.settings: dict[str, Any] = checkpoint.args["scgpt_perturb"]["settings"]
        self.genes = cells.genes
        self.tokens = GeneTokens.of(self.genes, checkpoint.vocabulary)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_finetuned(checkpoint, folder / WEIGHTS_FILE).to(self.device)
        file = folder / EFFECTS_FILE
        self.effects = EffectTable.read(file) if file.exists() else None
        self.clipped = 0
        self.order: Ints = np.random.default_rng([seed, 5]).permutation(len(self.tokens.ids))
        self.ties = np.random.default_rng([seed, 6])

    @property
    def kind(self) -> str:
        """What the cells are, one of `PREDICTED_CELLS`."""
        return str(self.settings[CELLS_KIND])

    def blocks(
        self, control: csr_matrix, partners: Ints, labels: NDArray[np.str_]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield one perturbation after the other: its cells [cells, genes], their mean [genes].

        ``labels`` come sorted. Values are within [0, HIGHEST]; `clipped` counts what was not.
        """
        pool = _mean(control)
        with bar(total=len(labels), what="predicting", unit=" cells") as progress:
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                start = int(np.searchsorted(labels, label))
                basal = control[partners[start : start + count]].toarray()
                predicted = self._predict(basal, str(label), progress)
                if not np.isfinite(predicted).all():
                    raise InputError(
                        f"the model predicts NaN or infinity for '{label}'; train again"
                    )
                self.clipped += int(((predicted < 0) | (predicted > HIGHEST)).sum())
                if self.settings["contrast"]:
                    # A change hardly differs from cell to cell, but the cells do: without this the
                    # stray of the drawn controls from their pool would blur every mean alike.
                    predicted += pool - basal.mean(axis=0)
                    predicted = clipped_keeping_mean(predicted)
                predicted = np.clip(predicted, 0.0, HIGHEST)
                mean = predicted.mean(axis=0, dtype=np.float64)
                if self.kind == RANK:
                    predicted = rank_cells(basal, mean, self.ties)
                yield predicted, mean.astype(np.float32)

    def known(self, labels: list[str]) -> Floats | None:
        """Return the effects that the model was given of some perturbations, [labels, genes]."""
        return self.effects.of(labels, self.genes) if self.effects else None

    def _predict(self, basal: Floats, label: str, progress: tqdm) -> Floats:
        """Return the prediction for control cells [cells, genes] under ``label``, in batches."""
        predicted, target = basal.copy(), self._targets(label)
        size = self.settings["batch_size"]
        known = self.known([label])
        effects = None if known is None else torch.from_numpy(known[:, self.tokens.columns])
        for start in range(0, len(basal), size):
            part = predicted[start : start + size]
            output = predict_cells(
                self.model,
                torch.from_numpy(part[:, self.tokens.columns]),
                [target],
                self.tokens.ids,
                self.order,
                window=self.settings["predict_window"],
                contrast=self.settings["contrast"],
                device=self.device,
                precision=self.settings["precision"],
                effects=effects,
            )
            part[:, self.tokens.columns] = output.numpy()
            progress.update(len(part))
        return predicted

    def _targets(self, label: str) -> Targets:
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


def _mean(cells: csr_matrix) -> Floats:
    return np.asarray(cells.mean(axis=0), dtype=np.float32).ravel()


def _obs(cells: Cells, splits: Splits, test: Ints, reference: Ints) -> pd.DataFrame:
    obs = cells.obs.iloc[np.concatenate([test, reference])].copy()
    seen = splits.training_perturbations()
    obs["is_control"] = obs["perturbation"] == CONTROL
    obs["seen_in_training"] = obs["perturbation"].isin(seen)
    for column in ("perturbation", "cell_line"):
        obs[column] = obs[column].astype("category")
    return obs


def _shell(
    cells: Cells,
    obs: pd.DataFrame,
    test: Ints,
    reference: Ints,
    perturbations: list[str],
    kind: str,
) -> AnnData:
    """Return all of the h5ad but the predictions."""
    truth = vstack([cells.rows(test), cells.rows(reference)], format="csr")
    return AnnData(
        obs=obs,
        var=pd.DataFrame(index=cells.genes),
        layers={TRUTH: truth},
        uns={
            "perturbation_column": "perturbation",
            "control": CONTROL,
            PERTURBATIONS: perturbations,
            CELLS_KIND: kind,
        },
    )


def _write(
    file: Path, shell: AnnData, blocks: Iterator[tuple[Floats, Floats]], known: Floats | None
) -> None:
    """Write the h5ad, predictions block by block: mapped cells sparse, denoised ones dense.

    ``known`` are the means that the effects the model was given come to without it.
    """
    shell.write_h5ad(file)
    controls = shell.layers[TRUTH][shell.obs["is_control"].to_numpy()]
    means = []
    with h5py.File(file, "r+") as h5:
        h5.pop("X", None)
        rows = CsrWriter(h5, shell.n_vars) if shell.uns[CELLS_KIND] == RANK else _Dense(h5, shell)
        for cells, mean in blocks:
            rows.append(csr_matrix(cells))
            means.append(mean)
        rows.append(controls)
        stored = {MEANS: np.stack(means, axis=1)}
        if known is not None:
            stored[KNOWN_MEANS] = np.ascontiguousarray(known.T)
        anndata.io.write_elem(h5, "varm", stored)


class _Dense:
    """`X` of an h5ad file as a dense matrix that is filled from the top."""

    def __init__(self, file: h5py.File, shell: AnnData) -> None:
        self.written = file.create_dataset("X", shape=shell.shape, dtype=np.float32)
        self.written.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self.rows = 0

    def append(self, block: csr_matrix) -> None:
        """Write the next rows."""
        self.written[self.rows : self.rows + block.shape[0]] = block.toarray()
        self.rows += block.shape[0]
