"""Fixtures every test may ask for."""

import gc
import inspect
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says how busy the machine is, not whether the program is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Only the tests of tracking keep runs of Weights & Biases, each in a process that imports it anew.
os.environ["WANDB_MODE"] = "disabled"

# KFP asks who called it whenever a task is given something; to tell the lines of code around each
# call as well, which it does not look at, takes a second a pipeline with so many modules.
inspect.stack = partial(inspect.stack, 0)

# What a shell starts in the background ignores Ctrl-C, and so do the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real cells, vocabulary and prior tables; the test is skipped where they are absent."""
    folder = Path(os.environ.get("SCGPT_PERTURB_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test data are not at {folder} (set SCGPT_PERTURB_TEST_DATA)")
    return folder


def pytest_collection_finish() -> None:
    """Keep what was imported out of the passes of the garbage collector, some of which are long."""
    gc.collect()
    gc.freeze()
