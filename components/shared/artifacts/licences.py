"""On what terms cells, weights and vectors may be used, as far as that can be known.

The one table of them: the prior task, the card and the report all ask here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

UNKNOWN = "unknown: check the source"
SE_600M = (
    "non-commercial: MODEL_LICENSE.md of arcinstitute/SE-600M, by which a model trained with this "
    "prior is a derivative work"
)
CC0, MIT, CC_BY = "CC0-1.0", "MIT", "CC-BY-4.0"
NONE_NEEDED = "none needed"
GENERATED = f"{NONE_NEEDED}: generated"
OPEN = (NONE_NEEDED, GENERATED, CC0, "CC0", MIT, "BSD-3-Clause", "Apache-2.0", CC_BY)
"""Licences of what a model is made with that leave it this project's own, MIT.

By how much they require, least first.
"""

STATE_LICENCE = "MODEL_LICENSE.md"
"""Name of the licence beside the table, as its publisher has it."""
STATE_LICENCE_FILE = "STATE_MODEL_LICENSE.md"
"""Its name in artifacts and in a published folder, where it is not the only licence."""
XAIRA = "CC-BY-NC-SA-4.0: Xaira Therapeutics' licence of X-Atlas and X-Cell"
NONE_DECLARED = "its publisher declares none"

BOUND = {
    "protein_embeddings.pt": SE_600M,
    "se-600m": SE_600M,
    "x-atlas-orion": XAIRA,
    "x-atlas-pisces": XAIRA,
    "xaira-therapeutics": XAIRA,
    # arcinstitute/State-Replogle-Filtered names no licence.
    "state-replogle-filtered": NONE_DECLARED,
    "replogle_concat.h5ad": NONE_DECLARED,
}
"""Licence by the name of a file or of any folder that it lies in, in lower case."""
KNOWN = {
    "gene2go*": CC_BY,  # Gene Ontology
    "goa_human*": CC_BY,
    "stringdb_pairs*": CC_BY,
    "9606.protein.*": CC_BY,  # STRING
    "humap*": CC_BY,
    "reactome*": CC0,
    "hgnc_complete_set*": CC0,
    "esm2_t[0-9]*": MIT,  # the weights
    "scgpt_human*": MIT,
    "uniprotkb_*": CC_BY,
    "up000005640*": CC_BY,  # UniProt's human proteome
}
"""Licence by the name of a table's file, or of a checkpoint's folder, in lower case.

No other part of a path says whose a table is: an owner or a project may be called anything.
"""


@dataclass(frozen=True)
class Source:
    """A file or folder that vectors were made from."""

    kind: str
    source: str
    """Its path or URI, without digest and query."""
    sha256: str
    licence: str


def licence_of(source: str, said: str) -> str:
    """Return the licence of the file or folder at ``source``, a path or URI without its query.

    What `BOUND` knows holds for every copy; else the file's own word, ``said``, goes first.
    """
    if source.startswith(("sim:", "random:")):
        return GENERATED
    path = source.lower().partition("?")[0].rstrip("/")
    if path.startswith("hf:"):
        path = path.partition("@")[0]  # a revision may have slashes
    parts = path.split("/")
    bound = [licence for name, licence in BOUND.items() if name in parts]
    known = [licence for name, licence in KNOWN.items() if fnmatch(parts[-1], name)]
    return next(iter(bound), said.strip()) or next(iter(known), UNKNOWN)


def is_non_commercial(licence: str) -> bool:
    """Return whether a licence says that it forbids commercial use."""
    folded = licence.casefold()
    return re.search(r"non[\s-]?commercial|[\s-]nc\b", folded) is not None


def is_open(licence: str) -> bool:
    """Return whether a licence is one of `OPEN`, in whatever case."""
    return _requires(licence) is not None


def strictest(licences: Iterable[str]) -> str:
    """Return what binds a model that is made with all of ``licences``.

    Of open ones the one that requires most; of others all, those that forbid commercial use first.
    """
    every = list(dict.fromkeys(licences))
    others = [licence for licence in every if not is_open(licence)]
    if others:
        return "; ".join(sorted(others, key=lambda licence: not is_non_commercial(licence)))
    return max(every, key=lambda licence: _requires(licence) or 0, default=NONE_NEEDED)


def _requires(licence: str) -> int | None:
    """Return the place in `OPEN`, None of others."""
    ranks = {one.casefold(): rank for rank, one in enumerate(OPEN)}
    return ranks.get(licence.strip().casefold())
