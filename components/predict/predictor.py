"""A fine-tuned model applied to control cells, one perturbation after the other."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from tqdm import tqdm

from components.predict.wanted import Requested, Wanted
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.confidence import CONFIDENCE_FILE, MEAN, Confidence
from components.shared.artifacts.known_effects import EFFECTS_FILE, EffectTable
from components.shared.artifacts.matched_controls import batches_of
from components.shared.artifacts.normalisation import check_total, total_of_model
from components.shared.artifacts.perturbation import genes_of, in_the_words_of
from components.shared.artifacts.predictions import CELLS_KIND, MATCH_BATCHES
from components.shared.artifacts.settings import settings_of
from components.shared.artifacts.splits import TEST, Splits
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE, TrainingEffects
from components.shared.model.checkpoint import read_checkpoint
from components.shared.model.checkpoint_files import WEIGHTS_FILE
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
from components.shared.telling.errors import InputError, nearest, say
from components.shared.telling.progress import bar

Floats = NDArray[np.float32]
ROWS_AT_ONCE = 1024
"""Cells whose mean is taken together, for memory."""
MOST_NAMED = 20
"""Perturbations that a warning names one by one; finding the nearest symbol takes a while."""
Read = TypeVar("Read")


class Predictor:
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
        scaled = self.settings.get("scale_effects", False)
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
        others = sorted(set(labels) - measured)
        known = [label for label in others if self.knows(label)]
        unknown = [label for label in others if label not in known]
        requested = Requested(sorted(measured), known, unknown)
        if unknown:
            self._report_unknown(requested, split.other_names)
        return requested

    def _report_unknown(self, requested: Requested, names: Mapping[str, list[str]]) -> None:
        """Name what is left out, and what may be meant, by genes and the table of other names."""
        listed = [self._named(label, names) for label in requested.unknown[:MOST_NAMED]]
        if len(requested.unknown) > MOST_NAMED:
            listed.append(f"{len(requested.unknown) - MOST_NAMED} more")
        many = len(requested.unknown) > 1
        text = (
            f"{'these' if many else 'this'} cannot be predicted, since the model knows neither the "
            f"gene nor its effect: {'; '.join(listed)}"
        )
        if not requested.predicted:
            raise InputError(f"perturbations: {text}; name genes of the model's vocab.json")
        say(f"predict: WARNING: {text}; the others are predicted")

    def _named(self, label: str, names: Mapping[str, list[str]]) -> str:
        hints = [
            f"another name of {' or '.join(names[gene])}"
            if names.get(gene)
            else nearest(gene, self.vocabulary).removeprefix(", ")
            for gene in genes_of(label)
            if not self.knows(gene)
        ]
        return f"'{label}'" + (f" ({', '.join(filter(None, hints))})" if any(hints) else "")

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


def mean_of_cells(cells: csr_matrix) -> Floats:
    """Return the mean of cells, [genes], summed in 64 bits without a copy of all that wide."""
    total = np.zeros(cells.shape[1])
    for start in range(0, cells.shape[0], ROWS_AT_ONCE):
        part = cells[start : start + ROWS_AT_ONCE]
        total += np.bincount(part.indices, part.data, minlength=len(total))
    return (total / cells.shape[0]).astype(np.float32)


def _if_there(file: Path, read: Callable[[Path], Read]) -> Read | None:
    return read(file) if file.is_file() else None
