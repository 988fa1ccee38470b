"""The error of bad input, where whoever calls a stage from Python expects it."""

from components.shared.telling.errors import InputError

__all__ = ["InputError"]
