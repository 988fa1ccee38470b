"""The measured side of an evaluation: what every prediction of the same cells is compared with."""

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Matrix, digest_of
from components.evaluate.measures.side import Controls, Side, side_of
from components.shared.artifacts.artifact import code_version
from components.shared.storage.digests import sha256_of
from components.shared.storage.downloads import check_writable
from components.shared.telling.errors import say

MANY = 500
"""Perturbations from which cells are multiplied in float32: a correlation of so many energy
distances is moved by 1e-8 (`energy`), one of 50 was moved by 1e-6."""


@dataclass(frozen=True)
class Measured:
    """The measured side, computed once for the model, the baselines and the next model."""

    side: Side
    controls: Controls
    """The measured controls, which are those of a prediction too."""

    @classmethod
    def of(
        cls,
        pair: Pair,
        *,
        threads: int = 0,
        what: str = "measured cells",
        cache: Path | None = None,
    ) -> "Measured":
        """Compute the measured side of ``pair``, or read it from the cache; see `cached_side`."""
        centred = len(pair.perturbations) >= MANY
        # Their own matrix, as large as what is made of it, is let go of here.
        controls = Controls.of(
            pair.measured[pair.rows[pair.control]], centred=centred, threads=threads
        )
        side = cached_side(
            pair, pair.measured, lambda: controls, threads=threads, what=what, cache=cache
        )
        return cls(side, controls)


def cached_side(
    pair: Pair,
    matrix: Matrix,
    controls: Callable[[], Controls],
    *,
    threads: int,
    what: str,
    cache: Path | None = None,
) -> Side:
    """Compute what the metrics need of the cells in ``matrix``, or read it from the cache.

    A file in the cache is named by a digest of all it depends on: values, labels, genes and this
    project's version and revision.

    Args:
        pair: gives the cells' labels and the genes.
        matrix: one of its two sides, [cells, genes].
        controls: makes the side's controls ready, if they are needed.
        threads: CPU threads; 0 = all available.
        what: names the side in the progress bar.
        cache: folder kept between evaluations, None = keep nothing; it must be writable.
    """

    def compute() -> Side:
        return side_of(
            matrix,
            pair.rows,
            pair.control,
            pair.genes,
            controls=controls(),
            threads=threads,
            what=what,
        )

    if cache is None:
        return compute()
    check_writable(cache, f"cache: {cache} cannot be written to", "; give another folder or none")
    # The code itself too, since edits that are not committed share a revision.
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = [*code_version().values(), *map(sha256_of, sources)]
    facts = [*code, pair.control, *pair.genes, digest_of(matrix), *pair.labels]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    return _kept(cache / f"{name[:32]}.npz", compute)


def _kept(file: Path, compute: Callable[[], Side]) -> Side:
    """Return the side in ``file``; where there is none, or a damaged one, compute and keep it."""
    if file.exists():
        try:
            # A zip: checks each part's CRC.
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                return _side({field.name: stored[field.name] for field in fields(Side)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            say(f"evaluate: {file}: damaged ({error}), so computed again")
    side = compute()
    try:
        _keep(side, file)
    except OSError as error:  # the disk is full: what was computed is there all the same
        say(f"evaluate: WARNING: {file} is not kept ({error.strerror or error})")
    return side


def _keep(side: Side, file: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as partial:
        try:
            np.savez(partial, **{field.name: getattr(side, field.name) for field in fields(Side)})
            partial.flush()
            Path(partial.name).rename(file)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise


def _side(stored: dict[str, np.ndarray]) -> Side:
    lists = {name: stored[name].tolist() for name in ("perturbations", "genes")}
    return Side(**(stored | lists | {"control": str(stored["control"])}))
