"""How many runs a comparison may have on a cluster: Linux bounds it, and so does Argo.

The numbers are sums over the compiled pipelines; `tests/pipelines/test_sizes.py` makes the sums and
holds the numbers to them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.shared.telling.errors import InputError

ARGUMENT = 128 * 1024
"""Bytes that Linux takes of one argument of a command (MAX_ARG_STRLEN)."""
ARGUMENT_RUN = 1_560
"""Bytes of it for the two artifacts of each run that compare, and then publish-best, takes."""
ARGUMENT_BESIDE = 3_000
"""... and for the rest of what compare takes and makes."""
WORKFLOW = 1024 * 1024
"""Bytes that Argo's object of a workflow may have after compression (MAX_WORKFLOW_SIZE)."""
WORKFLOW_RUN = 29_400
"""Bytes of it for a run whose tasks are not taken from the cache."""
WORKFLOW_REPEAT = 2.3
"""More of them for each letter of the commands that repeat the run."""
WORKFLOW_BESIDE = 121_000
"""... and for everything but the runs: templates, parameters, the tasks before and after."""


def argument_bytes(cells: Sequence[Mapping[str, Any]], repeat: str) -> int:
    """Return the bytes of the longest argument that a comparison makes: what compare takes.

    The ``cells`` of the grid have prior and seed; ``repeat`` are the commands that repeat it all.
    """
    shown = [{"prior": cell["prior"], "seed": cell["seed"]} for cell in cells]
    return ARGUMENT_BESIDE + _bytes(repeat) + _bytes(shown) + ARGUMENT_RUN * len(cells)


def workflow_bytes(cells: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of Argo's object of a comparison of which nothing is in the cache.

    The ``cells`` of the grid have repeat, the commands that make them.
    """
    repeats = sum(_bytes(cell["repeat"]) for cell in cells)
    return WORKFLOW_BESIDE + WORKFLOW_RUN * len(cells) + int(WORKFLOW_REPEAT * repeats)


def check_argument(cells: Sequence[Mapping[str, Any]], repeat: str) -> None:
    """Check that what compare takes of a grid fits into the one argument that KFP makes of it."""
    needed = argument_bytes(cells, repeat)
    if needed > ARGUMENT:
        raise InputError(
            f"priors and seeds: {len(cells)} runs make an argument of {needed} bytes for compare, "
            f"and Linux takes {ARGUMENT}: about {ARGUMENT * len(cells) // needed} runs; give fewer "
            "priors or seeds, or compare them in parts"
        )


def room_in_workflow(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return what to know of a grid that outgrows Argo's object of it; empty if it does not."""
    needed = workflow_bytes(cells)
    if needed <= WORKFLOW:
        return ""
    most = (WORKFLOW - WORKFLOW_BESIDE) * len(cells) // (needed - WORKFLOW_BESIDE)
    return (
        f"{len(cells)} runs make a workflow of {needed} bytes, and Argo's object of it holds "
        f"{WORKFLOW}: about {most} runs that are not in the cache. With node status offloaded "
        "(manifests/README.md, Large comparisons) it holds them all; without, submit the same "
        "again when it stops with 'longer than maximum allowed size': finished runs come from the "
        "cache"
    )


def _bytes(value: Any) -> int:
    return len(json.dumps(value))
