"""The predict stage: the test line's control cells under every test perturbation."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from tqdm import tqdm

from components.predict.wanted import (
    Requested,
    Wanted,
    control_obs,
    perturbation_table,
    predicted_obs,
    report_unknown,
    requested_of,
    wanted_cells,
)
from components.shared.artifacts import predictions
from components.shared.artifacts.artifact import MODEL, PREDICTIONS, link_or_copy, opening, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import CONFIDENCE_FILE, MEAN, Confidence
from components.shared.artifacts.known_effects import EFFECTS_FILE, EffectTable
from components.shared.artifacts.matched_controls import batches_of
from components.shared.artifacts.normalisation import check_total, total_of_model
from components.shared.artifacts.perturbation import CONTROL, genes_of, in_the_words_of
from components.shared.artifacts.predictions import CELLS_KIND, MATCH_BATCHES, PREDICTIONS_FILE
from components.shared.artifacts.settings import settings_of
from components.shared.artifacts.splits import TEST, Splits
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE, TrainingEffects
from components.shared.model.checkpoint import read_checkpoint
from components.shared.model.checkpoint_files import STATS_FILE, WEIGHTS_FILE
from components.shared.model.inference import predict_cells
from components.shared.model.model import load_finetuned
from components.shared.model.rank_cells import (
    HIGHEST,
    RANK,
    draw_matched_partners,
    draw_partners,
    generator_of,
    rank_cells,
)
from components.shared.model.tokens import GeneTokens, Ints, Targets
from components.shared.storage.csr_writer import CsrWriter
from components.shared.telling.errors import InputError
from components.shared.telling.progress import bar

Floats = NDArray[np.float32]
ROWS_AT_ONCE = 1024
"""Cells whose mean is taken together, for memory."""
MOST_CELLS = 200
"""Most cells of a perturbation that was not measured, unless more are requested: about what a
perturbation has in the published genome-scale screens."""


def predict(
    model: Path | str,
    cells: Path | str,
    splits: Path | str,
    target: Path | str,
    *,
    cells_per_perturbation: int = 0,
    seed: int = 0,
) -> None:
    """Predict the requested perturbations, each cell from a basal control cell.

    What was measured has as many predicted cells as measured ones. Genes that the model was not
    trained on keep the control cell's value. Values are clipped to what log1p of counts per 10,000
    can be, the mean kept where the recipe predicts a change; how many were clipped is counted.
    Where the recipe says so, the control cells mapped by rank to the perturbation's mean prediction
    take the place of the single predictions; with `match_batches`, a cell is made from a control of
    the batch of the measured cell that it stands for. From the same controls a prediction does not
    depend on what else is requested.

    Args:
        model: model artifact.
        cells: cells artifact.
        splits: splits artifact made from it.
        target: folder of the predictions artifact.
        cells_per_perturbation: cells of each perturbation that was not measured; 0 = as many as
            there are basal controls, at most 200.
        seed: draws the control partners.

    Raises:
        InputError: an artifact that cannot be used, no controls, or nothing that can be predicted.
    """
    if cells_per_perturbation < 0:
        raise InputError(
            f"cells_per_perturbation: {cells_per_perturbation}; expected 0 (as many as there are "
            f"basal controls, at most {MOST_CELLS}) or more"
        )
    opened = Cells.open(cells)
    split = Splits.open(splits, opened)
    trained = opening(model, MODEL)
    line = split.test_line
    basal, reference = split.basal(line), split.reference(line)
    if not len(basal) or not len(reference):
        raise InputError(f"{split.artifact.path}: no controls of '{line}'")
    inputs = {"model": trained, "cells": opened.artifact, "splits": split.artifact}
    parameters = {"cells_per_perturbation": cells_per_perturbation, "seed": seed}
    with writing(target, PREDICTIONS, parameters=parameters, inputs=inputs) as draft:
        predictor = _Predictor(trained.path, opened, seed)
        requested = predictor.requested(split)
        wanted = wanted_cells(
            requested, split, cells_per_perturbation or min(len(basal), MOST_CELLS)
        )
        control = opened.rows(basal)
        blocks = predictor.blocks(control, wanted, predictor.partners(basal, wanted))
        labels = requested.predicted
        controls = opened.rows(reference)
        told = predictor.training.perturbations if predictor.training else []
        seen = told or split.training_perturbations()
        obs = pd.concat(
            [predicted_obs(opened, split, wanted, seen), control_obs(opened, reference)]
        )
        shell = _shell(opened, obs, wanted, reference)
        shell.uns |= {
            predictions.PERTURBATIONS: labels,
            CELLS_KIND: predictor.kind,
            predictions.NOT_PREDICTED: predictor.genes_left_out,
        }
        known = predictor.known(labels)
        if known is not None:
            known = np.maximum(mean_of_cells(control) + predictor.scale * known, 0)
        _write(draft.path / PREDICTIONS_FILE, shell, blocks, controls, known)
        table = perturbation_table(
            wanted,
            opened.genes,
            mean_of_cells(control),
            flagged=predictor.flagged,
            training=predictor.training,
            confidence=predictor.confidence,
        )
        table.to_parquet(draft.path / predictions.PERTURBATIONS_FILE, index=False)
        for name in (TRAINING_EFFECTS_FILE, CONFIDENCE_FILE, STATS_FILE):
            if (trained.path / name).is_file():
                link_or_copy(trained.path / name, draft.path / name)
        draft.summary |= predictor.facts(labels) | {
            "test_line": line,
            "cells": len(wanted.labels),
            "controls": len(reference),
            "perturbations": len(labels),
            "measured": len(requested.measured),
            "not_measured": len(requested.unmeasured),
            "not_predicted": requested.unknown,
            "scale": predictor.scale,
            CELLS_KIND: predictor.kind,
            MATCH_BATCHES: predictor.batches is not None,
            "clipped_fraction": predictor.clipped / predictor.values,
        }
    unmeasured = f" ({len(requested.unmeasured)} not measured)" if requested.unmeasured else ""
    print(
        f"predict: wrote {Path(target) / PREDICTIONS_FILE}: {len(wanted.labels)} cells of "
        f"{len(labels)} perturbations{unmeasured} in {line} and {len(reference)} real controls",
        flush=True,
    )


def clipped_keeping_mean(cells: Floats) -> Floats:
    """Clip one perturbation's cells [cells, genes] at 0 without raising any gene's mean.

    A control cell's zero cannot fall, so clipping alone would shrink a predicted fall by the share
    of zeros but leave a rise whole. Each gene is scaled back to the mean it had before, 0 where
    that is negative.
    """
    clipped = np.maximum(cells, 0.0)
    wanted = np.maximum(cells.mean(axis=0, dtype=np.float64), 0.0)
    raised = clipped.mean(axis=0, dtype=np.float64)
    factor = np.divide(wanted, raised, out=np.ones_like(wanted), where=raised > 0)
    return clipped * factor.astype(np.float32)


class _Predictor:
    """A fine-tuned model with the tokens of this screen's genes."""

    def __init__(self, folder: Path, cells: Cells, seed: int) -> None:
        self.folder = folder
        checkpoint = read_checkpoint(folder)
        self.settings = settings_of(checkpoint.args, folder)
        check_total(cells.target_sum, total_of_model(checkpoint.args), folder)
        self.kind = str(self.settings[CELLS_KIND])
        """Of the cells, one of `PREDICTED_CELLS`."""
        self.vocabulary = checkpoint.vocabulary
        self.genes = cells.genes
        self.training = _if_there(folder / TRAINING_EFFECTS_FILE, TrainingEffects.read)
        self.effects = _if_there(folder / EFFECTS_FILE, EffectTable.read)
        self.confidence = _if_there(folder / CONFIDENCE_FILE, Confidence.read)
        trained = set(self.training.genes) if self.training else None
        self.tokens = GeneTokens.of(self.genes, self.vocabulary, trained)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_finetuned(checkpoint, folder / WEIGHTS_FILE).to(self.device)
        self.batches = batches_of(cells) if self.settings.get(MATCH_BATCHES) else None
        self.clipped = self.values = 0
        self.seed = seed
        self.order: Ints = np.random.default_rng([seed, 5]).permutation(len(self.tokens.ids))

    @property
    def cells_of_a_mean(self) -> int | None:
        """From how many cells the mean of what was not measured is predicted, None = from all.

        As many as validation takes. Where cells are controls mapped to a mean, and that is a change
        of the whole pool's mean, the others would be work without effect.
        """
        mapped = self.kind == RANK and self.settings["contrast"]
        return self.settings["validation_cells"] or None if mapped else None

    @property
    def scale(self) -> float:
        """The factor that predicted changes are multiplied by."""
        scaled = self.settings.get("scale_effects", False) and self.confidence is not None
        return self.confidence.scale if scaled and self.confidence else 1.0

    @property
    def genes_left_out(self) -> list[str]:
        """The genes whose prediction is the control's own value."""
        modelled = set(self.tokens.columns.tolist())
        return [gene for column, gene in enumerate(self.genes) if column not in modelled]

    def knows(self, label: str) -> bool:
        """Whether each gene of a perturbation can be flagged, or its effect is known."""
        if self.effects and self.effects.origin_of(label) != MEAN:
            return True
        return all(self._targets(gene).flagged for gene in genes_of(label))

    def requested(self, split: Splits) -> Requested:
        """Return what is to be predicted, and say what of it cannot be."""
        measured = set(split.table["perturbation"].iloc[split.rows(TEST, line=split.test_line)])
        labels = split.requested or (self.training.perturbations if self.training else [])
        if not labels:
            raise InputError(
                "perturbations: none is named and none was measured, and the model does not say "
                "what it was trained on; name what to predict"
            )
        if self.training:
            labels = in_the_words_of(self.training.perturbations, labels)
        requested = requested_of(labels, measured, self.knows)
        report_unknown(requested, self.knows, self.vocabulary, split.other_names)
        return requested

    def partners(self, basal: Ints, wanted: Wanted) -> Ints:
        """Return which of the ``basal`` controls each wanted cell is made from, [cells].

        A model that was trained with `match_batches` takes them from the batch of the measured cell
        that a wanted one stands for.
        """
        if self.batches is None:
            return draw_partners(wanted.labels, len(basal), self.seed)
        own = np.where(wanted.rows >= 0, self.batches[wanted.rows], "")
        return draw_matched_partners(wanted.labels, own, self.batches[basal], self.seed)

    def blocks(
        self, control: csr_matrix, wanted: Wanted, partners: Ints
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield one perturbation after the other: its cells [cells, genes], their mean [genes].

        Values are within [0, HIGHEST]; `clipped` counts what was not. Each cell is made from the
        row of ``control`` that ``partners`` names.
        """
        pool, labels = mean_of_cells(control), wanted.labels
        with bar(total=len(labels), what="predicting", unit=" cells") as progress:
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                start = int(np.searchsorted(labels, label))
                drawn = control[partners[start : start + count]].toarray()
                basal = drawn if wanted.rows[start] >= 0 else drawn[: self.cells_of_a_mean]
                predicted = self._predict(basal, str(label), progress)
                progress.update(count - len(basal))
                if not np.isfinite(predicted).all():
                    raise InputError(
                        f"{self.folder}: the model predicts NaN or infinity for '{label}'; "
                        "train again"
                    )
                if self.scale != 1.0:
                    predicted = basal + self.scale * (predicted - basal)
                self.clipped += int(((predicted < 0) | (predicted > HIGHEST)).sum())
                self.values += predicted.size
                if self.settings["contrast"]:
                    # A change hardly differs from cell to cell, but the cells do: without this the
                    # stray of the drawn controls from their pool would blur every mean alike.
                    predicted += pool - basal.mean(axis=0)
                    predicted = clipped_keeping_mean(predicted)
                predicted = np.clip(predicted, 0.0, HIGHEST)
                mean = predicted.mean(axis=0, dtype=np.float64)
                if self.kind == RANK:
                    predicted = rank_cells(drawn, mean, generator_of(label, self.seed, 6))
                yield predicted, mean.astype(np.float32)

    def known(self, labels: list[str]) -> Floats | None:
        """Return the effects that the model was given, not scaled, [labels, genes]."""
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

    def flagged(self, label: str) -> bool:
        """Whether the model can be told which gene is perturbed."""
        return self._targets(label).flagged

    def facts(self, perturbations: list[str]) -> dict[str, Any]:
        """Return what could not be done as one would wish, counted."""
        measured = set(self.genes)
        unflagged = [label for label in perturbations if not self.flagged(label)]
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


Read = TypeVar("Read")


def _if_there(file: Path, read: Callable[[Path], Read]) -> Read | None:
    return read(file) if file.is_file() else None


def mean_of_cells(cells: csr_matrix) -> Floats:
    """Return the mean of cells, [genes], summed in 64 bits without a copy of all that wide."""
    total = np.zeros(cells.shape[1])
    for start in range(0, cells.shape[0], ROWS_AT_ONCE):
        part = cells[start : start + ROWS_AT_ONCE]
        total += np.bincount(part.indices, part.data, minlength=len(total))
    return (total / cells.shape[0]).astype(np.float32)


def _shell(cells: Cells, obs: pd.DataFrame, wanted: Wanted, reference: Ints) -> AnnData:
    """Return all of the h5ad but the predictions; without a truth where nothing was measured."""
    layers = {}
    if (wanted.rows >= 0).any():
        rows = np.concatenate([wanted.rows, reference])
        there = rows >= 0
        # A predicted cell without a measurement is a row without a value: nothing is copied.
        found = cells.rows(rows[there])
        sizes = np.zeros(1 + len(rows), found.indptr.dtype)
        sizes[1:][there] = np.diff(found.indptr)
        parts = found.data, found.indices, np.cumsum(sizes, dtype=sizes.dtype)
        layers[predictions.TRUTH] = csr_matrix(parts, shape=(len(rows), found.shape[1]))
    uns = {"perturbation_column": "perturbation", "control": CONTROL}
    for column in ("perturbation", "cell_line"):
        obs[column] = obs[column].astype("category")
    return AnnData(obs=obs, var=pd.DataFrame(index=cells.genes), layers=layers, uns=uns)


def _write(
    file: Path,
    shell: AnnData,
    blocks: Iterator[tuple[Floats, Floats]],
    controls: csr_matrix,
    known: Floats | None,
) -> None:
    """Write the h5ad, predictions block by block: mapped cells sparse, denoised ones dense.

    The measured ``controls`` end the file; ``known`` are the means by known effects alone.
    """
    shell.write_h5ad(file)
    shell.layers.clear()  # as large as what is predicted, and on disk now
    means = []
    with h5py.File(file, "r+") as h5:
        h5.pop("X", None)
        rows = CsrWriter(h5, shell.n_vars) if shell.uns[CELLS_KIND] == RANK else _Dense(h5, shell)
        for cells, mean in blocks:
            rows.append(csr_matrix(cells))
            means.append(mean)
        rows.append(controls)
        stored = {predictions.MEANS: np.stack(means, axis=1)}
        if known is not None:
            stored[predictions.KNOWN_MEANS] = np.ascontiguousarray(known.T)
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
