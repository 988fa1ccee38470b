"""A finished model on other cells, from a notebook: the pipeline's stages in one call.

from pipelines.predict_line import predict_line
adata = predict_line("published", "controls.h5ad", ["MYC", "TP53"])
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from components.ingest.ingest import ingest
from components.predict.predict import predict
from components.shared.artifacts.finished import take_model
from components.shared.artifacts.normalisation import check_asked
from components.shared.artifacts.predictions import PERTURBATIONS_FILE, Predictions
from components.shared.parameters.stage_options import INGEST_OPTIONS, checked_options
from components.split.split import split

TABLE = "perturbation_table"
"""Entry of uns: one row per perturbation, see `predictions.PERTURBATION_COLUMNS`."""


def predict_line(
    model: str | Path,
    cells: AnnData | str | Path,
    perturbations: str | Sequence[str] = (),
    *,
    cell_line: str = "",
    perturbation_column: str = "gene",
    cell_line_column: str = "cell_line",
    control_label: str = "non-targeting",
    cells_per_perturbation: int = 0,
    aliases: str = "",
    ingest_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> AnnData:
    """Predict perturbations of a cell line of which there are control cells.

    It gives the very predictions of the pipeline `predict-line` (`make predict`), which scores them
    where they were measured, and writes effects, report and card besides.

    Args:
        model: folder that publish wrote, or its URI.
        cells: control cells, perturbed ones beside them or not: an AnnData, or path or URI of an
            h5ad; counts, or log1p of counts per 10,000.
        perturbations: genes (``A+B`` = two at once), or the path or URI of a file that lists them.
            Empty: what was measured, else all that the model was trained on.
        cell_line: the line to predict; empty = the only one there is.
        perturbation_column: column of obs with the perturbed gene, or ``=non-targeting`` if all
            cells are controls.
        cell_line_column: column of obs with the cell line, or ``=name`` if all cells are of one.
        control_label: label of control cells.
        cells_per_perturbation: predicted cells of each perturbation that was not measured; 0 = as
            many as there are controls, at most 200.
        aliases: path or URI of a table of other gene names, see split's README.
        ingest_options: how the cells are read: layer, gene_column, scale, …; see ingest's README.
        seed: reaches every random draw.

    Returns:
        The predictions, in the layout of `components.shared.artifacts.predictions`; besides, the
        table `uns["perturbation_table"]` says of each perturbation what is behind its prediction.

    Raises:
        InputError: a model, cells or names that cannot be used, in one line.
    """
    with tempfile.TemporaryDirectory(prefix="predict-line-") as scratch:
        folder = Path(scratch)
        source = folder / "cells.h5ad"
        if isinstance(cells, AnnData):
            cells.write_h5ad(source)
        options = checked_options(INGEST_OPTIONS, ingest_options, name="ingest_options")
        where = os.fspath(model)
        check_asked(options, take_model(where, folder / "model"), where)
        ingest(
            str(source) if isinstance(cells, AnnData) else os.fspath(cells),
            folder / "cells",
            perturbation_column=perturbation_column,
            cell_line_column=cell_line_column,
            control=control_label,
            **options,
        )
        split(
            folder / "cells",
            folder / "splits",
            train_lines=[],
            test_line=cell_line,
            perturbations=perturbations,
            aliases=aliases,
            seed=seed,
        )
        predict(
            folder / "model",
            folder / "cells",
            folder / "splits",
            folder / "predictions",
            cells_per_perturbation=cells_per_perturbation,
            seed=seed,
        )
        adata = Predictions.open(folder / "predictions").anndata
        adata.uns[TABLE] = pd.read_parquet(folder / "predictions" / PERTURBATIONS_FILE)
        return adata
