"""The outcome of a run, in words and with its certainty."""
