"""The ingest task: any source of single cells becomes a cells artifact."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/ingest", install_kfp_package=False)
def ingest(
    cells: dsl.Output[dsl.Dataset],
    dataset: str,
    perturbation_column: str,
    cell_line_column: str,
    control_label: str,
    options: dict,
) -> None:
    """Read a screen and write the cells artifact: log1p of counts per 10,000, CSR, float32.

    Args:
        cells: the cells artifact (format cells/v1).
        dataset: a path, gs://, s3://, hf://datasets/, https:// or sim:// source, or several as
            JSON, ["a.h5ad", {"file": "b.h5ad", "cell_line_column": "=rpe1"}].
        perturbation_column: column of obs with the perturbed gene, or '=<control label>' if all
            cells are controls.
        cell_line_column: column of obs with the cell line, or '=name' if all cells are of one.
        control_label: label of control cells in the perturbation column; several with commas
            between, or a pattern (NT-*).
        options: batch_column, scale, layer, gene_column, genes, target_sum, obs_filter, expression,
            label_separator, missing_is_control, left_out, least_knock_down,
            least_perturbation_knock_down.
    """
    from components.ingest.ingest import ingest as run
    from components.shared.artifacts.artifact import describe
    from components.shared.parameters.stage_options import INGEST_OPTIONS, checked_options
    from components.shared.telling.errors import one_line_errors

    with one_line_errors("ingest"):
        keywords = checked_options(INGEST_OPTIONS, options, name="ingest_options")
        run(
            dataset,
            cells.path,
            perturbation_column=perturbation_column,
            cell_line_column=cell_line_column,
            control=control_label,
            **keywords,
        )
        cells.metadata.update(describe(cells.path))
