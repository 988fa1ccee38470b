"""A finished model: a folder that publish wrote, or a model artifact, wherever it lies.

Its `provenance.json` says which files it has and what is in them, so that the copy that is made of
it here is whole. Nothing of torch is needed to look at it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.artifacts.artifact import MODEL, PROVENANCE, PUBLISHED, link_or_copy, writing
from components.shared.artifacts.licences import STATE_LICENCE_FILE
from components.shared.artifacts.settings import settings_of
from components.shared.storage.digests import sha256_of
from components.shared.storage.documents import read_json
from components.shared.storage.downloads import shown
from components.shared.storage.files import fetched_folder, folder_of
from components.shared.telling.errors import InputError

NEEDED = (
    "best_model.pt",
    "args.json",
    "vocab.json",
    "training_stats.json",
    "training_effects.safetensors",
    "confidence.json",
)
BESIDE = (
    "gene_prior.json",
    "beyond_scgpt.safetensors",
    "effects.safetensors",
    STATE_LICENCE_FILE,
)
"""Files that only some models have."""
EXPECTED = "expected the folder that publish wrote, whole, or its URI"
PUBLISHED_AT = "published_at"
"""Key of the summary of a model artifact that was made elsewhere: where from."""


def take_model(uri: str, target: Path | str) -> dict[str, Any]:
    """Make a model artifact of a finished model, and return its summary.

    The URI of a file in the model's folder stands for the folder; a damaged or missing file is
    refused.
    """
    where = shown(uri)
    folder_uri = folder_of(uri, (*NEEDED, *BESIDE, PROVENANCE))
    try:
        with fetched_folder(folder_uri, (PROVENANCE,)) as folder:
            provenance = read_json(folder / PROVENANCE, f"{where}/{PROVENANCE}", EXPECTED)
            form, files = provenance.get("format"), provenance.get("files")
            if form not in (PUBLISHED, MODEL) or not isinstance(files, dict):
                raise InputError(f"{where}: is {str(form)[:60]!r}, not a model")
            digest = sha256_of(folder / PROVENANCE)
    except InputError as error:
        raise InputError(
            f"model: {error}; {EXPECTED} (an scGPT checkpoint has to be fine-tuned first)"
        ) from None
    names = _names(files, where)
    with fetched_folder(folder_uri, (PROVENANCE, *names)) as folder:
        if sha256_of(folder / PROVENANCE) != digest:
            raise InputError(f"{where}: changed while it was read; try again")
        for name in names:
            if sha256_of(folder / name) != files[name]["sha256"]:
                raise InputError(
                    f"{where}/{name}: sha256 is not the one in {PROVENANCE}; the file changed or "
                    "is damaged, fetch or publish it again"
                )
        args, stats = (
            read_json(folder / name, f"{where}/{name}", EXPECTED)
            for name in ("args.json", "training_stats.json")
        )
        settings_of(args, where)
        with writing(target, MODEL, parameters={"model": where}) as draft:
            for name in names:
                link_or_copy(folder / name, draft.path / name)
            draft.summary |= {key: value for key, value in stats.items() if key != "history"}
            draft.summary |= {PUBLISHED_AT: where, "published_sha256": digest}
            return draft.summary


def _names(files: Mapping[str, Any], where: str) -> list[str]:
    for name in NEEDED:
        if name not in files:
            raise InputError(
                f"{where}: has no {name}, which a prediction needs; it was made by another "
                "version, fine-tune and publish again"
            )
    names = [*NEEDED, *(name for name in BESIDE if name in files)]
    if not all(isinstance(files[name], dict) and "sha256" in files[name] for name in names):
        raise InputError(f"{where}/{PROVENANCE}: names no sha256 of its files; {EXPECTED}")
    return names
