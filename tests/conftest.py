"""Fixtures every test may ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that others use is slow now and then, which is no fault of what is tested.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real cells, vocabulary and prior tables; the test is skipped where they are absent."""
    folder = Path(os.environ.get("SCGPT_PERTURB_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test data are not at {folder} (set SCGPT_PERTURB_TEST_DATA)")
    return folder
