"""Genes embedded by what they share, partners or terms: truncated SVD of a sparse matrix.

Both embeddings end in rows of length sqrt(width), so that an entry is about 1 as in a random prior.
The order of the table's rows changes nothing.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, identity
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from components.shared.telling.errors import InputError

PASSES = 10
"""Power iterations of the randomised SVD (Halko 2011): the spectra here fall slowly."""
NOISE = 1e-6
"""A row this much shorter than the longest is rounding: nothing is known of its gene."""


Embedding = tuple[list[str], NDArray[np.float32], dict[str, int]]
"""Genes; their vectors [genes, width], a row of zeros where the leading dimensions say nothing of
the gene; counts for `prior.json`."""


def embed_graph(left: list[str], right: list[str], width: int, name: str) -> Embedding:
    """Embed genes by their partners in a list of pairs; messages call the list ``name``.

    The SVD is that of (D+1)^-1/2 (A+I) (D+1)^-1/2: A the symmetric adjacency, each pair once, D the
    degrees in A+I. Without the 1, every small group of genes apart from the rest has a singular
    value of 1 as the whole graph has, and such groups take up the width (regularised spectral
    clustering: Chaudhuri 2012, Qin and Rohe 2013).
    """
    genes, numbers = np.unique(np.array([left, right]), return_inverse=True)
    first, second = numbers.reshape(2, -1)
    kept = first != second
    n = len(genes)
    pairs = csr_matrix((np.ones(kept.sum()), (first[kept], second[kept])), shape=(n, n))
    adjacency = ((pairs + pairs.T) > 0).astype(np.float64)
    matrix = adjacency + identity(n, format="csr")
    scale = diags(1 / np.sqrt(np.asarray(matrix.sum(axis=1)).ravel() + 1))
    vectors = _reduced((scale @ matrix @ scale).tocsr(), width, name)
    # A gene that was only ever paired with itself.
    vectors[np.asarray(adjacency.sum(axis=1)).ravel() == 0] = 0
    return genes.tolist(), vectors, {"pairs": adjacency.nnz // 2}


def embed_annotation(genes: list[str], terms: list[str], width: int, name: str) -> Embedding:
    """Embed genes by their terms; messages call the table ``name``.

    The SVD is that of the gene-term matrix, each term of a gene once, weighted by tf-idf, so that a
    rare term says more than one that thousands share, with rows of length 1 (latent semantic
    analysis, Deerwester 1990).
    """
    rows, of_row = np.unique(np.array(genes), return_inverse=True)
    columns, of_column = np.unique(np.array(terms), return_inverse=True)
    counts = csr_matrix(
        (np.ones(len(of_row)), (of_row, of_column)), shape=(len(rows), len(columns))
    )
    matrix = TfidfTransformer().fit_transform((counts > 0).astype(np.float64))
    facts = {"terms": len(columns), "annotations": matrix.nnz}
    return rows.tolist(), _reduced(matrix, width, name), facts


def _reduced(matrix: csr_matrix, width: int, name: str) -> NDArray[np.float32]:
    if width >= min(matrix.shape):
        raise InputError(
            f"{name}: {matrix.shape[0]} genes by {matrix.shape[1]} columns are too few for "
            f"{width} dimensions; give a smaller ?width="
        )
    # Seeded by itself and not by the run's seed: a run's seed shall not change what a graph says.
    svd = TruncatedSVD(width, n_iter=PASSES, random_state=0)
    vectors = svd.fit_transform(matrix)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = lengths > NOISE * lengths.max()
    scaled = np.where(known, vectors * np.sqrt(width) / np.maximum(lengths, 1e-300), 0)
    return scaled.astype(np.float32)
