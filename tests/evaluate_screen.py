"""A generated screen as the artifacts that evaluate reads, for its tests."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix

from components.evaluate.evaluate import evaluate
from components.shared.artifacts.artifact import GENE_PRIOR, PREDICTIONS, SPLITS, writing
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.matched_controls import BATCH
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.predictions import (
    CELLS_KIND,
    MATCH_BATCHES,
    MEANS,
    MEASURED,
    PERTURBATIONS,
    PREDICTIONS_FILE,
    TRUTH,
)
from components.shared.artifacts.splits import SPLITS_FILE, Splits
from components.shared.model.rank_cells import DENOISED, RANK, rank_cells
from tests.helpers import cells_artifact, screen

UNSEEN = "X0"
DOUBLE = "G1+G2"
LABELS = (*(f"G{i}" for i in range(10)), UNSEEN, DOUBLE)
Change = Callable[[anndata.AnnData], anndata.AnnData | None]


class Screen:
    """Cells, splits and predictions artifacts of one generated screen, in a folder."""

    def __init__(
        self, folder: Path, *, measured: bool = True, batches: bool = False, **shape
    ) -> None:
        self.folder = folder
        self.measured = measured
        self.obs, self.X, self.genes = screen(**({"perturbations": LABELS} | shape))
        if batches:
            self.obs[BATCH] = np.where(np.arange(len(self.obs)) % 4 < 2, "one", "two")
        self.X = self.X.astype(np.float32)
        cells_artifact(folder / "cells", self.obs, self.X, self.genes)
        self.cells = Cells.open(folder / "cells")
        self.roles = self._roles()
        self.write_splits()

    def _roles(self) -> np.ndarray:
        control = (self.obs["perturbation"] == CONTROL).to_numpy()
        half = np.arange(len(self.obs)) % 2 == 0
        test = (self.obs["cell_line"] == "rpe1").to_numpy()
        unseen = (self.obs["perturbation"] == UNSEEN).to_numpy()
        roles = np.where(test, "test", np.where(unseen, "unused", "train")).astype(object)
        roles[control & half], roles[control & ~half] = "control_basal", "control_reference"
        return roles

    def write_splits(self) -> None:
        """Write the splits; of a line that was not measured the cells are there to predict from."""
        roles = self.roles
        if not self.measured:
            roles = np.where(roles == "test", "unused", roles)
        table = pd.DataFrame(
            {
                "cell": self.obs.index,
                "cell_line": self.obs["cell_line"].to_numpy(),
                "perturbation": self.obs["perturbation"].to_numpy(),
                "role": roles,
            }
        )
        inputs = {"cells": self.cells.artifact}
        with writing(self.folder / "splits", SPLITS, parameters={}, inputs=inputs) as draft:
            table.to_parquet(draft.path / SPLITS_FILE)
            draft.summary |= {"test_line": "rpe1", "train_lines": ["k562", "jurkat", "hepg2"]}
        self.splits = Splits.open(self.folder / "splits", self.cells)

    def rows(self) -> np.ndarray:
        line = (self.obs["cell_line"] == "rpe1").to_numpy()
        return np.flatnonzero(
            (self.roles == "test")
            | (line & np.isin(self.roles, ["control_reference", "control_both"]))
        )

    def predictions(
        self,
        change: Change | None = None,
        *,
        name: str = "predictions",
        kind: str = DENOISED,
        matched: bool = False,
        scale: float = 1.0,
    ) -> Path:
        """Write a predictions artifact: the truth plus noise in perturbed cells, then changed."""
        rows = self.rows()
        truth = self.X[rows]
        there = [name for name in ("perturbation", "cell_line", BATCH) if name in self.obs]
        obs = self.obs.iloc[rows][there].copy()
        obs["is_control"] = obs["perturbation"] == CONTROL
        obs["seen_in_training"] = ~obs["perturbation"].isin([CONTROL, UNSEEN])
        noise = np.random.default_rng(1).normal(0, 0.8, truth.shape)
        noisy = np.clip(truth + noise, 0, 14).astype(np.float32)
        predicted = np.where(obs["is_control"].to_numpy()[:, None], truth, noisy)
        labels = obs["perturbation"].to_numpy(str)
        perturbations = sorted(set(labels) - {CONTROL})
        means = [predicted[labels == label].mean(axis=0) for label in perturbations]
        if kind == RANK:
            for label, mean in zip(perturbations, means, strict=True):
                predicted[labels == label] = self.ranked((labels == label).sum(), mean)
        adata = anndata.AnnData(
            csr_matrix(predicted) if kind == RANK else predicted,
            obs=obs.astype({"perturbation": "category", "cell_line": "category"}),
            var=pd.DataFrame(index=self.genes),
            layers={TRUTH: csr_matrix(truth)},
            varm={MEANS: np.stack(means, axis=1)},
            uns={
                "perturbation_column": "perturbation",
                "control": CONTROL,
                PERTURBATIONS: perturbations,
                CELLS_KIND: kind,
            },
        )
        if not self.measured:
            del adata.layers[TRUTH]
            adata.obs[MEASURED] = control = adata.obs["is_control"].to_numpy(bool)
            adata.obs_names = np.where(control, adata.obs_names, adata.obs_names + "-predicted")
        adata = (change(adata) if change else None) or adata
        inputs = {"cells": self.cells.artifact, "splits": self.splits.artifact}
        target = self.folder / name
        with writing(target, PREDICTIONS, parameters={}, inputs=inputs) as draft:
            adata.write_h5ad(draft.path / PREDICTIONS_FILE)
            draft.summary |= {"perturbations": len(perturbations), MATCH_BATCHES: matched}
            draft.summary |= {"scale": scale}
        return target

    def basal(self) -> np.ndarray:
        return self.X[(self.obs["cell_line"] == "rpe1") & (self.roles == "control_basal")]

    def ranked(self, cells: int, mean: np.ndarray) -> np.ndarray:
        """Return the first basal controls of the test line, mapped to a mean."""
        return rank_cells(self.basal()[:cells], mean, np.random.default_rng(2))

    def prior(self, name: str = "prior", *, without: tuple[str, ...] = ()) -> Path:
        """Write a gene prior artifact with a random vector for each gene."""
        genes = [gene for gene in (*self.genes, UNSEEN) if gene not in without]
        rows = np.zeros((len(genes) + 2, 8), np.float32)
        rows[:-2] = np.random.default_rng(3).normal(size=(len(genes), 8))
        target = self.folder / name
        with writing(target, GENE_PRIOR, parameters={}) as draft:
            metadata = {"genes": json.dumps([*genes, "ZERO", "<pad>"])}
            save_file({"prior": rows}, draft.path / "prior.safetensors", metadata=metadata)
            (draft.path / "prior.json").write_text('{"kind": "table"}')
            draft.summary |= {"kind": "table"}
        return target

    def evaluate(
        self, predictions: Path, name: str = "evaluation", prior: Path | None = None
    ) -> Path:
        folder = self.folder
        evaluate(
            predictions,
            folder / "cells",
            folder / "splits",
            folder / name,
            prior=prior,
            threads=1,
        )
        return folder / name
