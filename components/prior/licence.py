"""On what terms a table of gene vectors may be used, as far as that can be known."""

UNKNOWN = "unknown: check the source"
SE_600M = (
    "non-commercial: MODEL_LICENSE.md of arcinstitute/SE-600M, by which a model trained with this "
    "prior is a derivative work"
)
KNOWN = {"protein_embeddings.pt": SE_600M}
"""Licence by file name, wherever a copy of it may lie."""


def licence_of(source: str, said: str) -> str:
    """Return the licence of the table at ``source``.

    Args:
        source: its path or URI, without digest or query.
        said: what the file's own metadata says, if anything.
    """
    parts = [part.partition("@")[0].partition("?")[0].lower() for part in source.split("/")]
    known = next((KNOWN[part] for part in parts if part in KNOWN), "")
    return known or said.strip() or UNKNOWN
