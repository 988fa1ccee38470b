"""The prior task: a per-gene table aligned to the vocabulary."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/prior", install_kfp_package=False)
def prior(gene_prior: dsl.Output[dsl.Dataset], uri: str, pretrained: str, seed: int) -> None:
    """Align a table of gene vectors to the vocabulary of the pretrained model.

    Args:
        gene_prior: the gene prior artifact (format gene-prior/v1).
        uri: none, or a safetensors, npz, parquet or .pt table: a path, gs://, hf:// or https://.
        pretrained: whose vocabulary: a folder or URI with vocab.json, or random://<size>.
        seed: for priors that draw.
    """
    from components.prior.prior import prior as run
    from components.shared.artifact import describe
    from components.shared.errors import one_line_errors

    with one_line_errors("prior"):
        run(uri, pretrained, gene_prior.path, seed=seed)
        gene_prior.metadata.update(describe(gene_prior.path))
