"""The total that all cells are normalised to: as requested, or the controls' median depth.

Ten thousand counts are a tenth to a whole of what a cell has over all genes. Of a panel of hundreds
of genes it has a few hundred, and brought to ten thousand one molecule becomes many.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.ingest.joined_files import Part
from components.ingest.normalise import ValueCheck
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, read_target_sum
from components.shared.telling.errors import InputError


def brought_to(
    parts: Sequence[Part], target_sum: str | float, checker: Callable[[Part], ValueCheck]
) -> tuple[list[Part], int]:
    """Return the parts with what their cells are to be brought to, and that total.

    The median is over the control cells of all files: what a perturbation does to the depth of its
    cells must not move it, and a data set of controls alone has one.

    Raises:
        InputError: the option is none, or the cells do not tell their depth.
    """
    asked = read_target_sum(target_sum)
    if any(not part.found.how for part in parts):
        return list(parts), USUAL  # values that cannot be, which reading refuses by name
    total = _median(parts, checker) if asked is None else asked
    for part in parts:
        if total != USUAL and part.found.lenient:
            raise InputError(
                f"{part.source.name}: {TARGET_SUM}={total} needs to know what X is, and expression "
                "log1p alone keeps it as it is; set scale, as in scale: log1p_cp10k"
            )
    return [replace(part, found=replace(part.found, target=float(total))) for part in parts], total


def _median(parts: Sequence[Part], checker: Callable[[Part], ValueCheck]) -> int:
    totals: list[NDArray[np.float64]] = []
    for part in parts:
        found = part.found
        if found.scale.total is not None or found.scale.factors or found.lenient:
            raise InputError(
                f"{part.source.name}: {TARGET_SUM}=median needs the cells' raw counts, and X is "
                f"{found.scale.said}; give raw counts (a layer, or layer: raw), or a number"
            )
        kept = part.labels.kept.copy()
        kept[kept] = part.labels.obs["is_control"].to_numpy(bool)
        check = checker(part)
        for rows, block in part.source.blocks(kept):
            check(rows, block)
            totals.append(found.totals(block))
    every = np.concatenate([np.zeros(0), *totals])
    every = every[every > 0]
    if not len(every):
        raise InputError(
            f"{parts[0].source.name}: {TARGET_SUM}=median needs control cells with counts, and "
            "there are none; give a number"
        )
    return max(1, round(float(np.median(every))))
