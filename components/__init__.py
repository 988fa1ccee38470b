"""The stages of scgpt-perturb, and what they share."""

__version__ = "0.1.0"
