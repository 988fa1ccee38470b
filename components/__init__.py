"""The stages of scgpt-perturb, and what they share."""

import os
from pathlib import Path

__version__ = "0.1.0"

try:
    Path.home()
except RuntimeError:
    # A user without a home or a name, as pods may have. Matplotlib, for one, fails on that, but
    # finds another place where the home that is named cannot be written.
    os.environ["HOME"] = os.devnull
