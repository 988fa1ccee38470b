"""Effects that a model was given: finetune keeps them beside its weights, predict reads them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from components.shared.errors import InputError

EFFECTS_FILE = "effects.safetensors"
CHANGE = "change"


@dataclass(frozen=True)
class EffectTable:
    """What each perturbation is expected to change in a new line, before the model has its say."""

    perturbations: list[str]
    genes: list[str]
    change: NDArray[np.float32]
    """[perturbations, genes], log1p of counts per 10,000."""
    origin: list[str]
    """Where each perturbation's effect is from; `confidence` has the words."""

    def write(self, path: Path) -> None:
        """Write it as one tensor, the names in its metadata."""
        names = {"perturbations": self.perturbations, "genes": self.genes, "origin": self.origin}
        save_file(
            {CHANGE: np.ascontiguousarray(self.change)},
            path,
            metadata={key: json.dumps(value) for key, value in names.items()},
        )

    @classmethod
    def read(cls, path: Path) -> "EffectTable":
        """Read what `write` wrote.

        Raises:
            InputError: the file is not what was written.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                names = {key: json.loads(value) for key, value in file.metadata().items()}
                table = cls(**names, change=file.get_tensor(CHANGE))
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no table of effects ({error}); fine-tune again") from None
        if table.change.shape != (len(table.perturbations), len(table.genes)):
            raise InputError(f"{path}: names do not fit its tensor; fine-tune again")
        return table

    def of(self, perturbations: Sequence[str], genes: Sequence[str]) -> NDArray[np.float32]:
        """Return the effects of some perturbations on some genes, [perturbations, genes].

        A perturbation that the table lacks gets the mean of those it has, a gene 0.
        """
        row = {label: i for i, label in enumerate(self.perturbations)}
        column = {gene: i for i, gene in enumerate(self.genes)}
        mean = self.change.mean(axis=0)
        found = np.array([self.change[row[p]] if p in row else mean for p in perturbations])
        there = np.array([column.get(gene, -1) for gene in genes])
        effects = found.reshape(len(perturbations), len(self.genes))[:, there]
        effects[:, there < 0] = 0.0
        return effects
