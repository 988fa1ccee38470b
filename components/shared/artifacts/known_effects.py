"""Effects that a model was given: finetune keeps them beside its weights, predict reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from components.shared.artifacts.confidence import MEAN, MEASURED, NEAR_BY, SUMMED
from components.shared.artifacts.perturbation import genes_of
from components.shared.storage.tensors import FAULTS, as_metadata, read_named
from components.shared.telling.errors import InputError, refusing

EFFECTS_FILE = "effects.safetensors"
MOST_CHANGE = 1e6
"""No effect is as large: expression is at most log1p of 10,000, and a sum has few genes."""
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class NearBy:
    """Effects by a gene prior: kernel ridge on the cosine of vectors, in its dual form."""

    centre: Floats
    """Mean vector of the perturbations it learned from, [width]."""
    directions: Floats
    """Their vectors from the centre, of length 1, [known, width]."""
    dual: Floats
    """[known, genes]."""
    mean: Floats
    """Their mean effect, [genes]."""

    def of(self, vectors: Floats) -> Floats:
        """Return the effects of perturbations by their vectors [perturbations, width]."""
        return self.mean + unit(vectors - self.centre) @ self.directions.T @ self.dual


def unit(vectors: Floats) -> Floats:
    """Return vectors with a length of 1, those of length 0 as they are, [vectors, width]."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)


@dataclass(frozen=True)
class EffectTable:
    """The expected change of each perturbation in a new line, before the network's correction."""

    perturbations: list[str]
    genes: list[str]
    change: NDArray[np.float32]
    """[perturbations, genes], log1p of counts per 10,000."""
    origin: list[str]
    """Where each perturbation's effect is from, one of `confidence.ORIGINS`."""
    near: NearBy | None = None
    """For perturbations that are not in the table, where a prior helps."""
    vectors: Mapping[str, Floats] | None = None
    """The prior's vector of each gene that has one, beside ``near``."""

    def write(self, path: Path) -> None:
        """Write it as tensors of 32 bits, the names in the file's metadata."""
        names = {"perturbations": self.perturbations, "genes": self.genes, "origin": self.origin}
        tensors = {"change": self.change}
        if self.near is not None and self.vectors:
            names["vector_genes"] = list(self.vectors)
            tensors |= {"vectors": np.stack(list(self.vectors.values()))} | vars(self.near)
        save_file(
            {key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()},
            path,
            metadata=as_metadata(names),
        )

    @classmethod
    def read(cls, path: Path) -> "EffectTable":
        """Read what `write` wrote; anything else is refused."""
        with refusing(FAULTS, f"{path}: no table of effects", "; fine-tune again"):
            names, tensors = read_named(path, "perturbations", "genes")
            own = names["perturbations"], names["genes"], tensors.pop("change"), names["origin"]
            table = cls(*own)
            if genes := names.get("vector_genes"):
                vectors = dict(zip(genes, tensors.pop("vectors"), strict=True))
                table = cls(*own, NearBy(**tensors), vectors)
        if table.change.shape != (len(table.perturbations), len(table.genes)):
            raise InputError(f"{path}: names do not fit its tensor; fine-tune again")
        if not (np.abs(table.change) < MOST_CHANGE).all():
            raise InputError(f"{path}: has effects beyond {MOST_CHANGE:g}; fine-tune again")
        return table

    def of(self, perturbations: Sequence[str], genes: Sequence[str]) -> NDArray[np.float32]:
        """Return the effects of some perturbations on some genes, [perturbations, genes].

        A perturbation that the table lacks gets the sum of its genes' effects (a double), else that
        of genes near by in the prior, else the mean of those that were measured; a gene gets 0.
        """
        column = {gene: i for i, gene in enumerate(self.genes)}
        found = np.array([self._effect(label) for label in perturbations], np.float32)
        there = np.array([column.get(gene, -1) for gene in genes])
        effects = found.reshape(len(perturbations), len(self.genes))[:, there]
        effects[:, there < 0] = 0.0
        return effects

    def origin_of(self, perturbation: str) -> str:
        """Return where the effect of a perturbation is from, one of `confidence.ORIGINS`."""
        row = self._row(perturbation)
        if row is not None:
            return self.origin[row]
        if self._parts(perturbation):
            return SUMMED
        return MEAN if self._vector(perturbation) is None else NEAR_BY

    def _effect(self, label: str) -> Floats:
        row = self._row(label)
        if row is not None:
            return self.change[row]
        if parts := self._parts(label):
            return self.change[parts].sum(axis=0)
        vector = self._vector(label)
        if vector is not None and self.near is not None:
            return self.near.of(vector[None])[0]
        measured = [row for row, origin in enumerate(self.origin) if origin == MEASURED]
        return self.change[measured].mean(axis=0) if measured else np.zeros(len(self.genes))

    def _row(self, label: str) -> int | None:
        return self.perturbations.index(label) if label in self.perturbations else None

    def _parts(self, label: str) -> list[int]:
        """Return the rows of a double's genes; none unless each was measured."""
        genes = genes_of(label)
        rows = [row for gene in genes if (row := self._row(gene)) is not None]
        known = len(rows) == len(genes) > 1 and all(self.origin[row] == MEASURED for row in rows)
        return rows if known else []

    def _vector(self, label: str) -> Floats | None:
        known = self.vectors or {}
        found = [known[gene] for gene in genes_of(label) if gene in known]
        return np.sum(found, axis=0) if found and self.near is not None else None
