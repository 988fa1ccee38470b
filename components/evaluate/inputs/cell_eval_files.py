"""Split a predictions file into the two files that cell-eval's own command takes.

    python -m components.evaluate.inputs.cell_eval_files predictions.h5ad pred.h5ad real.h5ad
    cell-eval run --adata-pred pred.h5ad --adata-real real.h5ad --pert-col perturbation \
        --control-pert non-targeting --profile full --outdir cell-eval-out

The second line's `cell-eval-out/results.csv` is that of the evaluate task, to rounding, and so is
`agg_results.csv` in every column without a missing value. (Where the file's `uns` names another
column or control, the command is printed with those names.)
"""

import argparse
import shlex
from pathlib import Path

import anndata

from components.evaluate.inputs.pair import pair_of
from components.shared.storage.hdf5 import opened_hdf5
from components.shared.telling.errors import InputError, one_line_errors, refusing


def write_cell_eval_files(predictions: Path, predicted: Path, measured: Path) -> str:
    """Write two files of expression in X, and return the `cell-eval run` that compares them.

    Raises:
        InputError: ``predictions`` cannot be read or used, or a file to write exists.
    """
    for file in (predicted, measured):
        if file.exists():
            raise InputError(f"{file}: exists already; give another name or remove it first")
    name = str(predictions)
    with refusing(OSError, f"{name}: not a readable h5ad"), opened_hdf5(predictions, name):
        adata = anndata.read_h5ad(predictions)
    pair = pair_of(adata, name)
    for half, file in zip(pair.anndata(), (predicted, measured), strict=True):
        partial = file.with_name(f".{file.name}.partial")
        try:
            half.write_h5ad(partial)
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
    words = ["--adata-pred", str(predicted), "--adata-real", str(measured)]
    words += ["--pert-col", pair.perturbation_column, "--control-pert", pair.control]
    return f"cell-eval run {shlex.join(words)} --profile full --outdir cell-eval-out"


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("predictions", type=Path, help="h5ad of a predictions artifact")
    parser.add_argument("predicted", type=Path, help="h5ad to write: predicted expression")
    parser.add_argument("measured", type=Path, help="h5ad to write: measured expression")
    given = parser.parse_args()
    with one_line_errors("cell_eval_files"):
        command = write_cell_eval_files(given.predictions, given.predicted, given.measured)
    print(f"wrote {given.predicted} and {given.measured}; compare them with\n{command}")


if __name__ == "__main__":
    main()
