"""Artifacts: the data that stages pass to each other."""
