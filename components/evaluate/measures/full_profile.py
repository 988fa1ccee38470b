"""cell-eval's full profile of two sides: its own functions, given what it would compute again.

Metrics of differential expression are its own, a few perturbations at a time, since each of them
filters the whole table for each perturbation. Metrics of means are its own too, of pseudobulks in
the place of cells. Three kinds are computed here, to equal its numbers: the correlation of energy
distances, the discrimination scores and the correlation of the numbers of genes called.
"""

from collections.abc import Iterator

import cell_eval
import numpy as np
import pandas as pd
import polars as pl
from anndata import AnnData
from scipy.stats import pearsonr

from components.evaluate.measures.compiled import keep_umaps
from components.evaluate.measures.discrimination import METRICS, discrimination_scores
from components.evaluate.measures.side import Side
from components.shared.telling.progress import bar

AT_ONCE = 16
"""Perturbations whose tables are compared together."""
LABEL = "perturbation"
ENERGY = "pearson_edistance"
CALLED = "de_spearman_sig"
DISCRIMINATION = {f"discrimination_score_{metric}": metric for metric in METRICS}
COUNTS = ["de_nsig_counts_real", "de_nsig_counts_pred"]


def full_profile(real: Side, predicted: Side) -> tuple[pl.DataFrame, dict[str, str]]:
    """Compare a predicted with the measured side.

    Returns cell-eval's table, a row per perturbation (`results.csv`), and metrics computed here
    that could not be, with the reason. Those that cell-eval could not compute it logs.
    """
    # The means first: their clusters take the most memory, before `Side.fdr` is there.
    parts = [_of_means(real, predicted), *_discrimination(real, predicted)]
    table = _of_tables(real, predicted)
    for part in parts:
        table = table.join(part, on=LABEL, how="left", maintain_order="left")
    failed = {}
    try:
        energy = float(pearsonr(real.energy, predicted.energy).correlation)
        table = table.with_columns(pl.lit(energy).alias(ENERGY))
    except ValueError as error:
        failed[ENERGY] = " ".join(str(error).split())
    if set(COUNTS) <= set(table.columns):
        called = _agreement_in_numbers_called(table)
        table = table.with_columns(pl.lit(called).alias(CALLED))
    return table.select(LABEL, *(name for name in _columns() if name in table.columns)), failed


def _of_tables(real: Side, predicted: Side) -> pl.DataFrame:
    """Return cell-eval's metrics of differential expression, all but the one of all together."""
    parts = []
    count = len(real.perturbations)
    with bar(total=count, what="genes called", unit=" sets") as progress:
        for start in range(0, count, AT_ONCE):
            stop = min(start + AT_ONCE, count)
            pipeline = cell_eval.MetricPipeline("de")
            pipeline.skip_metrics(CALLED)
            pipeline.compute_de_metrics(
                cell_eval.initialize_de_comparison(
                    real.de_of(start, stop), predicted.de_of(start, stop)
                )
            )
            parts.append(pipeline.get_results())
            progress.update(stop - start)
    return pl.concat(parts, how="diagonal")


def _of_means(real: Side, predicted: Side) -> pl.DataFrame:
    """Return cell-eval's metrics of pseudobulks."""
    labels = np.array([real.control, *real.perturbations])
    obs = pd.DataFrame({LABEL: pd.Categorical(labels)}, index=labels)
    var = pd.DataFrame(index=pd.Index(real.genes, dtype=str))
    # Clusters are of means in float64, the others of means in the precision of the cells.
    pair = cell_eval.PerturbationAnndataPair(
        real=AnnData(real.centroids, obs=obs.copy(), var=var.copy()),
        pred=AnnData(predicted.centroids, obs=obs.copy(), var=var.copy()),
        pert_col=LABEL,
        control_pert=real.control,
    )
    assert pair.bulk_real is not None and pair.bulk_pred is not None  # noqa: S101  just made
    # In polars' order of the columns, for the last bit of sums along them.
    pair.bulk_real["_default"] = (labels, np.asfortranarray(real.pseudobulks))
    pair.bulk_pred["_default"] = (labels, np.asfortranarray(predicted.pseudobulks))
    keep_umaps()
    pipeline = cell_eval.MetricPipeline("anndata")
    pipeline.skip_metrics([ENERGY, *DISCRIMINATION])
    pipeline.compute_anndata_metrics(pair)
    return pipeline.get_results()


def _discrimination(real: Side, predicted: Side) -> Iterator[pl.DataFrame]:
    """Yield a table of each of the discrimination scores."""
    measured, told = (side.pseudobulks[1:] - side.pseudobulks[0] for side in (real, predicted))
    for name, metric in DISCRIMINATION.items():
        scores = discrimination_scores(measured, told, real.perturbations, real.genes, metric)
        yield pl.DataFrame({LABEL: list(scores), name: list(scores.values())})


def _agreement_in_numbers_called(table: pl.DataFrame) -> float:
    """Return cell-eval's `DESpearmanSignificant`, of perturbations with a gene really called."""
    called = table.filter(pl.col(COUNTS[0]) > 0).select(COUNTS)
    if called.is_empty():
        return 1.0
    return float(called.select(pl.corr(*COUNTS, method="spearman")).item())


def _columns() -> Iterator[str]:
    """Yield the columns of cell-eval's table in its order."""
    for kind in (cell_eval.MetricType.DE, cell_eval.MetricType.ANNDATA_PAIR):
        for name in cell_eval.metrics_registry.list_metrics(kind):
            yield from COUNTS if name == "de_nsig_counts" else [name]
