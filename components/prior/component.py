"""The prior task: a vector for each gene of the vocabulary."""

from kfp import dsl


@dsl.component(base_image="scgpt-perturb/prior", install_kfp_package=False)
def prior(
    gene_prior: dsl.Output[dsl.Dataset], uri: str, pretrained: str, seed: int, in_grid: bool
) -> None:
    """Make a vector for each gene of the pretrained model's vocabulary.

    Args:
        gene_prior: the gene prior artifact (format gene-prior/v1).
        uri: none; table:<uri> (safetensors, npz, parquet, .pt) or its bare uri; graph:<uri> of
            gene pairs; annotation:<uri> of genes and terms; esm2:<checkpoint>?fasta=<uri>; scgpt;
            random:<width>; shuffled:<prior>; effects or effects:<uri>; concat(<prior>, ...).
        pretrained: whose vocabulary: a folder or URI with vocab.json, or random://<size>.
        seed: for priors that draw: random and shuffled.
        in_grid: whether a failure is a result, so that the other runs of a grid continue.
    """
    from components.prior.prior import prior as run
    from components.shared.artifacts.artifact import describe
    from components.shared.artifacts.failure import errors_of

    with errors_of("prior", gene_prior.path, in_grid=in_grid):
        run(uri, pretrained, gene_prior.path, seed=seed)
        gene_prior.metadata.update(describe(gene_prior.path))
