"""Terms and citations that a model carries on: of its data, its base weights and its prior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.shared.artifacts import licences
from components.shared.artifacts.licences import SE_600M, is_non_commercial, licence_of
from components.shared.telling.addresses import JOIN, public

SCGPT = (
    "Cui, H. et al. (2024) scGPT: toward building a foundation model for single-cell multi-omics "
    "using generative AI. Nature Methods 21, 1470-1480. https://doi.org/10.1038/s41592-024-02201-0"
)
REPLOGLE = (
    "Replogle, J. M. et al. (2022) Mapping information-rich genotype-phenotype landscapes with "
    "genome-scale Perturb-seq. Cell 185, 2559-2575. https://doi.org/10.1016/j.cell.2022.05.013"
)
NADIG = (
    "Nadig, A. et al. (2025) Transcriptome-wide analysis of differential expression in "
    "perturbation atlases. Nature Genetics 57, 1228-1237. https://doi.org/10.1038/s41588-025-02169-3"
)
STATE = (
    "Adduri, A. et al. (2025) Predicting cellular responses to perturbation across diverse "
    "contexts with State. https://doi.org/10.1101/2025.06.26.661135"
)
CELL_EVAL = f"cell-eval, https://github.com/ArcInstitute/cell-eval; its authors ask to cite {STATE}"
X_ATLAS = (
    "X-Atlas/Orion: Genome-wide Perturb-seq Datasets via a Scalable Fix-Cryopreserve Platform for "
    "Training Dose-Dependent Biological Foundation Models (2025). "
    "https://doi.org/10.1101/2025.06.11.659105"
)
OF_DATA = {
    "state-replogle-filtered": (REPLOGLE, NADIG),
    "replogle_concat.h5ad": (REPLOGLE, NADIG),
    "x-atlas-orion": (X_ATLAS,),
}
"""Who is cited for cells, by a part of where they are from, in lower case."""


@dataclass(frozen=True)
class Terms:
    """Terms of one thing that a model was made with."""

    what: str
    source: str
    licence: str


def terms_of(source: str, stats: Mapping[str, Any]) -> list[Terms]:
    """Return the terms of the cells, of the base weights and of all that the prior was made of.

    ``source`` is where the cells are from, several joined by `JOIN`, empty = not known.
    """
    found = [Terms("data", public(one), licence_of(one, "")) for one in _split(source)]
    base = str(stats["pretrained"])
    found.append(Terms("base weights", public(base), licence_of(base, "")))
    found += [
        Terms("prior", public(one["source"]), str(one["licence"]))
        for one in stats["prior"].get("sources", ())
        if one["source"]
    ]
    return found


def citations_of(source: str, terms: Sequence[Terms]) -> list[str]:
    """Return what to cite: scGPT, cell-eval and who made the data and the prior."""
    found = [SCGPT, CELL_EVAL]
    parts = {part for one in _split(source) for part in one.lower().partition("@")[0].split("/")}
    found += [text for name, texts in OF_DATA.items() if name in parts for text in texts]
    found += [STATE] if any(one.licence == SE_600M for one in terms) else []
    return list(dict.fromkeys(found))


def notice_of(terms: Sequence[Terms], files: Sequence[str]) -> list[str]:
    """Return what has to stand first on the card of a model that others' terms bind."""
    if any(one.licence == SE_600M for one in terms):
        return [
            "This model is governed by the Arc Research Institute State Model Non-Commercial "
            "License: it was made with gene embeddings of State (SE-600M) as a prior, which that "
            "licence names a derivative work. It may be used and passed on for non-commercial "
            "purposes alone. Research, development or education that a commercial entity engages "
            "in or sponsors is not a non-commercial purpose, whoever does it.",
            f"Licence: `{licences.STATE_LICENCE_FILE}` in this folder."
            if licences.STATE_LICENCE_FILE in files
            else "Before you pass it on, put a complete, unaltered copy of MODEL_LICENSE.md of "
            "https://huggingface.co/arcinstitute/SE-600M into this folder, as the licence asks.",
            f"Cite: {STATE}",
        ]
    bound = [one for one in terms if is_non_commercial(one.licence)]
    return [f"Not for commercial use: made with {one.source} ({one.licence})." for one in bound]


def binding(terms: Sequence[Terms]) -> str:
    """Return the licence that forbids commercial use of what was made, empty if none does."""
    return next((one.licence for one in terms if is_non_commercial(one.licence)), "")


def _split(source: str) -> list[str]:
    return source.split(JOIN) if source else []
