"""The parameters of a run, checked before it starts."""
