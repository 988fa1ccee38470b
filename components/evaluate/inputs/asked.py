"""What the predict task says of each perturbation that was requested."""

from pathlib import Path

import pandas as pd

from components.evaluate.inputs.pair import Predicted
from components.shared.artifacts.predictions import PERTURBATION_COLUMNS, PERTURBATIONS_FILE
from components.shared.storage.parquet import read_parquet
from components.shared.telling.errors import InputError, shortlist


def read_asked(folder: Path) -> pd.DataFrame | None:
    """Return the predict task's table of perturbations, None where there is none; check it.

    Raises:
        InputError: a table that cannot be read or that names no perturbations.
    """
    file = folder / PERTURBATIONS_FILE
    if not file.is_file():
        return None
    found = read_parquet(file, ("perturbation",), str(file), "run the predict task again")
    return found[[name for name in PERTURBATION_COLUMNS if name in found]]


def asked_of(
    given: Predicted, measured: list[str], said: pd.DataFrame | None, folder: Path
) -> pd.DataFrame:
    """Return what is ``said`` of each perturbation; at least its cells, where nothing is.

    Raises:
        InputError: ``said`` is not of the perturbations that were predicted.
    """
    labels = given.perturbations
    if said is None:
        cells = [len(given.rows[label]) for label in labels]
        own = [n if label in set(measured) else 0 for label, n in zip(labels, cells, strict=True)]
        return pd.DataFrame({"perturbation": labels, "cells": cells, "measured_cells": own})
    if said["perturbation"].tolist() != labels:
        odd = sorted(set(said["perturbation"]) ^ set(labels)) or labels
        raise InputError(
            f"{folder / PERTURBATIONS_FILE}: {shortlist(odd)} is not in it and in the cells alike, "
            "once and sorted; run the predict task again"
        )
    return said.reset_index(drop=True)
