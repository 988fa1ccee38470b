"""Competitors of a model: baselines, the measurement's own halves."""
