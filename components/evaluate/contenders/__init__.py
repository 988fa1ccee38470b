"""What a model is compared with: baselines, the measurement's own halves."""
