"""Functions that numba compiles, kept for the next process."""

from contextlib import suppress
from typing import TypeVar

Compiled = TypeVar("Compiled")


def keep_umaps() -> None:
    """Keep the two functions of umap that scanpy's neighbours call, too: 7 s of compilation."""
    from umap import umap_

    for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        kept(function)


def kept(function: Compiled) -> Compiled:
    """Let numba keep what it compiles of ``function`` beside its file or in the user's cache.

    Where neither can be written to, it is compiled in each process, as without this.
    """
    with suppress(RuntimeError):
        function.enable_caching()  # type: ignore[attr-defined]
    return function
