"""What a model is held against: baselines, the measurement's own halves."""
